"""A private server for one command: started on a Unix socket, stopped with the command, always.

The socket lies in a new directory that only this user can enter. The server holds the read end of
a pipe whose write end is ours (--lifeline-fd), so it also ends when this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import TracebackType

import msgspec

from .errors import ClientError
from .python_child import child_environment

STOP_TIMEOUT_S = 15.0
MAX_STDERR_BYTES = 8 * 1024


class ServerFailed(ClientError):
    """The private server did not start; the text is its own last message."""


class Ports(msgspec.Struct, frozen=True):
    """The line that the server writes when it is ready."""

    http_port: int
    native_port: int | None
    uds: str | None
    pid: int


class ServerProcess:
    """Context manager; `options` are further flags of `python -m gateway`.

    The constructor returns when the server is ready. Raises ServerFailed.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._directory = tempfile.mkdtemp(prefix="earwire-")
        self._tail = bytearray()
        self._lifeline: int | None = None
        try:
            self.ports = self._start(options)
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"unix://{self.ports.uds}"

    def _start(self, options: Sequence[str]) -> Ports:
        lifeline, self._lifeline = os.pipe()
        ready_read, ready_write = os.pipe()
        command = [
            sys.executable, "-m", "gateway", "--port", "0",
            "--uds", os.path.join(self._directory, "native.sock"),
            "--ready-fd", str(ready_write), "--lifeline-fd", str(lifeline), *options,
        ]  # fmt: skip
        # A session of its own: Ctrl-C is for the command, which then stops the server.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_environment(),
            pass_fds=(ready_write, lifeline),
            start_new_session=True,
        )
        os.close(ready_write)
        os.close(lifeline)
        self._reader = threading.Thread(target=self._keep_tail, daemon=True)
        self._reader.start()
        with open(ready_read, "rb") as ready:
            line = ready.readline()
        if not line:
            self._process.wait()
            self._reader.join()
            raise ServerFailed(f"the server did not start: {self.last_message()}")
        return msgspec.json.decode(line, type=Ports)

    def _keep_tail(self) -> None:
        assert self._process.stderr is not None
        fd = self._process.stderr.fileno()
        while data := os.read(fd, 4096):
            self._tail += data
            del self._tail[:-MAX_STDERR_BYTES]

    def last_message(self) -> str:
        """Why the server ended, and what its children said last, if anything."""
        lines = self._tail.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        why = lines[-1].removeprefix("earwire: ").removeprefix("error: ")
        # A child that dies of an exception has said so on stderr, and nothing to its parent.
        ours = ("earwire: worker", "earwire: service", "lost service")
        said = [line for line in lines[:-1] if line.strip() and not line.startswith(ours)]
        if not said or not why.endswith("above"):
            return why
        return said[-1].strip().removeprefix("earwire: ")

    def close(self) -> None:
        """Stop the server and remove its directory."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            process.kill()
            process.wait()
            self._reader.join()
            if process.stderr is not None:
                process.stderr.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
