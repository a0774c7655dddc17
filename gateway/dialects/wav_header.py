"""The head of a WAV file of unknown length, for audio that came without any. Pure.

With it a decoder process reads headerless audio as it reads any other file.
"""

from __future__ import annotations

import struct

from .raw_audio import Coding

#  0 "RIFF" | 4 size | 8 "WAVE"
# 12 "fmt " | 16 size of what follows: 16
# 20 format u16 | 22 channels u16 | 24 rate u32 | 28 bytes a second u32
# 32 bytes a frame u16 | 34 bits a sample u16
# 36 "data" | 40 size
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_UNKNOWN_SIZE = 0xFFFFFFFF
_FORMATS = {  # format tag, bits a sample
    Coding.LINEAR16: (1, 16),
    Coding.LINEAR32: (3, 32),
    Coding.ALAW: (6, 8),
    Coding.ULAW: (7, 8),
}


def wav_header(coding: Coding, sample_rate_hz: int, channels: int) -> bytes:
    """Everything before the samples."""
    tag, bits = _FORMATS[coding]
    frame_bytes = bits // 8 * channels
    return _HEADER.pack(
        b"RIFF", _UNKNOWN_SIZE, b"WAVE", b"fmt ", 16, tag, channels, sample_rate_hz,
        sample_rate_hz * frame_bytes, frame_bytes, bits, b"data", _UNKNOWN_SIZE,
    )  # fmt: skip
