"""One WebSocket connection at the server: bytes in, messages out, no socket and no clock.

The protocol is websockets' Sans-I/O ServerProtocol. In front of it stands a fast lane, because the
library's generator parser costs about as much as everything else that a 20 ms audio message needs:
this file cuts frames by their header, and a complete, masked, unfragmented data frame is unmasked
and handed out here. Every other frame (control, fragmented, unmasked, reserved bits, too long)
goes through the library, which therefore always stands at a frame boundary when the fast lane acts
and keeps the last word on what is legal.

The connection shell calls it, after http.HttpCore found an upgrade. A text message comes out as
str (its UTF-8 is checked), a binary one as bytes. Events are cut on demand: a shell that stops
asking, because its ring is full, leaves the rest unparsed.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a build without the C extension
    from websockets.utils import apply_mask

MAX_MESSAGE_BYTES = 1 << 20
CLOSE_TIMEOUT_NS = 10_000_000_000  # for the client's answer to our close frame
MAX_CLOSE_REASON_BYTES = 123  # RFC 6455: a control frame holds 125, two are the code

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 33\r\n\r\nThis is not a WebSocket request.\n"
)
_HEAD_END = b"\r\n\r\n"
_FIN_TEXT = 0x80 | Opcode.TEXT
_FIN_BINARY = 0x80 | Opcode.BINARY
_FIN_DATA = (_FIN_TEXT, _FIN_BINARY)
_MASKED = 0x80
_DATA = (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
_ALL = sys.maxsize  # _slow_left: nothing is cut here any more
_LENGTH_16 = struct.Struct("!BBH")
_PLAIN = struct.Struct("!HH4s")  # what a frame of 126 bytes to 64 KiB begins with
_unpack_plain = _PLAIN.unpack_from
PLAIN_TEXT = (_FIN_TEXT << 8) | _MASKED | 126  # its first two bytes
PLAIN_BINARY = (_FIN_BINARY << 8) | _MASKED | 126
_LENGTH_64 = struct.Struct("!BBQ")

# The library reports each connection at INFO; ours are counted in metrics.
_logger = logging.getLogger("earwire.websocket")
_logger.setLevel(logging.WARNING)

SelectSubprotocol: TypeAlias = Callable[[Sequence[str]], "str | None"]


@dataclass(frozen=True, slots=True)
class WsClosed:
    """The client will send no more messages: it closed, broke the protocol, or went away."""

    code: int  # 1005: closed without a code, 1006: gone without a close frame
    reason: str


@dataclass(frozen=True, slots=True)
class WsWork:
    """A frame that says nothing yet (control, part of a message): work, which the shell counts."""


_WORK = WsWork()
WsEvent: TypeAlias = str | bytes | WsClosed | WsWork


def no_subprotocol(offered: Sequence[str]) -> str | None:
    """Accept whatever the client offers and name none."""
    return None


class WebSocketCore:
    """The server's end of one connection, from the request head on."""

    def __init__(
        self,
        head: bytes,
        *,
        select_subprotocol: SelectSubprotocol = no_subprotocol,
    ) -> None:
        """`head` is everything received since the request's first byte; more may follow it."""

        def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            return cast("Subprotocol | None", select_subprotocol(offered))

        self._protocol = ServerProtocol(
            select_subprotocol=select, max_size=MAX_MESSAGE_BYTES, logger=_logger
        )
        self._events: deque[WsEvent] = deque()
        self._writes: list[bytes] = []
        self._fragments: bytearray | None = None  # of the message that is under way
        self._fragments_are_text = False
        self._buffer = b""  # received, from _offset on not looked at
        self._offset = 0
        self._tail = bytearray()  # an incomplete frame, until it has _need bytes
        self._need = 0
        self._slow_left = 0  # bytes of the present frame that are still the library's
        self._eof = False
        self._ended = False  # the TCP connection may end once _writes are sent
        self._told = False  # WsClosed was queued
        self._is_closing = False  # close() was called
        self._deadline_ns: int | None = None
        self.accepted = False
        # True while a received frame would begin a message of its own and nothing waits here: then
        # its audio lane may act. An attribute, because it is read for every frame.
        self.is_between_messages = False
        self._accept(head)

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on in the handshake."""
        return self._protocol.subprotocol

    @property
    def is_open(self) -> bool:
        """True while messages may be sent."""
        return self.accepted and self._protocol.state is OPEN

    @property
    def should_close(self) -> bool:
        """True when nothing is left to send and the TCP connection may be closed."""
        return self._ended and not self._writes

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the socket, split anywhere; b"" says that no more will come."""
        self.is_between_messages = False
        if not data or self._eof:
            self._eof = True
        elif self._tail:
            self._tail += data
            if len(self._tail) >= self._need:
                self._buffer, self._offset = bytes(self._tail), 0
                self._tail.clear()
        elif self._offset < len(self._buffer):
            self._buffer, self._offset = self._buffer[self._offset :] + data, 0
        else:
            self._buffer, self._offset = bytes(data), 0

    def next_event(self) -> WsEvent | None:
        """The next message, WsWork, or WsClosed once; None when more bytes are needed.

        Never raises.
        """
        while not self._events:
            if self._offset == len(self._buffer):
                return self._end_of_input()
            if self._slow_left:
                self._feed_library()
                if not (self._slow_left or self._events):
                    return _WORK
            elif (message := self._next_message()) is not None:
                return message
        return self._events.popleft()

    def send(self, data: str | bytes | memoryview) -> None:
        """Queue one message: text for str, else binary. Nothing happens once closing began."""
        if not self.is_open:
            return
        if isinstance(data, str):
            self._writes.append(_frame(_FIN_TEXT, data.encode()))
        else:
            self._writes.append(_frame(_FIN_BINARY, bytes(data)))

    def close(self, code: int, reason: str, now_ns: int | None = None) -> None:
        """Begin the close handshake; from here on messages of the client are dropped.

        Without `now_ns` there is no deadline here: the shell keeps one of its own.
        """
        if not self.is_open:
            return
        fitting = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore")
        self._protocol.send_close(code, fitting)
        self._is_closing = True
        self.is_between_messages = False
        self._deadline_ns = None if now_ns is None else now_ns + CLOSE_TIMEOUT_NS
        self._collect()

    def data_to_send(self) -> bytes:
        """Take what is queued for the socket."""
        if not self._writes:
            return b""
        data = b"".join(self._writes)
        self._writes.clear()
        return data

    def next_deadline(self) -> int | None:
        """When handle_timer is due: set while the client owes an answer to our close."""
        return None if self._ended else self._deadline_ns

    def handle_timer(self, now_ns: int) -> None:
        """Give up on a client that does not answer our close."""
        if self._deadline_ns is not None and now_ns >= self._deadline_ns:
            self._ended = True

    def _accept(self, head: bytes) -> None:
        end = head.find(_HEAD_END)
        end = len(head) if end < 0 else end + len(_HEAD_END)
        self._buffer = head[end:]
        self._protocol.receive_data(head[:end])
        for request in self._protocol.events_received():
            if not isinstance(request, Request):
                raise AssertionError("a connection without handshake has no frames")
            response = self._protocol.accept(request)
            self._protocol.send_response(response)
            self.accepted = response.status_code == 101
        if not self.accepted:
            self._told = self._ended = True  # there was no WebSocket that could have ended
        self._collect()
        if not self.accepted and not self._writes:
            self._writes.append(_BAD_REQUEST)  # the library gives up on some heads silently

    def _next_message(self) -> str | bytes | None:
        """The fast lane: the message of the next frame, if that is complete and plain.

        On None either _slow_left is set, or the connection failed, or the buffer is used up.
        """
        buffer, at = self._buffer, self._offset
        start, end = _payload_bounds(buffer, at)
        if start and not self._is_plain(buffer[at], buffer[at + 1], end - start):
            self._slow_left = end - at
            return None
        if end > len(buffer):
            self._keep_tail(end - at)
            return None
        self._offset = end
        payload = apply_mask(buffer[start:end], buffer[start - 4 : start])
        return self._text(payload) if buffer[at] == _FIN_TEXT else payload

    def _is_plain(self, first: int, second: int, length: int) -> bool:
        return (
            first in _FIN_DATA
            and second >= _MASKED
            and length <= MAX_MESSAGE_BYTES
            and self._fragments is None
        )

    def _text(self, payload: bytes | bytearray) -> str | None:
        try:
            return str(payload, "utf-8")
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA, "text is not UTF-8")
            self._collect()
            return None

    def _keep_tail(self, need: int) -> None:
        """Set an incomplete frame aside; it is looked at again when it has `need` bytes."""
        self._tail += self._buffer[self._offset :]
        self._need = need
        self._buffer, self._offset = b"", 0

    def _feed_library(self) -> None:
        """Pass on what is there of a frame that is the library's."""
        chunk = self._buffer[self._offset : self._offset + self._slow_left]
        self._offset += len(chunk)
        self._slow_left -= len(chunk)
        self._protocol.receive_data(chunk)
        self._collect()

    def _end_of_input(self) -> WsEvent | None:
        if self._eof:
            self._protocol.receive_eof()
            self._collect()
        if self._events:
            return self._events.popleft()
        unfinished = self._slow_left or self._tail or self._fragments is not None
        self.is_between_messages = self.is_open and not unfinished
        return None

    def _collect(self) -> None:
        """Take over what the library produced, and notice when the connection is ending."""
        protocol = self._protocol
        for frame in protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode in _DATA:
                self._take_fragment(frame)
        for data in protocol.data_to_send():
            if data:
                self._writes.append(data)
            else:
                self._ended = True
        if protocol.state is not OPEN:
            self._slow_left = _ALL
            self._tell_end()

    def _take_fragment(self, frame: Frame) -> None:
        if self._is_closing:
            return  # we said goodbye
        if self._fragments is None:
            self._fragments = bytearray()
            self._fragments_are_text = frame.opcode is Opcode.TEXT
        self._fragments += frame.data
        if not frame.fin:
            return
        whole, self._fragments = self._fragments, None
        message = self._text(whole) if self._fragments_are_text else bytes(whole)
        if message is not None:
            self._events.append(message)

    def _tell_end(self) -> None:
        """Queue WsClosed once, unless it was us who began and the client did not answer yet."""
        protocol = self._protocol
        answered = protocol.close_rcvd is not None or protocol.parser_exc is not None
        if self._told or (self._is_closing and not answered):
            return
        self._told = True
        close = protocol.close_rcvd or protocol.close_sent
        if close is None:
            self._events.append(WsClosed(CloseCode.ABNORMAL_CLOSURE, ""))
        else:
            self._events.append(WsClosed(close.code, close.reason))


def plain_frame(view: memoryview, at: int, size: int, kind: int) -> tuple[bytes, int] | None:
    """What the whole, masked, final frame at `at` carries, and where in `view[:size]` it ends.

    `kind` is PLAIN_TEXT or PLAIN_BINARY. None for any other frame, also for one of less than 126
    bytes: no audio message is that short.
    """
    if size - at < _PLAIN.size:
        return None
    head, length, mask = _unpack_plain(view, at)
    start = at + _PLAIN.size
    end = start + length
    if head != kind or end > size:
        return None
    return apply_mask(view[start:end], mask), end


def _payload_bounds(buffer: bytes, at: int) -> tuple[int, int]:
    """Where the payload of the frame at `at` begins and ends, its mask taken for granted.

    (0, end of what is missing) while the header is incomplete.
    """
    left = len(buffer) - at
    if left < 2:
        return 0, at + 2
    length = buffer[at + 1] & 0x7F
    if length < 126:
        return at + 6, at + 6 + length
    if length == 126:
        if left < 4:
            return 0, at + 4
        return at + 8, at + 8 + (buffer[at + 2] << 8 | buffer[at + 3])
    if left < 10:
        return 0, at + 10
    return at + 14, at + 14 + int.from_bytes(buffer[at + 2 : at + 10], "big")


def _frame(first: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return _LENGTH_16.pack(first, 126, length) + payload
    return _LENGTH_64.pack(first, 127, length) + payload
