"""The worker's end of the parent's control socket: one datagram a message, with descriptors.

Shell. It passes messages on and says when the parent is gone. The parent's socket buffer is the
only queue: a message that does not fit is not sent, and `send` says so. Periodic ones may fall out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import msgspec

from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import SupervisorMessage

from .event_loop import EventLoop

MAX_MESSAGES_PER_TURN = 32


class ControlLink:
    """Calls `on_message` with each message and its descriptors, `on_gone` at the end."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        on_message: Callable[[SupervisorMessage, list[int]], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_gone = on_gone
        sock.setblocking(False)
        loop.register(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(MAX_MESSAGES_PER_TURN):
            try:
                received = receive_message(self._sock)
            except BlockingIOError:
                return
            except OSError:
                received = None
            except msgspec.DecodeError as error:
                raise AssertionError(f"the parent sent what it should not: {error}") from error
            if received is None:
                self.close()
                self._on_gone()
                return
            self._on_message(*received)

    def send(self, message: SupervisorMessage, fds: tuple[int, ...] = ()) -> bool:
        """False when the parent does not take it now, or is gone."""
        try:
            send_message(self._sock, message, fds)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the socket."""
        if self._sock.fileno() >= 0:
            self._loop.unregister(self._sock.fileno())
            self._sock.close()
