"""The decoder process: one untrusted audio file in, PCM on stdout, under resource limits.

`python -m gateway.decoder FILE` writes one JSON line {sample_rate_hz, channels, encoding,
duration_s} and then mono s16le samples at the file's own rate (the gateway resamples). Memory does
not grow with the file. With PyAV the usual formats work (_FORMATS: wav, flac, mp3, m4a, ogg, webm,
the sound of a video); without it, PCM WAV does. A file that cannot be read is one line on stderr
and exit 2; one that is larger or longer than allowed, exit 3.

`-` is a container that is still being recorded, on a pipe: little is read ahead, every block is
written at once, and whatever is torn off at its end is no error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import stat
import sys
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

# OpenBLAS reserves address space for a thread on every core, which counts against RLIMIT_AS; the
# decoder does no linear algebra.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

EXIT_BAD_FILE = 2
EXIT_TOO_LARGE = 3
LIVE = "-"
MEMORY_LIMIT_BYTES = 2 << 30  # address space, libraries included
CPU_LIMIT_S = 3600
OPEN_FILES_LIMIT = 64
WAV_BLOCK_SAMPLES = 16_384
# A demuxer may ask for hours of silence between two packets of a broken file.
MAX_RATE_HZ = 192_000
MIN_RATE_HZ = 8_000
# What FFmpeg may take a file for; it looks at the content, not at the name. All of these have their
# audio in themselves. A list of files (ffconcat, HLS, DASH) would have us open what it names.
_FORMATS = (
    "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,aiff,au,caf,"
    "mpegts,mpeg,avi,asf,flv,amr,ac3,eac3,dts,wv"
)
_FILE_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
# FFmpeg would read up to 5 MB and 5 s ahead to learn what a header already says. (A PCM WAV is
# still heard 64 KiB late: its reader looks that far for compressed audio in disguise.)
_LIVE_OPTIONS = {
    "protocol_whitelist": "pipe",
    "format_whitelist": _FORMATS,
    "probesize": "4096",
    "analyzeduration": "100000",  # microseconds
}

Samples = npt.NDArray[np.int16]


class DecodeError(Exception):
    """The file cannot be decoded; the text is for the person who gave it."""

    exit_status = EXIT_BAD_FILE


class TooLargeError(DecodeError):
    """The file is larger or longer than this process may decode."""

    exit_status = EXIT_TOO_LARGE


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file being read: its rate, its length if it says so, and mono blocks."""

    sample_rate_hz: int
    duration_s: float | None
    blocks: Iterator[Samples]
    is_live: bool = False  # blocks come as they are recorded


def limit_resources() -> None:
    """What this process may still use; a file cannot lift these."""
    limits = [
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CPU, CPU_LIMIT_S),
        (resource.RLIMIT_NOFILE, OPEN_FILES_LIMIT),
        (resource.RLIMIT_CORE, 0),
    ]
    if not stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
        limits.append((resource.RLIMIT_FSIZE, 0))  # the output is a pipe: no file need grow
    for which, limit in limits:
        _, hard = resource.getrlimit(which)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(which, (value, value))


def downmix(samples: Samples) -> Samples:
    """(T, C) s16 samples to (T,) s16 by the mean of the channels."""
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0], dtype=np.int16)
    mean = np.rint(samples.astype(np.int32).sum(axis=1) / samples.shape[1])
    mono: Samples = mean.astype(np.int16)
    return mono


def open_wav(path: str) -> Decoded:
    """PCM WAV by the standard library. Raises DecodeError."""
    try:
        wav = wave.open(path, "rb")  # noqa: SIM115  (read lazily, closed with the process)
    except (wave.Error, EOFError) as error:
        raise DecodeError(
            f"not a PCM WAV file ({error}); for other formats: pip install 'earwire[files]'"
        ) from None
    if wav.getsampwidth() not in (1, 2, 4):
        raise DecodeError(
            f"{8 * wav.getsampwidth()}-bit WAV needs PyAV: pip install 'earwire[files]'"
        )
    return Decoded(wav.getframerate(), _wav_duration_s(wav, path), _wav_blocks(wav))


def _wav_duration_s(wav: wave.Wave_read, path: str) -> float | None:
    """None when more is promised than is there: a recorder that wrote no end, or a pipe."""
    num_bytes = wav.getnframes() * wav.getsampwidth() * wav.getnchannels()
    return None if num_bytes > os.path.getsize(path) else wav.getnframes() / wav.getframerate()


def _wav_blocks(wav: wave.Wave_read) -> Iterator[Samples]:
    width, channels = wav.getsampwidth(), wav.getnchannels()
    while data := wav.readframes(WAV_BLOCK_SAMPLES):
        whole = len(data) // (width * channels) * width * channels
        if width == 1:
            flat = (np.frombuffer(data[:whole], np.uint8).astype(np.int16) - 128) << 8
        elif width == 2:
            flat = np.frombuffer(data[:whole], "<i2")
        else:
            flat = (np.frombuffer(data[:whole], "<i4") >> 16).astype(np.int16)
        yield downmix(flat.reshape(-1, channels))


def open_any(av: Any, path: str) -> Decoded:
    """The first audio stream of whatever PyAV opens. Raises DecodeError."""
    is_live = path == LIVE
    # Only this file: it must not make us open other files or sockets.
    options = _LIVE_OPTIONS if is_live else _FILE_OPTIONS
    try:
        container = av.open("pipe:0" if is_live else path, mode="r", options=options)
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"not an audio file that can be read: {_reason(error)}") from None
    if not container.streams.audio:
        raise DecodeError("the file has no audio in it")
    stream = container.streams.audio[0]
    if not stream.rate:
        raise DecodeError("the audio has no sample rate")
    duration_s = None if is_live else _duration_s(av, container, stream)
    blocks = _checked(av, _av_blocks(av, container, stream), is_live)
    return Decoded(int(stream.rate), duration_s, blocks, is_live)


def _duration_s(av: Any, container: Any, stream: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return float(container.duration / av.time_base)
    return None


def _checked(av: Any, blocks: Iterator[Samples], is_live: bool) -> Iterator[Samples]:
    has_output = False
    try:
        for block in blocks:
            yield block
            has_output = True
    except (av.error.FFmpegError, ValueError) as error:
        if not (is_live and has_output):  # a recording that was just stopped has no proper end
            raise DecodeError(f"cannot be decoded to its end: {_reason(error)}") from None


def _av_blocks(av: Any, container: Any, stream: Any) -> Iterator[Samples]:
    # Packed s16 in the file's own layout: libswresample converts the sample format and nothing
    # else; the channels are averaged here, because its own downmix weights them.
    resampler = av.AudioResampler(format="s16", layout=stream.layout, rate=stream.rate)
    num_channels = stream.channels
    num_bad = num_good = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            num_bad += 1  # players skip a broken packet too
            continue
        for frame in frames:
            num_good += 1
            frame.pts = None  # gaps in time stamps are not filled with silence
            for packed in resampler.resample(frame):
                yield downmix(packed.to_ndarray().reshape(-1, num_channels))
    for packed in resampler.resample(None):
        yield downmix(packed.to_ndarray().reshape(-1, num_channels))
    if num_bad and not num_good:
        raise DecodeError("no packet of the audio could be decoded")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def open_file(path: str) -> Decoded:
    """PyAV when it is installed, else WAV. Raises DecodeError or OSError."""
    if path != LIVE:
        with open(path, "rb"):  # a missing or unreadable file has a better message here
            pass
    try:
        import av
        import av.error
    except ImportError:
        decoded = open_wav("/dev/stdin" if path == LIVE else path)
    else:
        av.logging.set_level(av.logging.PANIC)
        decoded = open_any(av, path)
    if not MIN_RATE_HZ <= decoded.sample_rate_hz <= MAX_RATE_HZ:
        raise DecodeError(
            f"sample rate {decoded.sample_rate_hz} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ}"
        )
    return decoded


def write_pcm(decoded: Decoded, out: BinaryIO, max_seconds: float) -> None:
    """Header line, then samples. Raises TooLargeError past `max_seconds`."""
    header = {
        "sample_rate_hz": decoded.sample_rate_hz,
        "channels": 1,
        "encoding": "pcm_s16le",
        "duration_s": decoded.duration_s,
    }
    out.write(json.dumps(header).encode() + b"\n")
    out.flush()
    left = max_seconds * decoded.sample_rate_hz  # may be infinite
    for block in decoded.blocks:
        out.write(block[: int(min(left, len(block)))].astype("<i2").tobytes())
        left -= len(block)
        if decoded.is_live or left < 0:
            out.flush()
        if left < 0:
            raise TooLargeError(f"longer than the limit of {max_seconds:g} s; the rest is cut off")
    out.flush()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.decoder", description=__doc__)
    parser.add_argument("file", help=f"a path, or {LIVE} for a recording on stdin as it comes")
    parser.add_argument("--max-seconds", type=float, default=24 * 3600.0, help="of audio, or inf")
    parser.add_argument("--max-bytes", type=int, default=4 << 30, help="of the file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 or 3 with one line on stderr."""
    options = _parse(argv)
    path = options.file
    try:
        limit_resources()
        if path != LIVE and os.path.getsize(path) > options.max_bytes:
            raise TooLargeError(f"larger than the limit of {options.max_bytes} bytes")
        write_pcm(open_file(path), sys.stdout.buffer, options.max_seconds)
    except BrokenPipeError:  # the reader has enough; do not let Python flush into the void
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DecodeError, OSError, MemoryError) as error:
        reason = "needs too much memory" if isinstance(error, MemoryError) else _reason(error)
        print(f"{path}: {reason}", file=sys.stderr)
        return error.exit_status if isinstance(error, DecodeError) else EXIT_BAD_FILE
    return 0


if __name__ == "__main__":
    sys.exit(main())
