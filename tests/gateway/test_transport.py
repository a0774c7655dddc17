"""RawTransport: what came, then the end; and what was sent."""

from __future__ import annotations

import pytest

from gateway.dialects import HttpChunk
from gateway.dialects.native import NativeDialect
from gateway.dialects.wyoming import WyomingDialect
from gateway.errors import refusal
from gateway.transport import InputEnded, RawTransport
from protocol.errors import ErrorCode


def test_bytes_in_then_the_end() -> None:
    transport = RawTransport(NativeDialect())
    assert transport.next_event() is None
    transport.receive_data(memoryview(b"ab"), 1)
    transport.receive_data(memoryview(b"c"), 1)
    transport.receive_data(memoryview(b""), 1)
    assert transport.next_event() == b"abc"
    assert transport.next_event() == InputEnded()
    assert transport.next_event() is None


def test_bytes_out() -> None:
    transport = RawTransport(NativeDialect())
    assert transport.data_to_send() == b""
    transport.send(b"a")
    transport.send(b"b")
    transport.refuse(refusal(ErrorCode.AT_CAPACITY, "full"))
    transport.close(None, 1)
    transport.discard_data(memoryview(b"x"))
    assert transport.data_to_send() == b"ab"
    assert not transport.should_close
    assert transport.can_send
    for item in ("text", HttpChunk(b"")):
        with pytest.raises(AssertionError):
            transport.send(item)


def test_bytes_have_no_time_and_only_native_bytes_a_lane() -> None:
    native = NativeDialect()
    transport = RawTransport(native)
    assert transport.next_deadline() is None
    transport.handle_timer(1)
    assert not transport.is_uploading
    assert transport.audio_lane() == native.receive_audio
    assert RawTransport(WyomingDialect(tuple)).audio_lane() is None
