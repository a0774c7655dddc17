"""supervisor_messages.py: datagrams between the parent and its children; whatever is no
message is a DecodeError, the one exception that a receiver has to name.
"""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.supervisor_messages import (
    MAX_MESSAGE_BYTES,
    Drain,
    Sample,
    Stats,
    SupervisorMessage,
    decode_supervisor_message,
    encode_supervisor_message,
)

from .examples import SUPERVISOR_MESSAGES


def is_refused(data: bytes) -> bool:
    """True for a DecodeError; anything else that is raised fails the test."""
    try:
        decode_supervisor_message(data)
    except msgspec.DecodeError:
        return True
    return False


def test_there_is_an_example_of_every_message() -> None:
    assert {type(m) for m in SUPERVISOR_MESSAGES} == set(get_args(SupervisorMessage))


@pytest.mark.parametrize("message", SUPERVISOR_MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_from_its_datagram(message: SupervisorMessage) -> None:
    assert decode_supervisor_message(encode_supervisor_message(message)) == message


def test_a_worker_has_room_for_its_statistics() -> None:
    sample = Sample("earwire_emission_latency_bucket", (("dialect", "together"), ("le", "0.5")), 1)
    data = encode_supervisor_message(Stats((sample,) * 1_500))
    assert len(data) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x93\x01\x02\x03",
        msgspec.msgpack.encode({"type": "reboot"}),
        msgspec.msgpack.encode({"type": "link", "peer": "one", "epoch": 1}),
        msgspec.msgpack.encode({"type": "link", "peer": 1}),
        b"\x83\xa4type\xa3log\xa5level\xa1\xff\xa4text\xa0",
        b"\x82\xa4type\xa4stop\xa1x" + b"\x91" * 60_000,
    ],
    ids=[
        "empty", "reserved", "map", "array", "tag", "type", "field", "utf-8", "depth",
    ],
)  # fmt: skip
def test_garbage_is_a_decode_error(data: bytes) -> None:
    assert is_refused(data)


@pytest.mark.parametrize("message", SUPERVISOR_MESSAGES, ids=lambda m: type(m).__name__)
def test_a_torn_datagram_is_a_decode_error(message: SupervisorMessage) -> None:
    data = encode_supervisor_message(message)
    assert all(is_refused(data[:size]) for size in range(len(data)))


def test_a_field_of_a_newer_version_is_ignored() -> None:
    data = msgspec.msgpack.encode({"type": "drain", "deadline": 3})
    assert decode_supervisor_message(data) == Drain()


@given(st.binary(max_size=100))
def test_random_bytes_raise_nothing_but_a_decode_error(data: bytes) -> None:
    is_refused(data)
