"""One running child process and the parent's end of its control socket.

Knows how a worker and a service are started (their command lines are the contract) and how
messages and descriptors reach them. Decides nothing: children.py says when, supervisor.py acts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import MAX_MESSAGE_BYTES, Log, SupervisorMessage

from .children import Child, Kind

# A datagram must fit the socket's send buffer with its bookkeeping.
_CONTROL_BUFFER_BYTES = 2 * MAX_MESSAGE_BYTES
# Unless the user's own environment says otherwise.
_ENVIRONMENT = {
    # numpy's own threads would compete with the engine's: features took 1.6 ms instead of 13.
    "OPENBLAS_NUM_THREADS": "1",
    # One heap for all threads: of others malloc_trim(3) does not give back all that is free
    # (gpu_service/cpu/free_memory.py).
    "MALLOC_ARENA_MAX": "1",
}
_MODULES = {Kind.WORKER: "gateway.worker", Kind.SERVICE: "gpu_service"}


def control_pair() -> tuple[socket.socket, socket.socket]:
    """(parent's end, child's end) of a control socket; the parent's does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONTROL_BUFFER_BYTES)
    ours.setblocking(False)
    return ours, theirs


def raise_descriptor_limit() -> None:
    """Allow this process and its children as many descriptors as the system lets us have.

    The usual soft limit of 1024 is there for select(); every connection needs one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class ChildProcess:
    """A started child; `child` is its entry in the supervisor's table."""

    def __init__(
        self, child: Child, arguments: Callable[[int], tuple[str, tuple[int, ...]]]
    ) -> None:
        """Start it. Raises OSError: no memory, descriptor or process number now.

        Args:
            arguments: for its end of the control socket: --config, and the descriptors it inherits.
        """
        self.child = child
        self._fds: list[int] = []  # came with the last message
        self.access_revision = -1  # of the Access message it has; -1: none yet
        # A session of its own: Ctrl-C at the terminal reaches the parent alone, which drains.
        # The child ends by itself when the parent's end of its control socket closes.
        self.control, theirs = control_pair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self.control.close)
            config_json, pass_fds = arguments(theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULES[child.kind], "--config", config_json],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env={**_ENVIRONMENT, **os.environ},
                pass_fds=pass_fds,
                start_new_session=True,
            )
            undo.pop_all()

    @property
    def pid(self) -> int:
        """Process id, for logs and tests."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status (negative: signal) once the process has ended."""
        return self._process.poll()

    def send(self, message: SupervisorMessage, fds: tuple[int, ...] = ()) -> bool:
        """False when the child does not take it: it is dead, or its control socket is full."""
        try:
            send_message(self.control, message, fds)
        except OSError:
            return False
        return True

    def receive(self) -> SupervisorMessage | None:
        """The next message; None when there is none now. Raises EOFError after the last one."""
        try:
            received = receive_message(self.control)
        except BlockingIOError:
            return None
        except ConnectionError:
            raise EOFError from None
        except msgspec.DecodeError as error:
            return Log("error", f"sent a message that makes no sense: {error}")
        if received is None:
            raise EOFError
        message, fds = received
        for fd in self.take_fds():  # nobody wanted those of the message before
            os.close(fd)
        self._fds = fds
        return message

    def take_fds(self) -> list[int]:
        """The descriptors that came with the last message; the caller closes them."""
        fds, self._fds = self._fds, []
        return fds

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Reap the dead process and drop the control socket."""
        self._process.wait()
        self.control.close()
        for fd in self.take_fds():
            os.close(fd)
