"""Connects at a rate, from one address of this machine or from many, that nothing is sent on."""

from __future__ import annotations

import contextlib
import socket
import time

STORM_S = 3.0
CONNECTS_PER_S = 1_000


class Storm:
    """Connects that are kept open as long as the server likes."""

    def __init__(self, port: int, num_addresses: int) -> None:
        self._port = port
        self._addresses = [f"127.1.{i // 250}.{i % 250 + 1}" for i in range(num_addresses)]
        self._begin_s = time.monotonic()
        self._sockets: list[socket.socket] = []

    @property
    def num_connects(self) -> int:
        """Tried so far."""
        return len(self._sockets)

    def blow(self) -> bool:
        """All connects that are due; False when it is over."""
        now_s = time.monotonic() - self._begin_s
        while self.num_connects < min(now_s, STORM_S) * CONNECTS_PER_S:
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind((self._addresses[self.num_connects % len(self._addresses)], 0))
            with contextlib.suppress(OSError):  # it goes on in the background, or is refused
                sock.connect(("127.0.0.1", self._port))
            self._sockets.append(sock)
        return now_s < STORM_S

    def stop(self) -> None:
        for sock in self._sockets:
            sock.close()
