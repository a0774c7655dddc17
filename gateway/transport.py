"""Transports: what lies between a socket's bytes and a dialect's messages. Pure.

The connection shell drives one per socket. RawTransport is a byte stream (native over TCP and Unix,
Wyoming); web_transport.py has HTTP and WebSocket, tls.py encrypts either. All speak the same few
verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.client_messages import Error

from .dialects import Dialect, FileDialect, Output, WriteAudio
from .dialects.native import NativeDialect


@dataclass(frozen=True, slots=True)
class Upgraded:
    """From here on this dialect's messages travel here."""

    dialect: Dialect
    max_idle_ns: int | None = None  # what its API says of clients that send nothing


@dataclass(frozen=True, slots=True)
class BodyEnded:
    """All of a request's body was passed on."""

    dialect: FileDialect


@dataclass(frozen=True, slots=True)
class InputEnded:
    """The client sends no more."""


@dataclass(frozen=True, slots=True)
class EmptyMessage:
    """One that means nothing in its API: nothing to do, but work."""


TransportEvent: TypeAlias = bytes | str | Upgraded | BodyEnded | InputEnded | EmptyMessage

# (received, size, write, now_ns) -> bytes taken: whole audio messages at the start of
# `received[:size]` go to `write` with no event or intent made of them. Everything from the first
# byte not taken is for `receive_data`; the same bytes mean the same with and without the lane.
AudioLane: TypeAlias = Callable[[memoryview, int, WriteAudio, int], int]


class Transport(Protocol):
    """Bytes of the socket on one side, messages of the dialect on the other."""

    @property
    def should_close(self) -> bool:
        """The conversation is over; close when all is flushed."""

    @property
    def can_send(self) -> bool:
        """False once the transport's own close handshake leaves no way to the client."""

    @property
    def is_uploading(self) -> bool:
        """A request's body is on its way, whose pace `next_deadline` watches."""

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """Take received bytes, good only during the call; an empty view is the end of input."""

    def discard_data(self, data: memoryview) -> None:
        """Take bytes after `close`: only what ends the transport properly is looked at."""

    def next_event(self) -> TransportEvent | None:
        """The next message or event; None when more bytes are needed."""

    def next_deadline(self) -> int | None:
        """When handle_timer is due; None while nothing here depends on time."""

    def handle_timer(self, now_ns: int) -> None:
        """Time has passed: there may be an event now."""

    def audio_lane(self) -> AudioLane | None:
        """The short way for audio in ring format, if this transport has one for its dialect."""

    def send(self, item: Output) -> None:
        """Queue one item of a dialect's output."""

    def refuse(self, error: Error) -> None:
        """Say why this client cannot come in, before there is a dialect that could."""

    def close(self, error: Error | None, now_ns: int) -> None:
        """Queue what ends the conversation, if anything does; `error` is why, if one is."""

    def data_to_send(self) -> bytes:
        """Take what is queued for the socket."""


class RawTransport:
    """A dialect's own byte stream: nothing to add, nothing to take away."""

    should_close = False
    can_send = True  # a client that only ended its own direction still hears its finals
    is_uploading = False

    def __init__(self, dialect: Dialect) -> None:
        self._lane = dialect.receive_audio if isinstance(dialect, NativeDialect) else None
        self._received: bytes | None = None
        self._input_ended = False
        self._out: list[bytes] = []

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """One piece at a time: the shell pumps after each."""
        if not data:
            self._input_ended = True
        elif self._received is None:
            self._received = bytes(data)
        else:
            self._received += data

    def discard_data(self, data: memoryview) -> None:
        """Nothing ends this transport but the socket."""

    def next_event(self) -> TransportEvent | None:
        """What came, then the end."""
        if self._received is not None:
            received, self._received = self._received, None
            return received
        if self._input_ended:
            self._input_ended = False
            return InputEnded()
        return None

    def next_deadline(self) -> None:
        """Bytes have no time."""

    def handle_timer(self, now_ns: int) -> None:
        """Nothing waits for it."""

    def audio_lane(self) -> AudioLane | None:
        """The native dialect cuts bytes itself."""
        return self._lane

    def send(self, item: Output) -> None:
        """Queue bytes; a dialect for byte streams sends nothing else."""
        if not isinstance(item, bytes):
            raise AssertionError(f"{type(item).__name__} on a byte stream")
        self._out.append(item)

    def refuse(self, error: Error) -> None:
        """The dialect is there from the start and says it."""

    def close(self, error: Error | None, now_ns: int) -> None:
        """Closing the socket says it."""

    def data_to_send(self) -> bytes:
        """Everything queued."""
        if not self._out:
            return b""
        out, self._out = self._out, []
        return b"".join(out)
