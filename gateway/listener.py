"""A listening socket: accepts a bounded number of connections a turn and hands them over.

Shell. TCP listeners are bound here, by each worker for itself (SO_REUSEPORT; the parent holds the
port); a Unix listener is inherited. It knows no protocol: what a new connection is, its callback
decides.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TypeAlias

from .errors import ListenError
from .event_loop import EventLoop

# Gets an accepted socket and the peer's address without its port; "" for a Unix socket.
OnConnection: TypeAlias = Callable[[socket.socket, str], None]

BACKLOG = 1024
MAX_ACCEPTS_PER_TURN = 32
_PAUSE_NS = 100_000_000  # without descriptors, accept again after this
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening SO_REUSEPORT socket. Raises ListenError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ListenError(host, port, str(error)) from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(host, port, error.strerror or str(error)) from None
    return sock


class Listener:
    """Calls `on_connection` for each accepted socket."""

    def __init__(self, loop: EventLoop, sock: socket.socket, on_connection: OnConnection) -> None:
        self._loop = loop
        self._sock = sock
        self._on_connection = on_connection
        self._is_closed = False
        sock.setblocking(False)
        loop.register(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """A storm of connects is bulk work, and waits when there was enough of it."""
        if self._loop.is_bulk_waiting:
            self._watch(False)
            self._loop.call_next_turn(self._accept_in_turn)
            return
        begin_ns = self._loop.read_clock()
        self._accept()
        self._loop.charge(begin_ns)

    def _accept_in_turn(self) -> None:
        if not self._is_closed:
            self._watch(True)
            self._accept()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS_PER_TURN):
            try:
                client, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Others (a client that is gone already) concern that client only.
                if error.errno in _NO_DESCRIPTORS:
                    self._pause()
                    return
                continue
            # Events are small and must not wait for an acknowledgement; Unix sockets have no such.
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_connection(client, peer[0] if isinstance(peer, tuple) else "")

    def _pause(self) -> None:
        """Level-triggered epoll would spin on a backlog that cannot be accepted."""
        self._watch(False)
        self._loop.call_at(self._loop.now_ns + _PAUSE_NS, self._unpause)

    def _unpause(self) -> None:
        if not self._is_closed:
            self._watch(True)

    def _watch(self, read: bool) -> None:
        self._loop.modify(self._sock.fileno(), read=read, write=False)

    def close(self) -> None:
        """Listen no more."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.unregister(self._sock.fileno())
            self._sock.close()
