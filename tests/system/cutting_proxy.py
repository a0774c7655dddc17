"""A TCP proxy that can lose its network: every connection breaks, and new ones are refused."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

_PIECE_BYTES = 65_536


class CuttingProxy:
    """Context manager; forwards to a local port, a thread for each direction."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def num_open(self) -> int:
        """Sockets of connections since the last cut."""
        return len(self._open)

    def cut(self) -> None:
        """Break everything, and refuse what comes, until `mend`."""
        with self._lock:
            self._is_cut = True
            broken, self._open = self._open, set()
        for sock in broken:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Forward again."""
        self._is_cut = False

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                client = self._listener.accept()[0]
                if self._is_cut:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target_port))
                if not self._register(client, server):
                    client.close()
                    server.close()
                    continue
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=pair, daemon=True).start()

    def _register(self, client: socket.socket, server: socket.socket) -> bool:
        """False when everything was cut since `client` was accepted."""
        with self._lock:
            if not self._is_cut:
                self._open |= {client, server}
            return not self._is_cut

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
        return
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
