"""What lies between the protocol's bytes and the socket's: nothing, or WebSocket. Pure.

`PlainWire` passes bytes through. `WebSocketWire` is websockets' Sans-I/O client: the protocol's
byte stream travels in binary messages, cut anywhere. connection.py drives one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from .errors import ClientError, ConnectionLost

SUBPROTOCOL = "earwire.v1"
MAX_MESSAGE_BYTES = 1 << 20
PIECE_BYTES = 64 * 1024  # of one WebSocket message sent


class Wire(Protocol):
    """Bytes of the protocol on one side, bytes of the socket on the other."""

    @property
    def is_open(self) -> bool:
        """Protocol bytes can be sent."""

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Socket bytes in (b"" at their end), protocol bytes out. Raises ClientError."""

    def send(self, data: bytes) -> None:
        """Queue protocol bytes."""

    def data_to_send(self) -> bytes:
        """Take the socket bytes queued so far."""


class PlainWire:
    """Native TCP and Unix sockets."""

    is_open = True

    def __init__(self) -> None:
        self._out: list[bytes] = []

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """The same bytes; their end is the connection's own affair."""
        if data:
            yield data

    def send(self, data: bytes) -> None:
        """Queue bytes."""
        self._out.append(data)

    def data_to_send(self) -> bytes:
        """Take what is queued."""
        out, self._out = self._out, []
        return b"".join(out)


class WebSocketWire:
    """The native protocol as WebSocket subprotocol earwire.v1."""

    def __init__(self, url: str) -> None:
        self.is_open = False
        self._protocol = ClientProtocol(
            parse_uri(url), subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=MAX_MESSAGE_BYTES
        )
        self._protocol.send_request(self._protocol.connect())

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Answers pings and close frames by itself. Raises ClientError when refused."""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._check(event)
            elif isinstance(event, Frame):
                yield from self._payload(event)
        if not self.is_open and self._protocol.handshake_exc:
            raise ConnectionLost(f"WebSocket handshake failed: {self._protocol.handshake_exc}")

    def _check(self, response: Response) -> None:
        if self._protocol.handshake_exc is not None:
            body = bytes(response.body or b"")[:200].decode("utf-8", "replace").strip()
            status = f"{response.status_code} {response.reason_phrase}"
            raise ClientError(f"the server refused the WebSocket: {status} {body}".rstrip())
        if self._protocol.subprotocol != SUBPROTOCOL:
            raise ClientError(f"the server does not speak {SUBPROTOCOL} on this path")
        self.is_open = True

    @staticmethod
    def _payload(frame: Frame) -> Iterator[bytes]:
        if frame.opcode in (Opcode.BINARY, Opcode.CONT):
            yield bytes(frame.data)
        elif frame.opcode is Opcode.TEXT:
            raise ClientError("the server sent text where this protocol has binary messages")

    def send(self, data: bytes) -> None:
        """Queue bytes as binary messages of bounded size; none behind a close frame of the server:
        the end of the connection follows, and what it cost is known by that.
        """
        if self._protocol.state is not OPEN:
            return
        for start in range(0, len(data), PIECE_BYTES):
            self._protocol.send_binary(data[start : start + PIECE_BYTES])

    def data_to_send(self) -> bytes:
        """Take what is queued; an empty item (half close) is left to whoever owns the socket."""
        return b"".join(self._protocol.data_to_send())
