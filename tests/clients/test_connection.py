"""The client's connection without a socket, over both wires and every split of the bytes."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from clients.address import parse_address
from clients.connection import MAX_ANSWERS, Connection
from clients.errors import ClientError, ConnectionLost, ServerError
from clients.tls import make_wire
from clients.wire import SUBPROTOCOL, PlainWire, WebSocketWire
from protocol.client_messages import Audio, Bye, Error, Hello, Message
from protocol.errors import ErrorCode, LocalProtocolError
from protocol.session import Role, Session

from .server import STARTED, closed
from .test_blocking import final

URL = "ws://127.0.0.1:8080/v1/stream"


def begun() -> tuple[Connection, Session]:
    """A connection and its server after hello and started."""
    connection, server = Connection(PlainWire()), Session(Role.SERVER)
    connection.hello(Hello())
    server.receive_data(connection.data_to_send())
    assert server.next_event() == Hello(resumable=True)
    answer(connection, server, STARTED)
    return connection, server


def answer(connection: Connection, server: Session, *messages: Message) -> None:
    for message in messages:
        server.send(message)
    for byte in server.data_to_send():
        connection.receive_data(bytes([byte]), 0)


def test_one_byte_at_a_time() -> None:
    connection, server = begun()
    assert connection.check_started() == STARTED
    answer(connection, server, final("a", 5), closed())
    assert [connection.next_event() for _ in range(4)] == [STARTED, final("a", 5), closed(), None]
    for _ in range(2):
        assert connection.answer(5) == final("a", 5), "who asks again gets it again"
    with pytest.raises(ConnectionLost):
        connection.answer(6)


def test_the_token_is_in_the_hello_unless_that_has_its_own() -> None:
    for hello, token in ((Hello(), "ours"), (Hello(token="own"), "own")):
        connection, server = Connection(PlainWire(), "ours"), Session(Role.SERVER)
        connection.hello(hello)
        server.receive_data(connection.data_to_send())
        assert server.next_event() == Hello(token=token, resumable=True)


def test_unclaimed_answers_are_bounded_and_what_is_gone_is_not_waited_for() -> None:
    connection, server = begun()
    answer(connection, server, *(final("", i) for i in range(1, MAX_ANSWERS + 3)))
    for gone in (1, 2):
        with pytest.raises(ClientError, match=rf"finalize {gone} is gone; events\(\) had it"):
            connection.answer(gone)
    assert connection.answer(3) is not None
    assert connection.answer(MAX_ANSWERS + 3) is None  # may come


def test_the_first_reason_is_kept() -> None:
    connection, server = begun()
    answer(connection, server, Error(code=ErrorCode.DRAINING, message="later", retryable=True))
    connection.receive_data(b"", 0)
    assert isinstance(connection.failure, ServerError)
    with pytest.raises(ServerError, match="later"):
        connection.audio(b"")
    connection.next_event()
    with pytest.raises(ServerError, match="later"):
        connection.next_event()


def test_bytes_of_another_protocol() -> None:
    connection = Connection(PlainWire())
    connection.receive_data(b"HTTP/1.1 400 Bad Request\r\n", 0)
    with pytest.raises(ServerError, match="another protocol"):
        connection.check_started()


def test_torn_samples_are_the_callers_mistake() -> None:
    connection, _ = begun()
    with pytest.raises(LocalProtocolError):
        connection.audio(b"abc")


def websocket_server() -> ServerProtocol:
    return ServerProtocol(subprotocols=[Subprotocol(SUBPROTOCOL)])


def accept(server: ServerProtocol, request_bytes: bytes) -> bytes:
    server.receive_data(request_bytes)
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    return b"".join(server.data_to_send())


def test_the_same_session_inside_a_websocket() -> None:
    connection, server, session = (
        Connection(WebSocketWire(URL)),
        websocket_server(),
        Session(Role.SERVER),
    )
    connection.hello(Hello())  # waits for the handshake
    response = accept(server, connection.data_to_send())
    assert not connection.is_open
    for byte in response:
        connection.receive_data(bytes([byte]), 0)
    assert connection.is_open
    connection.audio(bytes(100_000))
    server.receive_data(connection.data_to_send())
    for frame in server.events_received():
        assert isinstance(frame, Frame)
        session.receive_data(frame.data)
    assert session.next_event() == Hello(resumable=True)
    assert session.next_event() == Audio(0, bytes(100_000))
    session.send(STARTED)
    data = session.data_to_send()
    server.send_binary(data[:7], fin=False)
    server.send_continuation(data[7:], fin=True)
    server.send_ping(b"x")
    for byte in b"".join(server.data_to_send()):
        connection.receive_data(bytes([byte]), 0)
    assert connection.started == STARTED
    server.receive_data(connection.data_to_send())
    (pong,) = server.events_received()
    assert isinstance(pong, Frame)
    assert pong.opcode is Opcode.PONG


def test_a_refused_handshake_says_why() -> None:
    connection, server = Connection(WebSocketWire(URL)), websocket_server()
    server.receive_data(connection.data_to_send())
    server.send_response(server.reject(403, "this origin may not connect"))
    connection.receive_data(b"".join(server.data_to_send()), 0)
    with pytest.raises(ClientError, match="403 Forbidden this origin may not connect"):
        connection.check_started()


def test_a_server_without_our_subprotocol() -> None:
    connection, server = Connection(WebSocketWire(URL)), ServerProtocol()
    connection.receive_data(accept(server, connection.data_to_send()), 0)
    with pytest.raises(ClientError, match=r"does not speak earwire\.v1"):
        connection.check_started()


def test_text_where_binary_is_due() -> None:
    connection, server = Connection(WebSocketWire(URL)), websocket_server()
    connection.receive_data(accept(server, connection.data_to_send()), 0)
    server.send_text(b"hi")
    connection.receive_data(b"".join(server.data_to_send()), 0)
    with pytest.raises(ClientError, match="sent text"):
        connection.check()


def test_a_handshake_that_is_cut_off() -> None:
    connection = Connection(WebSocketWire(URL))
    connection.data_to_send()
    connection.receive_data(b"", 0)
    with pytest.raises(ConnectionLost):
        connection.check()


def test_the_wire_follows_the_address() -> None:
    assert isinstance(make_wire(parse_address(URL)), WebSocketWire)
    assert isinstance(make_wire(parse_address("unix:///s")), PlainWire)


def test_what_is_said_out_of_order_is_the_callers_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="audio before hello"):
        Connection(PlainWire()).audio(b"ab")
    connection, _ = begun()
    connection.bye()
    with pytest.raises(LocalProtocolError, match="finalize after bye"):
        connection.finalize()


def test_bye_may_be_said_before_the_server_has_answered() -> None:
    connection, server = Connection(PlainWire()), Session(Role.SERVER)
    connection.hello(Hello())
    connection.audio(b"ab")
    connection.bye()
    server.receive_data(connection.data_to_send())
    assert [server.next_event() for _ in range(3)] == [Hello(resumable=True), Audio(0, b"ab"), None]
    answer(connection, server, STARTED)
    server.receive_data(connection.data_to_send())
    assert server.next_event() == Bye()
