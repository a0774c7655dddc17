"""The native protocol inside WebSocket messages: subprotocol earwire.v1 on /v1/stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from protocol.client_messages import Bye, Closed, Error, Final, Hello, Started
from protocol.errors import ErrorCode
from protocol.session import Event, Role, Session

from . import audio
from .server import Server
from .session import assert_sane, transcribe

NATIVE = Subprotocol("earwire.v1")
QUIET = Hello(client="test", partials=False)


@contextmanager
def native_socket(server: Server) -> Iterator[ClientConnection]:
    with connect(f"{server.websocket_url}/v1/stream", subprotocols=[NATIVE]) as socket:
        assert socket.subprotocol == NATIVE
        yield socket


def wait_started(socket: ClientConnection, session: Session) -> None:
    """Started is the first event."""
    while True:
        message = socket.recv(timeout=60)
        assert isinstance(message, bytes)
        session.receive_data(message)
        if (event := session.next_event()) is not None:
            assert isinstance(event, Started)
            return


def events_until_closed(socket: ClientConnection, session: Session) -> list[Event]:
    """Everything up to the end of the connection."""
    events: list[Event] = []
    try:
        while True:
            while (event := session.next_event()) is not None:
                events.append(event)
            message = socket.recv(timeout=60)
            assert isinstance(message, bytes)
            session.receive_data(message)
    except ConnectionClosed:
        return events


def test_finals_equal_those_over_tcp(server: Server) -> None:
    """Our client over ws:// and over TCP: the same finals, and every contract holds."""
    samples = audio.short_clip()
    over_tcp = transcribe(server.native_url, samples, 100, QUIET)
    over_websocket = transcribe(server.websocket_url, samples, 20, QUIET)
    assert_sane(over_websocket, len(samples))
    assert over_websocket.identity() == over_tcp.identity()


@pytest.mark.parametrize("cut", [1, 7, 5_000])
def test_frames_may_be_cut_anywhere_between_messages(server: Server, cut: int) -> None:
    """The byte stream is what counts: messages of odd sizes, down to one byte, change nothing."""
    samples = audio.spoken("yes")
    session = Session(Role.CLIENT)
    session.send(QUIET)
    session.send_audio(samples.astype("<i2").tobytes())
    data = session.data_to_send()
    data, rest = (data, b"") if cut > 1 else (data[:2_000], data[2_000:])  # not 60,000 messages
    with native_socket(server) as socket:
        for start in range(0, len(data), cut):
            socket.send(data[start : start + cut])
        if rest:
            socket.send(rest)
        wait_started(socket, session)
        session.send(Bye())
        socket.send(session.data_to_send())
        events = events_until_closed(socket, session)
    assert [audio.words_of(e.text) for e in events if isinstance(e, Final)] == [["yes"]]
    assert isinstance(events[-1], Closed)
    assert events[-1].engine_samples == len(samples)


def test_a_text_message_is_refused_in_words(server: Server) -> None:
    """Before hello and in a session: Error bad_message that says binary, then a policy close."""
    for hello_first in (False, True):
        session = Session(Role.CLIENT)
        session.send(QUIET)
        with native_socket(server) as socket:
            if hello_first:
                socket.send(session.data_to_send())
            socket.send('{"type": "hello"}')
            events = events_until_closed(socket, session)
            close_code = socket.close_code
        (error,) = [event for event in events if isinstance(event, Error)]
        assert error.code is ErrorCode.BAD_MESSAGE
        assert "binary" in error.message
        assert close_code == 1008


def test_garbage_in_a_binary_message_is_refused_in_words(server: Server) -> None:
    """Not our magic: the error says so."""
    session = Session(Role.CLIENT)
    session.send(QUIET)
    with native_socket(server) as socket:
        socket.send(b"RIFF" + bytes(40))
        events = events_until_closed(socket, session)
    (error,) = [event for event in events if isinstance(event, Error)]
    assert error.code is ErrorCode.BAD_MAGIC


def test_the_path_works_without_a_subprotocol(server: Server) -> None:
    """/v1/stream is the native protocol even for a client that names none."""
    session = Session(Role.CLIENT)
    session.send(QUIET)
    with connect(f"{server.websocket_url}/v1/stream") as socket:
        socket.send(session.data_to_send())
        wait_started(socket, session)
        session.send(Bye())
        socket.send(session.data_to_send())
        events = events_until_closed(socket, session)
    assert [type(event) for event in events] == [Closed]
