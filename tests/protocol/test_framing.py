"""framing.py: any split gives the same frames, and a wrong header is refused as early as it can be.

Early matters: a client of another protocol may never send sixteen bytes, and a claimed length must
be refused before a single byte of that payload is kept.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.framing import (
    CLIENT_MAGIC,
    HEADER,
    HEADER_BYTES,
    MAJOR,
    MAX_PAYLOAD_BYTES,
    MINOR,
    SEQUENCE_MASK,
    SERVICE_MAGIC,
    VERSION,
    Frame,
    FrameDecoder,
    encode_frame,
)
from tests.harness import chunkings, cut_at

THREE_FRAMES = [Frame(0x01, 0, b"{}"), Frame(0x02, 3, b""), Frame(0x05, 0xFFFF, b"payload")]
STREAM = b"".join(
    encode_frame(CLIENT_MAGIC, frame.type, i, frame.payload, frame.flags)
    for i, frame in enumerate(THREE_FRAMES)
)
FRAMES = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 65_535), st.binary(max_size=200), st.just(MINOR)
)


def header(
    magic: int = CLIENT_MAGIC, version: int = VERSION, length: int = 0, sequence: int = 0
) -> bytes:
    return HEADER.pack(magic, version, 0x01, 0, 0, length, sequence)


def decode(chunks: list[bytes]) -> list[Frame]:
    decoder = FrameDecoder(CLIENT_MAGIC)
    frames: list[Frame] = []
    for chunk in chunks:
        decoder.receive_data(chunk)
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    assert decoder.buffered_bytes == 0, "a whole stream leaves nothing behind"
    return frames


def refusal(data: bytes, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> RemoteProtocolError:
    decoder = FrameDecoder(CLIENT_MAGIC, max_payload_bytes)
    decoder.receive_data(data)
    with pytest.raises(RemoteProtocolError) as raised:
        decoder.next_frame()
    return raised.value


def test_the_header_is_the_one_of_the_diagram() -> None:
    frame = encode_frame(CLIENT_MAGIC, 0x02, 0x01020304, b"ab", flags=0x0506)
    assert frame.hex(" ") == "45 57 10 02 06 05 00 00 02 00 00 00 04 03 02 01 61 62"
    assert HEADER_BYTES == 16


def test_every_cut_in_two_and_byte_by_byte_give_the_same_frames() -> None:
    for chunks in chunkings(STREAM):
        assert decode(chunks) == THREE_FRAMES


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 2_000), max_size=40))
def test_any_frames_survive_any_split(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(
        encode_frame(CLIENT_MAGIC, f.type, i, f.payload, f.flags) for i, f in enumerate(frames)
    )
    assert decode(cut_at(stream, cuts)) == frames


def test_bytearrays_and_views_are_taken_and_not_kept() -> None:
    data = bytearray(STREAM)
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(memoryview(data)[:20])
    decoder.receive_data(data[20:])
    data[:] = bytes(len(data))
    assert [decoder.next_frame() for _ in range(4)] == [*THREE_FRAMES, None]


def test_one_byte_is_too_few_to_know_another_protocol() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(b"G")
    assert decoder.next_frame() is None


@pytest.mark.parametrize("start", [b"GE", b"GET / HTTP/1.1\r\n", b"EX", b"\x16\x03"])
def test_another_protocol_is_told_at_its_second_byte(start: bytes) -> None:
    error = refusal(start)
    assert error.code is ErrorCode.BAD_MAGIC
    assert "'EW'" in error.message


def test_the_service_protocol_is_another_protocol() -> None:
    assert refusal(header(magic=SERVICE_MAGIC)).code is ErrorCode.BAD_MAGIC


def test_a_newer_major_version_is_refused_and_told_ours() -> None:
    error = refusal(header(version=(MAJOR + 1) << 4 | 3))
    assert error.code is ErrorCode.BAD_VERSION
    assert error.message == "protocol version 2.3 is not supported; this side speaks 1.0"


def test_an_older_major_version_is_refused() -> None:
    assert refusal(header(version=0)).code is ErrorCode.BAD_VERSION


def test_a_newer_minor_version_is_accepted_and_known_by_its_frames() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(header(version=VERSION + 1))
    assert decoder.next_frame() == Frame(0x01, 0, b"", MINOR + 1)


def test_the_reserved_field_is_ignored() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(HEADER.pack(CLIENT_MAGIC, VERSION, 0x01, 0, 0xFFFF, 0, 0))
    assert decoder.next_frame() == Frame(0x01, 0, b"")


def test_an_oversize_payload_is_refused_by_its_header_alone() -> None:
    error = refusal(header(length=101), max_payload_bytes=100)
    assert error.code is ErrorCode.FRAME_TOO_LARGE
    assert error.message == "payload of 101 bytes is over the limit of 100"


def test_a_payload_of_exactly_the_limit_passes() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC, 100)
    decoder.receive_data(header(length=100) + bytes(100))
    assert decoder.next_frame() == Frame(0x01, 0, bytes(100))


@pytest.mark.parametrize("sequence", [1, 7, SEQUENCE_MASK])
def test_a_sequence_jump_says_that_bytes_were_lost(sequence: int) -> None:
    error = refusal(header(sequence=sequence))
    assert error.code is ErrorCode.BAD_SEQUENCE
    assert error.message == f"frame {sequence} came, 0 was due"


def test_a_repeated_frame_is_a_sequence_error() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(header() * 2)
    assert decoder.next_frame() is not None
    with pytest.raises(RemoteProtocolError, match="frame 0 came, 1 was due"):
        decoder.next_frame()


def test_the_sequence_wraps_at_32_bits() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.next_sequence = SEQUENCE_MASK
    decoder.receive_data(
        encode_frame(CLIENT_MAGIC, 1, SEQUENCE_MASK, b"")
        + encode_frame(CLIENT_MAGIC, 1, SEQUENCE_MASK + 1, b"")
    )
    assert decoder.next_frame() is not None
    assert decoder.next_frame() is not None
    assert decoder.next_sequence == 1


def test_an_unfinished_frame_is_counted() -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(STREAM[:17])
    assert decoder.next_frame() is None
    assert decoder.buffered_bytes == 17


def test_the_rest_may_be_parsed_by_somebody_else() -> None:
    decoder, other = FrameDecoder(CLIENT_MAGIC), FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(STREAM)
    first = decoder.next_frame()
    assert first is not None
    other.next_sequence = decoder.next_sequence
    other.receive_data(decoder.take_rest())
    assert decoder.buffered_bytes == 0
    assert decoder.next_frame() is None
    assert other.next_frame() is not None


def test_a_payload_over_the_hard_limit_cannot_be_encoded() -> None:
    assert len(encode_frame(CLIENT_MAGIC, 1, 0, bytes(MAX_PAYLOAD_BYTES))) == 16 + (1 << 20)
    with pytest.raises(ValueError, match="is over 1048576"):
        encode_frame(CLIENT_MAGIC, 1, 0, bytes(MAX_PAYLOAD_BYTES + 1))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_random_bytes_raise_nothing_but_a_remote_error(chunks: list[bytes]) -> None:
    decoder = FrameDecoder(CLIENT_MAGIC)
    for chunk in chunks:
        decoder.receive_data(chunk)
        try:
            frame = decoder.next_frame()
        except RemoteProtocolError:
            return
        assert frame is None, "forty random bytes do not begin with a header"
