"""The G.711 tables against published values, and that pieces add up."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.g711 import alaw_to_pcm16, ulaw_to_pcm16

ALL_CODES = bytes(range(256))


def samples(pcm: bytes) -> list[int]:
    return [sample for (sample,) in struct.iter_unpack("<h", pcm)]


@pytest.mark.parametrize(
    ("code", "sample"),
    [(0x00, -32124), (0x80, 32124), (0xFF, 0), (0x7F, 0), (0xFE, 8), (0x7E, -8), (0xE0, 372)],
)
def test_ulaw_values(code: int, sample: int) -> None:
    assert samples(ulaw_to_pcm16(bytes([code]))) == [sample]


@pytest.mark.parametrize(
    ("code", "sample"),
    [(0x2A, -32256), (0xAA, 32256), (0xD5, 8), (0x55, -8), (0xD4, 24), (0xC5, 264)],
)
def test_alaw_values(code: int, sample: int) -> None:
    assert samples(alaw_to_pcm16(bytes([code]))) == [sample]


def test_the_whole_tables() -> None:
    # Check sums of what CPython's audioop (gone since 3.13) made of all 256 codes.
    assert zlib.crc32(ulaw_to_pcm16(ALL_CODES)) == 0x0C847A9F
    assert zlib.crc32(alaw_to_pcm16(ALL_CODES)) == 0x9D764657


@given(st.binary(max_size=64), st.integers(0, 64))
def test_a_stream_may_be_cut_anywhere(data: bytes, at: int) -> None:
    for expand in (ulaw_to_pcm16, alaw_to_pcm16):
        assert expand(data[:at]) + expand(data[at:]) == expand(data)
        assert len(expand(data)) == 2 * len(data)
        assert expand(data) == b"".join(expand(bytes([code])) for code in data)
