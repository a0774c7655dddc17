"""A tormentor beside a test: starts the proxy's process, knows its port, collects its records."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from .plan import Torment


class Tormentor:
    """Context manager. `target` is a TCP port of this machine, or the path of a Unix socket."""

    def __init__(self, target: int | str, *torments: Torment) -> None:
        self.records: list[dict[str, Any]] = []  # of connections that have ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torment.proxy", str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_line(torments or (Torment(),)))
        self._process.stdin.flush()
        self.port = int(self._process.stdout.readline())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.records.append(json.loads(line))

    @property
    def native_url(self) -> str:
        """For clients.blocking.Client."""
        return f"earwire://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        """The native protocol inside WebSocket messages."""
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Tormentor:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10.0)
        self._reader.join(10.0)
        self._process.stdout.close()


def _line(torments: Sequence[Torment]) -> str:
    return json.dumps([torment.as_json() for torment in torments]) + "\n"
