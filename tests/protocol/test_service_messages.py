"""service_messages.py: the link between a worker and a service, its samples records above all.

The peer is our own process, yet a torn or foreign payload must end as a RemoteProtocolError: a link
survives the restart of either side, and what a dying process wrote last may be anything.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.framing import MAX_PAYLOAD_BYTES, SERVICE_MAGIC, FrameDecoder
from protocol.service_messages import (
    MAX_CHECKPOINT_BYTES,
    MAX_SAMPLES_RECORDS,
    SAMPLES_RECORD,
    Checkpoint,
    Finalize,
    Open,
    SamplesRecord,
    ServiceMessage,
    ServiceMessageType,
    StreamClosed,
    decode_samples,
    decode_service_payload,
    encode_samples,
    encode_service_message,
)

from .examples import SAMPLES_RECORDS, SERVICE_MESSAGES

MESSAGE_TYPES = sorted(set(ServiceMessageType) - {ServiceMessageType.SAMPLES})


def payload_of(frame_bytes: bytes, sequence: int = 0) -> tuple[int, bytes]:
    decoder = FrameDecoder(SERVICE_MAGIC)
    decoder.next_sequence = sequence
    decoder.receive_data(frame_bytes)
    frame = decoder.next_frame()
    assert frame is not None
    return frame.type, frame.payload


def refusal(type_: int, payload: bytes) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_service_payload(type_, payload)
    return raised.value


def outcome(type_: int, payload: bytes) -> int:
    """The type of the message, or -1 for a refusal; anything else that is raised fails the test."""
    try:
        message = decode_service_payload(type_, payload)
    except RemoteProtocolError as error:
        return -1 if error.code is ErrorCode.BAD_MESSAGE else -2
    assert message is not None
    return message.TYPE


def test_there_is_an_example_of_every_type() -> None:
    assert sorted(SERVICE_MESSAGES) == MESSAGE_TYPES


@pytest.mark.parametrize("message", SERVICE_MESSAGES.values(), ids=lambda m: m.TYPE.name)
def test_a_message_comes_back_from_its_frame(message: ServiceMessage) -> None:
    type_, payload = payload_of(encode_service_message(message, 5), 5)
    assert type_ == message.TYPE
    assert decode_service_payload(type_, payload) == message


@pytest.mark.parametrize("type_", MESSAGE_TYPES, ids=lambda t: t.name)
def test_a_field_that_a_newer_version_appends_is_ignored(type_: ServiceMessageType) -> None:
    message = SERVICE_MESSAGES[type_]
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    longer = msgspec.msgpack.encode([*fields, "of a newer version"])
    assert decode_service_payload(type_, longer) == message


@pytest.mark.parametrize("type_", MESSAGE_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x80", b"\x90", b"\x95\x01", b"\x93\x01\xa2\xff\xff\x01", b"\xc0"],
    ids=["empty", "reserved byte", "map", "too few", "torn", "no number", "nil"],
)
def test_bytes_that_are_no_message_are_a_bad_message(
    type_: ServiceMessageType, payload: bytes
) -> None:
    error = refusal(type_, payload)
    assert error.code is ErrorCode.BAD_MESSAGE
    assert error.message.startswith(type_.name.lower())


def test_text_that_is_no_utf_8_is_a_bad_message() -> None:
    error = refusal(ServiceMessageType.OPEN, b"\x93\x01\x01\xa2\xff\xff")
    assert error.code is ErrorCode.BAD_MESSAGE


def test_deep_nesting_is_a_bad_message() -> None:
    payload = b"\x95\x01\x01\x01\x01" + b"\x91" * 60_000
    assert refusal(ServiceMessageType.FINALIZE, payload).code is ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize("type_", [0x00, 0x3F, 0x7F, 0xFF, ServiceMessageType.SAMPLES])
def test_a_type_without_a_message_is_none(type_: int) -> None:
    assert decode_service_payload(type_, b"") is None


@given(st.sampled_from(MESSAGE_TYPES), st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_remote_error(
    type_: ServiceMessageType, payload: bytes
) -> None:
    assert outcome(type_, payload) in {type_, -1}


@given(st.sampled_from(MESSAGE_TYPES), st.data())
def test_a_damaged_message_raises_nothing_but_a_remote_error(
    type_: ServiceMessageType, data: st.DataObject
) -> None:
    payload = bytearray(payload_of(encode_service_message(SERVICE_MESSAGES[type_], 0))[1])
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(type_, bytes(payload)) in {type_, -1}


def test_a_checkpoint_holds_its_size_limit() -> None:
    largest = Checkpoint(0, 0, 1, 0, bytes(MAX_CHECKPOINT_BYTES))
    type_, payload = payload_of(encode_service_message(largest, 0))
    assert decode_service_payload(type_, payload) == largest
    too_large = Checkpoint(0, 0, 1, 0, bytes(MAX_CHECKPOINT_BYTES + 1))
    type_, payload = payload_of(encode_service_message(too_large, 0))
    assert refusal(type_, payload).code is ErrorCode.BAD_MESSAGE


def test_a_stream_is_not_reopened_from_an_oversize_checkpoint() -> None:
    too_large = Open(0, 0, "s", checkpoint=bytes(MAX_CHECKPOINT_BYTES + 1))
    type_, payload = payload_of(encode_service_message(too_large, 0))
    assert refusal(type_, payload).code is ErrorCode.BAD_MESSAGE


def test_messages_are_arrays_in_the_order_of_their_fields() -> None:
    _, payload = payload_of(encode_service_message(StreamClosed(7, 3, 16_000), 0))
    assert msgspec.msgpack.decode(payload) == [7, 3, 16_000]
    _, payload = payload_of(encode_service_message(Finalize(7, 3, 1, 9), 0))
    assert msgspec.msgpack.decode(payload) == [7, 3, 1, 9]


def test_a_samples_record_is_the_one_of_the_diagram() -> None:
    frame = encode_samples([SamplesRecord(7, 3, 0x0102030405060708, 320, 0x1112131415161718)], 0)
    assert payload_of(frame)[1].hex(" ") == (
        "07 00 00 00 03 00 00 00 08 07 06 05 04 03 02 01 "
        "40 01 00 00 00 00 00 00 18 17 16 15 14 13 12 11"
    )
    assert SAMPLES_RECORD.size == 32


def test_records_come_back_in_order() -> None:
    type_, payload = payload_of(encode_samples(SAMPLES_RECORDS, 0))
    assert type_ == ServiceMessageType.SAMPLES
    assert tuple(decode_samples(payload)) == SAMPLES_RECORDS


def test_a_turn_without_audio_is_an_empty_frame() -> None:
    assert list(decode_samples(payload_of(encode_samples([], 0))[1])) == []


@given(
    st.lists(
        st.builds(
            SamplesRecord,
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**64 - 1),
        ),
        max_size=20,
    )
)
def test_any_records_survive(records: list[SamplesRecord]) -> None:
    assert list(decode_samples(payload_of(encode_samples(records, 0))[1])) == records


@pytest.mark.parametrize("size", [1, 31, 33, 63])
def test_a_torn_record_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"samples of {size} bytes"):
        list(decode_samples(bytes(size)))


def test_the_largest_frame_holds_the_stated_number_of_records() -> None:
    most = [SAMPLES_RECORDS[0]] * MAX_SAMPLES_RECORDS
    assert len(payload_of(encode_samples(most, 0))[1]) == MAX_PAYLOAD_BYTES
    with pytest.raises(ValueError, match="is over"):
        encode_samples([*most, SAMPLES_RECORDS[0]], 0)
