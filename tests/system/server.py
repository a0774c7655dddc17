"""`python -m gateway` as its users start it, with everything a test wants to know about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from .processes import Process, children_of, is_alive
from .waiting import wait_for

START_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 30.0


class Server:
    """Context manager: a whole server on free ports, ready when the constructor returns.

    `log` holds its stderr, line by line. Leaving the context ends every process of it.
    """

    def __init__(self, *options: str, uds: Path | None = None, native: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="earwire-test-")
        self.uds = uds or Path(self._folder.name) / "native.sock"
        self.log: list[str] = []
        self._seen: set[int] = set()  # pids of children
        read_fd, write_fd = os.pipe()
        listeners = ["--port", "0", "--uds", str(self.uds)]
        if native:
            listeners += ["--native-port", "0"]
        command = [sys.executable, "-m", "gateway", *listeners, "--ready-fd", str(write_fd)]
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(write_fd,),
            start_new_session=True,
        )
        os.close(write_fd)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            with open(read_fd, "rb") as ready:
                line = ready.readline()
            assert line, f"the server did not start: {self.log}"
            self.addresses: dict[str, Any] = json.loads(line)
            self.children()
        except BaseException:
            self.close()
            raise

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.decode("utf-8", "replace").rstrip("\n"))

    # Where it is

    @property
    def pid(self) -> int:
        """Of the parent."""
        return self.process.pid

    @property
    def http_port(self) -> int:
        """HTTP and WebSocket."""
        return int(self.addresses["http_port"])

    @property
    def native_port(self) -> int:
        """The native protocol over TCP."""
        return int(self.addresses["native_port"])

    @property
    def native_url(self) -> str:
        """For clients.blocking.Client."""
        return f"earwire://127.0.0.1:{self.native_port}"

    @property
    def unix_url(self) -> str:
        """The same over the Unix socket."""
        return f"unix://{self.uds}"

    @property
    def websocket_url(self) -> str:
        """The same inside WebSocket messages."""
        return f"ws://127.0.0.1:{self.http_port}"

    def together_url(self, query: str) -> str:
        """Together's endpoint."""
        return f"ws://127.0.0.1:{self.http_port}/v1/realtime?{query}"

    # Its processes

    def children(self) -> list[Process]:
        """Living workers and services."""
        children = children_of(self.pid)
        self._seen |= {child.pid for child in children}
        return children

    def services(self) -> list[Process]:
        """Living recognition processes, oldest first."""
        return [child for child in self.children() if "-m gpu_service" in child.command]

    def workers(self) -> list[Process]:
        """Living gateway workers, oldest first."""
        return [child for child in self.children() if "-m gateway.worker" in child.command]

    def kill(self, process: Process) -> None:
        """SIGKILL to one of its children, and wait until it is gone."""
        assert process.parent == self.pid
        os.kill(process.pid, signal.SIGKILL)
        wait_for(f"the end of {process.pid}", lambda: not is_alive(process.pid))

    def wait_log(self, text: str, timeout_s: float = 30.0, start: int = 0) -> str:
        """The first line of the log, from line `start` on, that contains `text`."""
        return wait_for(
            f"{text!r} in the log",
            lambda: next((line for line in self.log[start:] if text in line), None),
            timeout_s,
        )

    def close_records(self) -> list[dict[str, Any]]:
        """The close records logged so far."""
        return [json.loads(line) for line in list(self.log) if line.startswith('{"event":"stream_')]

    def wait_close_record(self, client: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The close record of the client that called itself so in its hello."""
        return wait_for(
            f"the close record of {client}",
            lambda: next((r for r in self.close_records() if r["client"] == client), None),
            timeout_s,
        )

    # Its end

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """A signal to the parent."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        """The parent's exit status."""
        return self.process.wait(timeout_s)

    def survivors(self) -> list[int]:
        """Children ever seen that still live."""
        return [pid for pid in sorted(self._seen) if is_alive(pid)]

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.children()
        if self.process.poll() is None:
            for _ in range(2):  # the second signal skips the drain
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in self._seen:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self._reader.join(10.0)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
