"""Wyoming's frames: every split of the bytes gives the same events, and nothing hostile raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.wyoming_events import (
    MAX_DATA_BYTES,
    MAX_LINE_BYTES,
    MAX_PAYLOAD_BYTES,
    Event,
    EventReader,
    Failure,
    encode_event,
)
from tests.harness import chunkings, random_cuts

CHUNK = b'{"type":"audio-chunk","data_length":14,"payload_length":4}\n{"rate":16000}\n\x00\n{'
STREAM = (
    b'{"type":"describe"}\n' + CHUNK + b'{"type":"x","data":{"a":1,"b":2},"data_length":7}\n{"b":3}'
    b'{"type":"ping","version":"1.10.2","data_length":null,"more":[]}\n'
)
EVENTS = [
    Event("describe", {}, b""),
    Event("audio-chunk", {"rate": 16000}, b"\n\x00\n{"),
    Event("x", {"a": 1, "b": 3}, b""),
    Event("ping", {}, b""),
]


def read(chunks: list[bytes]) -> list[Event | Failure]:
    reader = EventReader()
    found: list[Event | Failure] = []
    for chunk in chunks:
        reader.receive_data(chunk)
        while (event := reader.next_event()) is not None:
            found.append(event)
    return found


def test_every_cut_gives_the_same_events() -> None:
    for chunks in chunkings(STREAM):
        assert read(chunks) == EVENTS


@given(random_cuts(STREAM))
def test_many_cuts_give_the_same_events(chunks: list[bytes]) -> None:
    assert read(chunks) == EVENTS


def test_nothing_yet() -> None:
    assert read([b""]) == []
    assert read([b'{"type":"x","payload_length":2}\n1']) == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\n",
        b"[]\n",
        b'{"type":3}\n',
        b'{"data":{}}\n',
        b'{"type":"x","data":[]}\n',
        b'{"type":"x","data_length":"7"}\n',
        b'{"type":"x","data_length":-1}\n',
        b'{"type":"x","payload_length":-1}\n',
        b'{"type":"x","data_length":%d}\n' % (MAX_DATA_BYTES + 1),
        b'{"type":"x","payload_length":%d}\n' % (MAX_PAYLOAD_BYTES + 1),
        b'{"type":"x","payload_length":%d}\n' % 10**30,
        b'{"type":"x","data_length":2}\n[]',
        b'{"type":"x","data_length":2}\n\xff\xfe',
        b'{"type":"x","data":' + b"[" * 50_000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 1),
        b" " * (MAX_LINE_BYTES + 1) + b"\n",
        b'{"type":"\xff"}\n',
    ],
)
def test_what_is_no_event_fails_once(data: bytes) -> None:
    (failure,) = read([data, b'{"type":"describe"}\n'])
    assert isinstance(failure, Failure)
    assert failure.message


def test_the_largest_event_fits() -> None:
    line = b'{"type":"x","data_length":%d,"payload_length":%d}' % (
        MAX_DATA_BYTES, MAX_PAYLOAD_BYTES,
    )  # fmt: skip
    padded = line + b" " * (MAX_LINE_BYTES - len(line)) + b"\n"
    (event,) = read([padded, b"{}".ljust(MAX_DATA_BYTES), bytes(MAX_PAYLOAD_BYTES)])
    assert isinstance(event, Event)
    assert len(event.payload) == MAX_PAYLOAD_BYTES


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    read(chunks)


@pytest.mark.parametrize("data", [None, {"text": "Grüße\n", "more": {"x": [1, None]}}])
def test_what_is_written_can_be_read(data: Any) -> None:
    (event,) = read([encode_event("transcript", data)])
    assert event == Event("transcript", data or {}, b"")
    line = json.loads(encode_event("transcript", data).split(b"\n")[0])
    assert line["version"] == "1.10.2"
