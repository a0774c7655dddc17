"""Files that were made to hurt whoever opens them, by name. Small; none is kept in the tree."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np

from . import audio
from .every_api import wav_of

SECRET_FILE = "/etc/passwd"
BOMB_SECONDS = 600
BOMB_RATE_HZ = 16_000


def truncated() -> dict[str, bytes]:
    """Real recordings whose end is missing: what is there may be transcribed."""
    speech = audio.short_clip()
    wav = wav_of(speech)
    ogg = encoded("ogg", "libopus", 48_000)
    return {
        "half a wav": wav[: len(wav) // 2],
        "half an ogg": ogg[: len(ogg) // 2],
        "a wav that says it is endless": wav[:40] + b"\xff\xff\xff\xff" + wav[44:],
    }


def broken() -> dict[str, bytes]:
    """What no audio can be taken from."""
    mp4 = encoded("mp4", "aac", 44_100)
    return {
        "an mp4 without its index": mp4[: mp4.index(b"moov") - 4],
        "a wav of four billion hertz": wav_head(channels=1, rate_hz=2**32 - 1),
        "a wav of 65,535 channels": wav_head(channels=65_535, rate_hz=16_000),
        "a wav of no channels": wav_head(channels=0, rate_hz=16_000),
        "a playlist": f"#EXTM3U\n#EXTINF:10,\nfile://{SECRET_FILE}\n#EXT-X-ENDLIST\n".encode(),
        "a playlist of the network": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n",
        "a list of files": f"ffconcat version 1.0\nfile {SECRET_FILE}\n".encode(),
        "a list of descriptors": b"ffconcat version 1.0\nfile fd/0\nfile fd/1\n",
        "a manifest": DASH % SECRET_FILE.encode(),
        "a session description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\n"
        b"t=0 0\nm=audio 5004 RTP/AVP 0\n",
        "a gzip bomb": gzip.compress(bytes(4_000_000)),
        "zeros": bytes(1_000_000),
        "noise": np.random.default_rng(5).bytes(1_000_000),
        "ogg pages of nothing": b"OggS" * 100_000,
        "matroska of nothing": b"\x1a\x45\xdf\xa3" + b"\xff" * 100_000,
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1_000),
    }


def bomb() -> bytes:
    """Ten minutes of silence in some 100 KB of FLAC, which cannot be told from its size."""
    return encoded("flac", "flac", BOMB_RATE_HZ, np.zeros(BOMB_SECONDS * BOMB_RATE_HZ, np.int16))


DASH = (
    b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    b'<AdaptationSet mimeType="audio/mp4"><Representation id="a" bandwidth="1">'
    b"<BaseURL>file://%s</BaseURL></Representation></AdaptationSet></Period></MPD>"
)


def wav_head(channels: int, rate_hz: int) -> bytes:
    """A wav whose format nobody can have recorded, and 100 KB of samples."""
    align = 2 * channels % 65_536
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * align % 2**32, align, 16)
    data = bytes(100_000)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def encoded(
    container: str, codec: str, rate_hz: int, samples: audio.Samples | None = None
) -> bytes:
    """The short clip, or these samples, by PyAV."""
    import av

    out = io.BytesIO()
    data = audio.at_rate(rate_hz) if samples is None else samples
    with av.open(out, "w", format=container) as writer:
        stream = writer.add_stream(codec, rate=rate_hz, layout="mono")
        block = 10 * rate_hz
        for start in range(0, len(data), block):
            piece = data[start : start + block].reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate = rate_hz
            frame.pts = start
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    return out.getvalue()
