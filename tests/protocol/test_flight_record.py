"""flight_record.py: what is written is read again, and anything else is refused with a reason."""

from __future__ import annotations

import contextlib
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.client_messages import (
    Closed,
    Final,
    Hello,
    MessageType,
    VadOptions,
    encode_payload,
)
from protocol.flight_record import (
    MAGIC,
    MAX_HEAD_BYTES,
    VERSION,
    FlightHead,
    FlightRecordError,
    Reason,
    RecognitionSettings,
    RecordedControl,
    RecordedEvent,
    decode_record,
    encode_head,
)

FINAL = Final(
    audio_received=9, audio_decoded=9, utterance=0, start_sample=2, end_sample=9, text="hello"
)
CLOSED = Closed(
    reason="client", client_samples=1, socket_samples=1, ring_samples=1, engine_samples=1
)
SERVER = RecognitionSettings(
    model="tiny.en", engine="cpu", precision="fp32", vad=False, hop_ms=160, guard_ms=200,
    draft="window", window_s=10, hotword_weight=1.5, max_utterance_ms=20_000,
)  # fmt: skip
HEAD = FlightHead(
    reason=Reason.EMPTY_FINAL,
    detail="why",
    session_id="0abc-1",
    dialect="openai",
    saved_ns=5,
    saved_wall_ns=1_700_000_000_000_000_000,
    hello=Hello(language="en", hotwords=("Earwire",)),
    vad=VadOptions(threshold=0.25),
    server=SERVER,
    first_sample=512,
    num_samples=3,
    overwritten_samples=512,
    decoded_samples=514,
    client_samples=600,
    lost_client_samples=1,
    controls=(
        RecordedControl(at_sample=513, finalize_id=7),
        RecordedControl(at_sample=514, vad=VadOptions(enabled=False)),
        RecordedControl(at_sample=515, close_reason="client"),
    ),
    events=(
        RecordedEvent(1, MessageType.FINAL, encode_payload(FINAL)),
        RecordedEvent(2, 0x7F, b"of a later version"),
        RecordedEvent(3, MessageType.CLOSED, encode_payload(CLOSED)),
    ),
    num_events_dropped=4,
)
PCM = b"\x01\x02\x03\x04\x05\x06"
FILE = encode_head(HEAD) + PCM


def with_head(head: bytes) -> bytes:
    return struct.pack("<8sHHI", MAGIC, VERSION, 0, len(head)) + head + PCM


def test_what_is_written_is_read_again() -> None:
    record = decode_record(FILE)
    assert record.head == HEAD
    assert bytes(record.pcm) == PCM
    assert record.end_sample == 515
    assert list(record.events()) == [(1, FINAL), (3, CLOSED)]


def test_fields_of_a_later_version_are_ignored() -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(HEAD))
    assert decode_record(with_head(msgspec.msgpack.encode({**fields, "more": 1}))).head == HEAD


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a flight record"),
        (b"RIFF" + bytes(60), "not a flight record"),
        (MAGIC, "not a flight record"),
        (struct.pack("<8sHHI", MAGIC, 2, 0, 0), "version 2 is not known"),
        (struct.pack("<8sHHI", MAGIC, VERSION, 0, 5) + b"abc", "cut off"),
        (struct.pack("<8sHHI", MAGIC, VERSION, 0, MAX_HEAD_BYTES + 1), "cut off"),
        (with_head(b"\xc1"), "does not decode"),
        (with_head(b"\x91" * 5_000), "does not decode"),
        (with_head(msgspec.msgpack.encode({"reason": "boredom"})), "does not decode"),
        (FILE[:-1], "holds 5 bytes of audio; 3 samples are due"),
        (FILE + b"\0", "holds 7 bytes"),
    ],
)
def test_anything_else_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(FlightRecordError, match=message):
        decode_record(data)


def test_settings_beyond_recognition_cannot_be_smuggled_in() -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(HEAD))
    fields["server"] |= {"host": "0.0.0.0", "insecure": True}
    server = decode_record(with_head(msgspec.msgpack.encode(fields))).head.server
    assert msgspec.to_builtins(server) == msgspec.to_builtins(SERVER)


def test_an_event_that_does_not_decode_is_refused() -> None:
    broken = msgspec.structs.replace(HEAD, events=(RecordedEvent(1, MessageType.FINAL, b"{"),))
    record = decode_record(encode_head(broken) + PCM)
    with pytest.raises(FlightRecordError, match="an event in it does not decode"):
        list(record.events())


@settings(max_examples=300)
@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    damaged = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = damaged[: data.draw(st.integers(0, len(damaged)))]
    for one in (bytes(damaged), bytes(cut)):
        with contextlib.suppress(FlightRecordError):
            list(decode_record(one).events())


@given(st.binary(max_size=200))
def test_any_head_is_refused_or_read(head: bytes) -> None:
    with pytest.raises(FlightRecordError):
        decode_record(with_head(head))
