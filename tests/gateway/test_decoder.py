"""The decoder process: every format, hostile files, limits. Files are made here by PyAV."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gateway.decoder import DecodeError, downmix, open_wav
from gateway.dialects.raw_audio import Coding
from gateway.dialects.wav_header import wav_header

from .media import TONE_HZ, encode, tone, write_wav

av = pytest.importorskip("av")


def decode(path: Path, *options: str) -> tuple[dict[str, Any], npt.NDArray[np.int16], str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.decoder", *options, str(path)], capture_output=True
    )
    header, _, pcm = done.stdout.partition(b"\n")
    samples = np.frombuffer(pcm, "<i2")
    return json.loads(header or b"{}"), samples, done.stderr.decode(), done.returncode


def strongest_hz(samples: npt.NDArray[np.int16], rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout"),
    [
        ("a.flac", "flac", 16_000, "mono"),
        ("a.mp3", "libmp3lame", 44_100, "stereo"),
        ("a.m4a", "aac", 48_000, "stereo"),
        ("a.ogg", "libopus", 48_000, "mono"),
        ("a.webm", "libopus", 48_000, "stereo"),
        ("video.mp4", "aac", 44_100, "stereo"),
        ("wide.wav", "pcm_s24le", 44_100, "stereo"),
        ("float.wav", "pcm_f32le", 22_050, "mono"),
        ("a.w64", "pcm_s16le", 44_100, "mono"),
        ("a.aac", "aac", 44_100, "mono"),
        ("a.aiff", "pcm_s16be", 44_100, "mono"),
        ("a.au", "pcm_s16be", 44_100, "mono"),
        ("a.caf", "pcm_s16le", 44_100, "mono"),
        ("a.mka", "libopus", 48_000, "mono"),
        ("a.ts", "aac", 44_100, "mono"),
        ("a.mpg", "mp2", 44_100, "mono"),
        ("a.avi", "libmp3lame", 44_100, "mono"),
        ("a.asf", "libmp3lame", 44_100, "mono"),
        ("a.ac3", "ac3", 44_100, "mono"),
    ],
)
def test_containers_come_out_as_mono_at_their_own_rate(
    tmp_path: Path, name: str, codec: str, rate_hz: int, layout: str
) -> None:
    path = encode(tmp_path / name, codec, rate_hz, layout, with_video=name == "video.mp4")
    header, samples, error, status = decode(path)
    assert (status, error) == (0, "")
    assert header["sample_rate_hz"] == rate_hz
    assert header["channels"] == 1
    assert header["encoding"] == "pcm_s16le"
    assert header["duration_s"] == pytest.approx(1.0, abs=0.1)
    assert len(samples) == pytest.approx(rate_hz, rel=0.1)
    assert strongest_hz(samples, rate_hz) == pytest.approx(TONE_HZ, abs=2)


def test_pcm_wav_is_exact(tmp_path: Path) -> None:
    samples = tone(8_000)
    header, decoded, _, status = decode(write_wav(tmp_path / "a.wav", samples, 8_000))
    assert status == 0
    assert header["duration_s"] == 1.0
    assert np.array_equal(decoded, samples)


def test_channels_are_averaged() -> None:
    stereo = np.array([[100, 200], [-32768, -32768], [32767, 32766]], np.int16)
    assert downmix(stereo).tolist() == [150, -32768, 32766]


@pytest.mark.parametrize(("width", "kind"), [(1, np.uint8), (2, np.int16), (4, np.int32)])
def test_wav_without_pyav(tmp_path: Path, width: int, kind: type[np.integer[Any]]) -> None:
    offset = 128 if width == 1 else 0
    scale = {1: 1 << 8, 2: 1, 4: 1}[width]
    mono = tone(8_000, 0.5)
    values = ((mono.astype(np.int64) << 16 if width == 4 else mono // scale) + offset).astype(kind)
    stereo = np.repeat(values, 2)
    decoded = open_wav(str(write_wav(tmp_path / "a.wav", stereo, 8_000, 2, width)))
    samples = np.concatenate(list(decoded.blocks))
    assert decoded.sample_rate_hz == 8_000
    assert decoded.duration_s == 0.5
    assert np.abs(samples.astype(int) - mono).max() <= (255 if width == 1 else 0)


def test_a_wav_of_unknown_length_without_pyav(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(Coding.LINEAR16, 8_000, 1) + tone(8_000).tobytes())
    decoded = open_wav(str(path))
    assert decoded.duration_s is None
    assert np.array_equal(np.concatenate(list(decoded.blocks)), tone(8_000))


def test_other_formats_without_pyav_name_the_extra(tmp_path: Path) -> None:
    junk = tmp_path / "a.mp3"
    junk.write_bytes(b"ID3 and so on" * 100)
    with pytest.raises(DecodeError, match=r"pip install 'earwire\[files\]'"):
        open_wav(str(junk))
    with pytest.raises(DecodeError, match="24-bit"):
        open_wav(str(write_wav(tmp_path / "a.wav", np.zeros(30, np.uint8), 8_000, 1, 3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an audio file"),
        (b"\x00\xff" * 3000, "not an audio file"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "not an audio file"),
    ],
)
def test_files_that_are_not_audio(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    header, samples, error, status = decode(path)
    assert status == 2
    assert (header, len(samples)) == ({}, 0)
    assert error.startswith(f"{path}: {message}")
    assert error.count("\n") == 1


def test_a_list_of_files_opens_none_of_them(tmp_path: Path) -> None:
    """FFmpeg tells formats by their content, whatever a file is called."""
    write_wav(tmp_path / "secret.wav", tone(8_000), 8_000)
    path = tmp_path / "a.mp3"
    path.write_bytes(b"ffconcat version 1.0\nfile secret.wav\n")
    header, samples, error, status = decode(path)
    assert (header, len(samples), status) == ({}, 0, 2)
    assert error.startswith(f"{path}: not an audio file")


def test_a_list_of_files_opens_no_device_and_no_descriptor(tmp_path: Path) -> None:
    """Uploads are read from /dev/stdin: what is beside them is /dev, with fd/ and shm/ in it."""
    path = write_wav(tmp_path / "secret.wav", tone(8_000), 8_000)
    with path.open("rb") as secret, (tmp_path / "list").open("wb+") as upload:
        upload.write(f"ffconcat version 1.0\nfile fd/{secret.fileno()}\n".encode())
        upload.seek(0)
        done = subprocess.run(
            [sys.executable, "-m", "gateway.decoder", "/dev/stdin"],
            stdin=upload,
            capture_output=True,
            pass_fds=[secret.fileno()],
        )
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_torn_file_gives_what_is_there(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp3", "libmp3lame", 44_100, "mono")
    torn = tmp_path / "torn.mp3"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _, samples, _, _ = decode(torn)
    assert 10_000 < len(samples) < 44_100


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert "No such file" in decode(tmp_path / "none.wav")[2]
    assert "Is a directory" in decode(tmp_path)[2]


def test_the_sound_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        container.mux([*video.encode(av.VideoFrame(64, 64, "yuv420p")), *video.encode(None)])
    assert "has no audio" in decode(path)[2]


def test_caps_on_length_and_size(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(8_000, 2.0), 8_000)
    _, samples, error, status = decode(path, "--max-seconds=1")
    assert (len(samples), status) == (8_000, 3)
    assert "longer than the limit of 1 s" in error
    _, samples, error, status = decode(path, "--max-bytes=1000")
    assert (len(samples), status) == (0, 3)
    assert "larger than the limit" in error


def test_rates_outside_the_protocols_limits(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(4_000), 4_000)
    assert "sample rate 4000 Hz is outside" in decode(path)[2]


def test_the_process_limits_itself() -> None:
    script = (
        "import resource, gateway.decoder as d; d.limit_resources();"
        "print([resource.getrlimit(getattr(resource, 'RLIMIT_' + n))[0]"
        " for n in ('AS', 'FSIZE', 'CORE', 'NOFILE')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    address_space, *others = json.loads(done.stdout)
    assert 0 < address_space <= 2 << 30
    assert others == [0, 0, 64]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0  # this process is not concerned


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(48_000, 20.0), 48_000)
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.decoder", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(100)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


# --- recordings that are still being made --------------------------------------------------


def live(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *(command or ("-m", "gateway.decoder", "-"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(("name", "codec"), [("a.ogg", "libopus"), ("a.webm", "libopus")])
def test_a_recording_is_heard_before_it_ends(tmp_path: Path, name: str, codec: str) -> None:
    data = encode(tmp_path / name, codec, 48_000, "mono", seconds=4.0).read_bytes()
    with live() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()
        header = json.loads(process.stdout.readline())
        assert (header["sample_rate_hz"], header["duration_s"]) == (48_000, None)
        assert len(process.stdout.read(48_000)) == 48_000
        rest, error = process.communicate(data[len(data) // 2 :])
        assert (process.returncode, error) == (0, b"")
        assert len(rest) == pytest.approx(4 * 96_000 - 48_000, rel=0.02)


def test_a_recording_may_be_torn_off_anywhere(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.webm", "libopus", 48_000, "mono", seconds=2.0).read_bytes()
    with live() as process:
        out, error = process.communicate(data[: len(data) * 2 // 3])
    assert (process.returncode, error) == (0, b"")
    assert len(out) > 96_000


@pytest.mark.parametrize("data", [b"", b"OggS", bytes(10_000)])
def test_a_recording_of_nothing_that_can_be_read(data: bytes) -> None:
    with live() as process:
        out, error = process.communicate(data)
    assert (process.returncode, out) == (2, b"")
    assert error.startswith(b"-: not an audio file")


def test_a_recording_in_a_format_that_is_not_listed(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.tta", "tta", 48_000, "mono").read_bytes()
    with live() as process:
        out, error = process.communicate(data)
    assert (process.returncode, out) == (2, b"")
    assert error.startswith(b"-: not an audio file")


def test_a_wav_recording_without_pyav(tmp_path: Path) -> None:
    samples = tone(8_000, 3.0)
    data = write_wav(tmp_path / "a.wav", samples, 8_000).read_bytes()
    script = "import sys; sys.modules['av'] = None; from gateway.decoder import main; main(['-'])"
    with live("-c", script) as process:
        out, error = process.communicate(data)
    assert error == b""
    assert np.array_equal(np.frombuffer(out.partition(b"\n")[2], "<i2"), samples)
