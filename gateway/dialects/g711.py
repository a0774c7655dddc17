"""G.711 telephony audio (u-law, A-law) as 16-bit PCM.

Pure. Each byte is one sample, so a stream may be cut anywhere. The two bytes of each PCM sample
come from two tables of 256 bytes and are interleaved by slice assignment: no loop over samples.
The dialects whose clients send telephone audio call it.
"""

from __future__ import annotations

_EXPONENT_SHIFT = 4
_MANTISSA_MASK = 0x0F
_SEGMENT_MASK = 0x07
_SIGN_BIT = 0x80
_ULAW_BIAS = 0x84
_ALAW_TOGGLE = 0x55  # every other bit of an A-law byte travels inverted


def _ulaw_sample(code: int) -> int:
    code = ~code & 0xFF  # all bits of a u-law byte travel inverted
    mantissa = code & _MANTISSA_MASK
    segment = code >> _EXPONENT_SHIFT & _SEGMENT_MASK
    magnitude = (((mantissa << 3) + _ULAW_BIAS) << segment) - _ULAW_BIAS
    return -magnitude if code & _SIGN_BIT else magnitude


def _alaw_sample(code: int) -> int:
    code ^= _ALAW_TOGGLE
    mantissa = (code & _MANTISSA_MASK) << 4
    segment = code >> _EXPONENT_SHIFT & _SEGMENT_MASK
    magnitude = mantissa + 0x08 if segment == 0 else (mantissa + 0x108) << (segment - 1)
    return magnitude if code & _SIGN_BIT else -magnitude


_ULAW = [_ulaw_sample(code) & 0xFFFF for code in range(256)]
_ALAW = [_alaw_sample(code) & 0xFFFF for code in range(256)]
_ULAW_BYTES = bytes(s & 0xFF for s in _ULAW), bytes(s >> 8 for s in _ULAW)  # low, high
_ALAW_BYTES = bytes(s & 0xFF for s in _ALAW), bytes(s >> 8 for s in _ALAW)


def ulaw_to_pcm16(data: bytes) -> bytes:
    """G.711 u-law bytes as 16-bit little-endian samples, two bytes for each."""
    return _expanded(data, *_ULAW_BYTES)


def alaw_to_pcm16(data: bytes) -> bytes:
    """G.711 A-law bytes as 16-bit little-endian samples, two bytes for each."""
    return _expanded(data, *_ALAW_BYTES)


def _expanded(data: bytes, low: bytes, high: bytes) -> bytes:
    pcm = bytearray(2 * len(data))
    pcm[0::2] = data.translate(low)
    pcm[1::2] = data.translate(high)
    return bytes(pcm)
