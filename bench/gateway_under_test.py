"""Starts what `bench gateway` measures: a real worker process or the baseline, and behind it the
counting service. Each on the core it is given; everything ends with the context.

The worker is started as the parent starts it (same command line, same control messages, real
arena), by gateway.child_process; only the ring is small, so that thousands of slots fit.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.child_process import ChildProcess, control_pair
from gateway.children import Child, Kind
from gateway.config import WorkerConfig
from gateway.reservation import UnixListener, reserve_port
from protocol.audio import ms_to_samples
from protocol.ring import ArenaLayout
from protocol.shm import create_arena
from protocol.supervisor_messages import Link, Log, Ready

from .process_cost import copy_priority

RING_MS = 1_000
START_TIMEOUT_S = 30.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Cores:
    """Which processor each process is pinned to; two at least, three are better."""

    server: int
    generator: int
    service: int

    @classmethod
    def pick(cls) -> Cores:
        """Raises RuntimeError on a machine where server and load would share a core."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise RuntimeError("bench gateway needs two cores: one for the server, one for load")
        return cls(cores[0], cores[1], cores[2] if len(cores) > 2 else cores[1])


@dataclass(slots=True)
class Server:
    """A running server with the counting service behind it."""

    pid: int
    address: tuple[str, int] | str  # where the load goes
    http_address: tuple[str, int]
    counting: subprocess.Popen[bytes]
    counted: Path  # written by the counting service when the server is gone
    worker: ChildProcess | None = None


@contextlib.contextmanager
def _counting_service(
    link: socket.socket, core: int, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    out = folder / "counted.npz"
    with link:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.counting_service", "--fd", str(link.fileno()),
             "--out", str(out)],
            pass_fds=(link.fileno(),),
        )  # fmt: skip
    os.sched_setaffinity(process.pid, {core})
    try:
        yield process, out
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


@contextlib.contextmanager
def worker_server(
    num_slots: int, cores: Cores, folder: Path, *, unix: bool = False, gc_freeze: bool = True
) -> Iterator[Server]:
    """A real gateway worker on its core. Raises RuntimeError when it does not start."""
    with contextlib.ExitStack() as stack:
        layout = ArenaLayout(num_slots, ms_to_samples(RING_MS))
        arena_fd = create_arena(layout)
        stack.callback(os.close, arena_fd)
        http = stack.enter_context(reserve_port(HOST, 0, "--port"))
        native = stack.enter_context(reserve_port(HOST, 0, "--native-port"))
        uds = UnixListener(str(folder / "native.sock")) if unix else None
        ends = socket.socketpair()
        counting, out = stack.enter_context(_counting_service(ends[1], cores.service, folder))
        control, theirs = control_pair()
        config = WorkerConfig(
            index=0, epoch=0, host=HOST, port=http.getsockname()[1],
            native_port=native.getsockname()[1], control_fd=theirs.fileno(), arena_fd=arena_fd,
            uds_fd=uds.sock.fileno() if uds else None, max_connections=num_slots + 64, vad=True,
            hop_ms=320, max_utterance_ms=30_000, ring_ms=RING_MS, allow_origins=(),
            handshake_timeout_ms=30_000, idle_timeout_ms=300_000, gc_freeze=gc_freeze,
            log_level="warning",
        )  # fmt: skip
        with theirs:
            fds = [theirs.fileno(), arena_fd] + ([uds.sock.fileno()] if uds else [])
            json = msgspec.json.encode(config).decode()
            worker = ChildProcess(Child(Kind.WORKER, 0, epoch=0), control, json, tuple(fds))
        stack.callback(worker.close)
        stack.callback(worker.kill)
        with ends[0]:
            worker.send(Link(0, 0), (ends[0].fileno(),))
        os.sched_setaffinity(worker.pid, {cores.server})
        copy_priority(worker.pid)
        await_ready(worker)
        http_address = (HOST, http.getsockname()[1])
        address = uds.path if uds else (HOST, native.getsockname()[1])
        if uds:
            stack.callback(uds.close)
        time.sleep(0.3)  # the counting service's first Health makes the worker admit streams
        yield Server(worker.pid, address, http_address, counting, out, worker)


def await_ready(worker: ChildProcess) -> None:
    """Wait for Ready. Raises RuntimeError when the worker ends or says an error instead."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        message = worker.receive()
        if isinstance(message, Ready):
            return
        if isinstance(message, Log):
            raise RuntimeError(f"worker: {message.text}")
        if worker.poll() is not None:
            raise RuntimeError(f"the worker ended with status {worker.poll()}")
        time.sleep(0.01)
    raise RuntimeError("the worker was not ready in time")


@contextlib.contextmanager
def asyncio_server(cores: Cores, folder: Path) -> Iterator[Server]:
    """The baseline on the same core, behind it the same counting service."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=4096))
        ends = socket.socketpair()
        counting, out = stack.enter_context(_counting_service(ends[1], cores.service, folder))
        with ends[0]:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.asyncio_baseline", "--link-fd",
                 str(ends[0].fileno()), "--listen-fd", str(listener.fileno())],
                pass_fds=(ends[0].fileno(), listener.fileno()),
                stdout=subprocess.PIPE,
            )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.sched_setaffinity(process.pid, {cores.server})
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the asyncio server did not start")
        address = (HOST, listener.getsockname()[1])
        yield Server(process.pid, address, address, counting, out)
