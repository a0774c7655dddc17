"""Transports: what lies between a socket's bytes and a dialect's messages. Pure.

The connection shell drives one per socket. RawTransport is the native byte stream (TCP, Unix);
web_transport.py has HTTP and WebSocket. Both speak the same few verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.client_messages import Error

from .dialects import Dialect, WriteAudio
from .dialects.native import NativeDialect


@dataclass(frozen=True, slots=True)
class Upgraded:
    """From here on this dialect's messages travel here."""

    dialect: Dialect


@dataclass(frozen=True, slots=True)
class InputEnded:
    """The client sends no more."""


TransportEvent: TypeAlias = bytes | str | Upgraded | InputEnded

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

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """Take received bytes, good only during the call; an empty view is the end of input."""

    def discard_data(self, data: memoryview) -> None:
        """Take bytes after `close`: only what ends the transport properly is looked at."""

    def next_event(self) -> TransportEvent | None:
        """The next message or event; None when more bytes are needed."""

    def audio_lane(self) -> AudioLane | None:
        """The short way for audio in ring format, if this transport has one for its dialect."""

    def send(self, item: bytes | str) -> None:
        """Queue one item of a dialect's output."""

    def refuse(self, error: Error) -> None:
        """Say why this client cannot come in, before there is a dialect that could."""

    def close(self, error: Error | None, now_ns: int) -> None:
        """Queue what ends the conversation, if anything does; `error` is why, if one is."""

    def data_to_send(self) -> bytes:
        """Take what is queued for the socket."""


class RawTransport:
    """The native protocol's own byte stream: nothing to add, nothing to take away."""

    should_close = False
    can_send = True  # a client that only ended its own direction still hears its finals

    def __init__(self, dialect: NativeDialect) -> None:
        self._dialect = dialect
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

    def audio_lane(self) -> AudioLane:
        """The dialect cuts bytes itself."""
        return self._dialect.receive_audio

    def send(self, item: bytes | str) -> None:
        """Queue bytes; a dialect for byte streams never sends text."""
        if isinstance(item, str):
            raise AssertionError("text on a byte stream")
        self._out.append(item)

    def refuse(self, error: Error) -> None:
        """The native dialect is there from the start and says it."""

    def close(self, error: Error | None, now_ns: int) -> None:
        """Closing the socket says it."""

    def data_to_send(self) -> bytes:
        """Everything queued."""
        if not self._out:
            return b""
        out, self._out = self._out, []
        return b"".join(out)
