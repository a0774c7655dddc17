"""A native client without our client: bytes on a socket, for everything a client may not do."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from protocol.client_messages import (
    Audio,
    Closed,
    Error,
    Hello,
    Message,
    MessageType,
    Started,
    encode_message,
)
from protocol.framing import CLIENT_MAGIC, HEADER, VERSION
from protocol.session import Event, Role, Session

TIMEOUT_S = 30.0


def frame(
    type_: int,
    payload: bytes = b"",
    sequence: int = 0,
    *,
    magic: int = CLIENT_MAGIC,
    version: int = VERSION,
    length: int | None = None,
) -> bytes:
    """A frame whose header says whatever a test wants it to say."""
    size = len(payload) if length is None else length
    return HEADER.pack(magic, version, type_, 0, 0, size, sequence) + payload


class RawClient:
    """A TCP connection to the native port."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.session = Session(Role.CLIENT)
        self.sequence = 0
        self.events: list[Event] = []
        self.session.send(Hello())  # what it expects to hear follows from having said hello
        self.session.data_to_send()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.sock.sendall(data)

    def say(self, message: Message) -> None:
        """A message in its own frame, legal or not at this moment."""
        self.send(encode_message(message, self.sequence))
        self.sequence += 1

    def hello(self) -> None:
        """Says it, and waits for Started."""
        self.say(Hello(client="raw"))
        assert isinstance(self.next(), Started)

    def next(self) -> Event | None:
        """The next event; None at the end of the connection."""
        while (event := self.session.next_event()) is None:
            data = self.receive()
            if not data:
                return None
            self.session.receive_data(data)
        self.events.append(event)
        return event

    def receive(self) -> bytes:
        """What the server sent; b"" at the end, also when it ended by a reset."""
        try:
            return self.sock.recv(65_536)
        except ConnectionResetError:
            return b""

    def drain(self) -> None:
        """Everything up to the end of the connection."""
        while self.next() is not None:
            pass

    def error(self) -> Error:
        """The error that ends this connection: there is one, and then there is the end."""
        self.drain()
        (error,) = [event for event in self.events if isinstance(event, Error)]
        rest = self.events[self.events.index(error) + 1 :]
        assert all(isinstance(event, Closed) for event in rest)
        return error

    def reset(self) -> None:
        """Drop the connection with a RST, as a crashed host's kernel does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()


__all__ = ["Audio", "MessageType", "RawClient", "frame"]
