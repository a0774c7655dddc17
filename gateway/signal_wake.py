"""Signals as bytes on a descriptor, for an epoll loop: no handler runs in the middle of anything.

Shell. Python's handlers only make the C level write the signal's number to a socket; the loop
reads it there. The supervisor has one; everything is as it was when it is closed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable
from types import TracebackType


class SignalWake:
    """Context manager; from its beginning to its end these signals do nothing else."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._cleanup = contextlib.ExitStack()
        wake, self._wake = socket.socketpair()
        for end in (wake, self._wake):
            end.setblocking(False)
            self._cleanup.enter_context(end)
        old_fd = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._cleanup.callback(signal.set_wakeup_fd, old_fd)
        for number in numbers:
            old = signal.signal(number, lambda *_: None)
            self._cleanup.callback(signal.signal, number, old)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._wake.fileno()

    def read(self) -> bytes:
        """The numbers of those that have come, when the descriptor is readable."""
        return self._wake.recv(4096)

    def __enter__(self) -> SignalWake:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()
