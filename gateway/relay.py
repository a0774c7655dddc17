"""A client of this worker whose session another worker has: bytes there and back. Shell.

A client may reconnect anywhere, and its session lives where its slot is. The worker that it came to
keeps the socket with its TLS and WebSocket; what is inside, the bytes of the native protocol,
travels to the session's worker over a socket pair whose other end the parent hands over
(Handoff). Nothing is parsed here. Either side that takes nothing stops the other.

    client <--socket--> Connection <--RelayIn, on_relayed--> Relay <--socket pair--> owner
"""

from __future__ import annotations

import socket
from typing import Protocol

from .event_loop import EventLoop

RECEIVE_BYTES = 64 * 1024  # taken from the session's worker a turn
MAX_WAITING_BYTES = 64 * 1024  # for it; above, its client is not read


class RelayOwner(Protocol):
    """The client's side (channels.Channels)."""

    @property
    def takes_relayed(self) -> bool:
        """The client reads what it is sent."""

    def on_relayed(self, data: bytes) -> None:
        """Bytes for the client."""

    def on_relay_room(self) -> None:
        """The relay takes more."""

    def on_relay_ended(self) -> None:
        """The session's worker has ended it, or was never there."""


class Relay:
    """See the module text."""

    def __init__(self, loop: EventLoop, sock: socket.socket, owner: RelayOwner) -> None:
        self._loop = loop
        self._sock = sock
        self._owner = owner
        self._out = bytearray()
        self._is_closed = False
        sock.setblocking(False)
        loop.register(sock.fileno(), self._on_readable, self._on_writable)

    @property
    def is_full(self) -> bool:
        """It takes no more now: stop reading from the client."""
        return len(self._out) > MAX_WAITING_BYTES

    def write(self, data: bytes) -> None:
        """The client's next bytes."""
        self._out += data
        self._flush()

    def watch(self) -> None:
        """Read while the client reads, write while there is something."""
        if not self._is_closed:
            self._loop.modify(self._sock.fileno(), self._owner.takes_relayed, bool(self._out))

    def close(self) -> None:
        """The client is gone; no callback comes after this."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.unregister(self._sock.fileno())
            self._sock.close()

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._owner.on_relayed(data)
        self.watch()

    def _end(self) -> None:
        self.close()
        self._owner.on_relay_ended()

    def _on_writable(self) -> None:
        was_full = self.is_full
        self._flush()
        if was_full and not self.is_full and not self._is_closed:
            self._owner.on_relay_room()

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._out) if self._out else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            # The other side has let go of the session: what it said last is said again elsewhere.
            self._end()
            return
        del self._out[:sent]
        self.watch()
