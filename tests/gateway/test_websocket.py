"""The fast lane in front of websockets' ServerProtocol says exactly what the library says."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.websocket import (
    CLOSE_TIMEOUT_NS,
    MAX_MESSAGE_BYTES,
    SelectSubprotocol,
    WebSocketCore,
    WsClosed,
    WsEvent,
    WsWork,
    no_subprotocol,
)
from tests.harness import chunkings, cut_at

URI = parse_uri("ws://127.0.0.1:8080/v1/realtime?model=m")
NO_MASK = b"\x00\x00\x00\x00"


class Pair:
    """A websockets client and our server, joined in memory."""

    def __init__(
        self,
        *,
        offered: Sequence[str] = (),
        select: SelectSubprotocol = no_subprotocol,
    ) -> None:
        self.client = ClientProtocol(URI, subprotocols=list(offered) or None)  # type: ignore[arg-type]
        request = self.client.connect()
        self.client.send_request(request)
        self.head = b"".join(self.client.data_to_send())
        self.server = WebSocketCore(self.head, select_subprotocol=select)
        self.response = self._response()

    def _response(self) -> Response:
        (response,) = self.to_client()
        assert isinstance(response, Response)
        return response

    def to_client(self) -> list[Request | Response | Frame]:
        self.client.receive_data(self.server.data_to_send())
        return self.client.events_received()

    def to_server(self) -> list[WsEvent]:
        return feed(self.server, [d for d in self.client.data_to_send() if d])


def feed(server: WebSocketCore, chunks: Iterable[bytes]) -> list[WsEvent]:
    events: list[WsEvent] = []
    for chunk in chunks:
        server.receive_data(chunk)
        events += drain(server)
    return events


def drain(server: WebSocketCore) -> list[WsEvent]:
    events: list[WsEvent] = []
    while (event := server.next_event()) is not None:
        if not isinstance(event, WsWork):
            events.append(event)
    return events


def masked(first: int, payload: bytes, mask: bytes = b"\x11\x22\x33\x44", wide: int = 0) -> bytes:
    """A client's frame; `wide` forces a longer length field than is needed."""
    length = len(payload)
    if length < 126 and not wide:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 65_536 and wide < 8:
        head = struct.pack("!BBH", first, 0xFE, length)
    else:
        head = struct.pack("!BBQ", first, 0xFF, length)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


# --- the handshake -------------------------------------------------------------------------


def test_the_handshake_is_accepted_without_extensions() -> None:
    pair = Pair()
    assert pair.response.status_code == 101
    assert "Sec-WebSocket-Extensions" not in pair.response.headers
    assert pair.server.accepted
    assert pair.server.is_open
    assert pair.server.subprotocol is None
    assert pair.client.state is State.OPEN
    assert not pair.server.should_close


def test_a_subprotocol_is_chosen_or_none_and_never_refused() -> None:
    def select(offered: Sequence[str]) -> str | None:
        return "earwire.v1" if "earwire.v1" in offered else None

    assert Pair(offered=["x", "earwire.v1"], select=select).server.subprotocol == "earwire.v1"
    for offered in ([], ["realtime"]):
        pair = Pair(offered=offered, select=select)
        assert pair.response.status_code == 101
        assert pair.server.subprotocol is None


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 400),
    ],
)
def test_a_bad_request_is_answered_and_closed(old: bytes, new: bytes, status: int) -> None:
    server = WebSocketCore(Pair().head.replace(old, new))
    assert server.data_to_send().startswith(b"HTTP/1.1 %d " % status)
    assert not server.accepted
    assert server.should_close
    assert feed(server, [masked(0x81, b"hello")]) == []
    server.send("nothing")
    server.close(1000, "", 0)
    assert server.data_to_send() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"",
        Pair().head.replace(b"Host: ", b"A: " + b"a" * 9000 + b"\r\nHost: "),
    ],
)
def test_a_head_that_the_library_does_not_take_is_answered_too(head: bytes) -> None:
    # websockets 15 says nothing to an overlong header line, later versions say 431
    server = WebSocketCore(head)
    response = server.data_to_send()
    assert response.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 431 "))
    length = re.search(rb"Content-Length: (\d+)", response)
    assert length is not None
    assert len(response.partition(b"\r\n\r\n")[2]) == int(length[1])
    assert server.should_close


def test_frames_may_come_with_the_head() -> None:
    server = WebSocketCore(Pair().head + masked(0x81, b"early"))
    assert drain(server) == ["early"]


# --- messages ------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.text(), st.binary(max_size=300)), max_size=6))
def test_both_directions_carry_messages(messages: list[str | bytes]) -> None:
    pair = Pair()
    for message in messages:
        if isinstance(message, str):
            pair.client.send_text(message.encode())
        else:
            pair.client.send_binary(message)
        pair.server.send(message)
    assert pair.to_server() == messages
    got = [f for f in pair.to_client() if isinstance(f, Frame)]
    assert [f.data.decode() if f.opcode is Opcode.TEXT else f.data for f in got] == messages  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MAX_MESSAGE_BYTES])
def test_every_length_field(size: int) -> None:
    pair = Pair()
    pair.client.send_binary(bytes(size))
    pair.server.send(memoryview(bytes(size)))
    assert pair.to_server() == [bytes(size)]
    (frame,) = pair.to_client()
    assert isinstance(frame, Frame)
    assert frame.data == bytes(size)


def test_every_cut_and_single_bytes() -> None:
    data = (
        masked(0x81, b"one")
        + masked(0x89, b"ping")
        + masked(0x01, "zw\u00f6lf".encode()[:3])
        + masked(0x8A, b"")
        + masked(0x80, "zw\u00f6lf".encode()[3:])
        + masked(0x82, bytes(200))
        + masked(0x81, b"wide", wide=8)
        + masked(0x88, b"\x03\xe8bye")
        + masked(0x81, b"too late")
    )
    for chunks in chunkings(data):
        server = Pair().server
        assert feed(server, chunks) == [
            "one", "zw\u00f6lf", bytes(200), "wide", WsClosed(1000, "bye")
        ]  # fmt: skip
        assert server.data_to_send() == b"\x8a\x04ping" + b"\x88\x05\x03\xe8bye"
        assert server.should_close


def test_bytes_may_arrive_while_events_are_unread() -> None:
    server = Pair().server
    first, second = masked(0x81, b"one"), masked(0x82, b"two")
    server.receive_data(memoryview(first + second[:3]))
    assert server.next_event() == "one"
    server.receive_data(bytearray(second[3:]) + first)
    server.receive_data(second)
    assert drain(server) == [b"two", "one", b"two"]


# --- what breaks the protocol --------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(0x81, b"\xff\xfe"), 1007),
        (masked(0x01, b"\xc3") + masked(0x80, b"\xc3"), 1007),
        (struct.pack("!BBQ", 0x82, 0xFF, MAX_MESSAGE_BYTES + 1) + NO_MASK, 1009),
        (struct.pack("!BBQ", 0x82, 0xFF, 2**63 - 1) + NO_MASK, 1009),
        (struct.pack("!BBH", 0x02, 0xFE, 60_000) + NO_MASK + bytes(60_000)
         + struct.pack("!BBQ", 0x80, 0xFF, MAX_MESSAGE_BYTES - 100) + NO_MASK, 1009),
        (b"\x81\x05hello", 1002),  # not masked
        (masked(0xC1, b"rsv1"), 1002),
        (masked(0x83, b"opcode"), 1002),
        (masked(0x80, b"nothing to continue"), 1002),
        (masked(0x01, b"a") + masked(0x81, b"b"), 1002),
        (masked(0x09, b"ping in parts"), 1002),
        (masked(0x89, bytes(126)), 1002),
        (masked(0x88, b"\x00"), 1002),
        (masked(0x88, b"\x03\xe8\xff"), 1007),
    ],
)  # fmt: skip
def test_an_illegal_frame_closes_with_the_right_code(data: bytes, code: int) -> None:
    for cuts in ((), range(1, 20), (5,)):
        server = Pair().server
        (closed,) = feed(server, cut_at(data + masked(0x81, b"unread"), cuts))
        assert isinstance(closed, WsClosed)
        assert closed.code == code
        sent = server.data_to_send()
        assert sent[0] == 0x88
        assert int.from_bytes(sent[2:4], "big") == code
        assert server.should_close
        server.send("nothing more")
        assert server.data_to_send() == b""


def test_a_client_that_goes_away() -> None:
    for tail in (b"", b"\x81", masked(0x81, b"half")[:7], masked(0x89, b"half")[:7]):
        server = Pair().server
        server.receive_data(masked(0x81, b"whole") + tail)
        server.receive_data(b"")
        server.receive_data(b"after the end")
        assert drain(server) == ["whole", WsClosed(1006, "")]
        assert server.should_close


# --- our own close -------------------------------------------------------------------------


def test_we_close_and_the_client_answers() -> None:
    pair = Pair()
    pair.client.send_text(b"before")
    pair.server.close(4503, "no_healthy_workers: \u00fc" + "x" * 200, 5)
    pair.server.close(1000, "again", 6)
    assert not pair.server.is_open
    assert pair.server.next_deadline() == 5 + CLOSE_TIMEOUT_NS
    assert pair.to_server() == []  # said before, but nobody listens any more
    pair.to_client()
    assert pair.client.close_code is None
    (closed,) = pair.to_server()
    assert isinstance(closed, WsClosed)
    assert closed.code == 4503
    assert closed.reason.startswith("no_healthy_workers: \u00fcxxx")
    assert len(closed.reason.encode()) <= 123
    assert pair.server.should_close
    assert pair.server.next_deadline() is None
    pair.client.receive_eof()
    assert pair.client.close_code == 4503


def test_a_client_that_does_not_answer_our_close_is_dropped() -> None:
    server = Pair().server
    server.handle_timer(10)
    assert server.next_deadline() is None
    server.close(1000, "", 10)
    server.data_to_send()
    server.handle_timer(9 + CLOSE_TIMEOUT_NS)
    assert not server.should_close
    server.handle_timer(10 + CLOSE_TIMEOUT_NS)
    assert server.should_close


def test_after_our_close_messages_are_dropped_and_eof_ends_it() -> None:
    server = Pair().server
    server.close(1001, "")
    assert server.next_deadline() is None
    late = masked(0x01, b"a") + masked(0x80, b"b") + masked(0x82, b"c") + masked(0x89, b"d")
    assert feed(server, [late]) == []
    server.receive_data(b"")
    assert drain(server) == [WsClosed(1001, "")]
    assert server.data_to_send()
    assert server.should_close


# --- fast lane == slow lane ----------------------------------------------------------------


class LibraryAlone:
    """What websockets makes of the same bytes, one at a time, with the rules it leaves to us."""

    def __init__(self, head: bytes) -> None:
        self.protocol = ServerProtocol(max_size=MAX_MESSAGE_BYTES)
        self.protocol.receive_data(head)
        (request,) = self.protocol.events_received()
        assert isinstance(request, Request)
        self.protocol.send_response(self.protocol.accept(request))
        self.protocol.data_to_send()
        self.events: list[WsEvent] = []
        self.whole = bytearray()
        self.is_text = False

    def feed(self, data: bytes) -> None:
        for byte in data:
            self.protocol.receive_data(bytes([byte]))
            for frame in self.protocol.events_received():
                assert isinstance(frame, Frame)
                self.take(frame)
        self.protocol.receive_eof()
        rcvd, sent = self.protocol.close_rcvd, self.protocol.close_sent
        close = rcvd or sent
        self.events.append(WsClosed(close.code, close.reason) if close else WsClosed(1006, ""))

    def take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if frame.opcode is not Opcode.CONT:
            self.whole, self.is_text = bytearray(), frame.opcode is Opcode.TEXT
        self.whole += frame.data
        if not frame.fin:
            return
        try:
            self.events.append(self.whole.decode() if self.is_text else bytes(self.whole))
        except UnicodeDecodeError:
            self.protocol.fail(CloseCode.INVALID_DATA, "text is not UTF-8")


def frames() -> st.SearchStrategy[bytes]:
    payload = st.one_of(
        st.binary(max_size=200), st.text(max_size=80).map(str.encode), st.just(bytes(70_000))
    )
    first = st.sampled_from([0x81] * 6 + [0x82] * 6 + [0x01, 0x02, 0x00, 0x80, 0x89, 0x8A])
    usual = st.builds(
        masked, first, payload, st.binary(min_size=4, max_size=4), st.sampled_from([0, 0, 2, 8])
    )
    odd_first = st.integers(0, 255)
    odd = st.builds(masked, odd_first, st.binary(max_size=130))
    small = st.binary(max_size=100)
    fragments = st.tuples(st.sampled_from([1, 2]), small, small, small).map(
        lambda t: masked(t[0], t[1]) + masked(0x89, b"p") + masked(0, t[2]) + masked(0x80, t[3])
    )
    text = st.text(max_size=80).map(lambda t: masked(0x81, t.encode()))
    close = st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9going", b"\x0f\xa0mine"]).map(
        lambda data: masked(0x88, data)
    )
    huge = st.just(struct.pack("!BBQ", 0x82, 0xFF, MAX_MESSAGE_BYTES + 1) + NO_MASK)
    return st.one_of(text, text, text, usual, usual, fragments, fragments, odd, close, huge)


@settings(max_examples=300, deadline=None)
@given(st.lists(frames(), max_size=12).map(b"".join), st.data())
def test_the_fast_lane_says_what_the_library_says(data: bytes, draw: st.DataObject) -> None:
    pair = Pair()
    library = LibraryAlone(pair.head)
    library.feed(data)
    cuts = draw.draw(st.lists(st.integers(1, max(1, len(data))), max_size=20))
    events = feed(pair.server, [*cut_at(data, cuts), b""])
    assert events == library.events
    assert pair.server.data_to_send() == b"".join(library.protocol.data_to_send())
    assert pair.server.should_close
