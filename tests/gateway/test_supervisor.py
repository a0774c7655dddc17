"""The parent with its real children: start, failure, restart, drain, and nothing left behind.

tests/system/ kills servers under load; these are the supervisor's own duties, one by one.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.children import Child, Kind
from gateway.config import ServerConfig
from gateway.supervisor import Supervisor
from protocol.supervisor_messages import Link

pytestmark = pytest.mark.system


class Parent:
    """`python -m gateway`, its first line on --ready-fd, and its stderr line by line."""

    def __init__(self, *options: str) -> None:
        read_fd, write_fd = os.pipe()
        lifeline, self.lifeline = os.pipe()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "gateway", "--port=0", "--ready-fd", str(write_fd),
                "--lifeline-fd", str(lifeline), "--log-level=debug", *options,
            ],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            pass_fds=(write_fd, lifeline),
            text=True,
        )  # fmt: skip
        os.close(write_fd)
        os.close(lifeline)
        self.ready = open(read_fd, "rb")  # noqa: SIM115  (closed by `close`)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr

    def wait_ready(self) -> dict[str, Any]:
        line = self.ready.readline()
        assert line, self.stderr.read()
        fields: dict[str, Any] = json.loads(line)
        return fields

    def wait_line(self, text: str) -> str:
        for line in self.stderr:
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}")

    def child_pids(self) -> list[int]:
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listing.split()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.ready.close()
        self.stderr.close()
        os.close(self.lifeline)


@pytest.fixture
def parent() -> Iterator[Parent]:
    server = Parent()
    yield server
    server.close()


def wait_end(pid: int) -> None:
    """Returns when the process, whosever child it is, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with open(fd, "rb", buffering=0) as handle:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        assert poller.poll(10_000), f"process {pid} lives on"


def test_ready_then_drained_by_sigterm(parent: Parent) -> None:
    fields = parent.wait_ready()
    assert fields["http_port"] > 0
    assert (fields["native_port"], fields["wyoming_port"], fields["uds"]) == (None, None, None)
    assert fields["pid"] == parent.process.pid
    assert f"http://127.0.0.1:{fields['http_port']}" in parent.wait_line("listening on")
    parent.wait_line("ready in ")
    assert not [name for name in os.listdir("/dev/shm") if "earwire" in name]
    control = Path(fields["control"])
    assert control.name == f"earwire-{fields['http_port']}.control"
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    parent.process.send_signal(signal.SIGTERM)
    assert parent.process.wait() == 0
    assert not control.exists()
    parent.wait_line("draining")


def test_a_killed_child_is_started_again_and_linked(parent: Parent) -> None:
    parent.wait_ready()
    for kind, module in (("service", "gpu_service"), ("worker", "gateway.worker")):
        (pid,) = pids_of(parent, module)
        os.kill(pid, signal.SIGKILL)
        parent.wait_line(f"{kind} 0 was killed by signal 9; starting it again")
        parent.wait_line(f"{kind} 0 ready")


def test_without_descriptors_it_waits_until_there_are_some(parent: Parent) -> None:
    parent.wait_ready()
    pid, (worker,) = parent.process.pid, pids_of(parent, "gateway.worker")
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, limits[1]))
    os.kill(worker, signal.SIGKILL)
    assert "Too many open files" in parent.wait_line("cannot start worker 0")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    parent.wait_line("worker 0 ready")
    assert parent.process.poll() is None


class Linked:
    """A child that remembers what it was sent."""

    def __init__(self, kind: Kind) -> None:
        self.child, self.status = Child(kind, 0), None
        self.sent: list[object] = []
        self.stands_still = False

    def poll(self) -> int | None:
        return self.status

    def send(self, message: object, fds: tuple[int, ...] = ()) -> bool:
        if self.stands_still:
            return False
        self.sent.append(message)
        return True


def test_what_could_not_be_joined_is_joined_later(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor: Any = Supervisor(ServerConfig(log_level="error"))
    supervisor._arena_fds = [0]
    worker, service = Linked(Kind.WORKER), Linked(Kind.SERVICE)
    real, num_left = socket.socketpair, [2]

    def scarce() -> tuple[socket.socket, socket.socket]:
        num_left[0] -= 1
        if num_left[0] >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real()

    monkeypatch.setattr(socket, "socketpair", scarce)
    supervisor._link(service, worker)
    supervisor._join_again()
    assert worker.sent == service.sent == []
    supervisor._join_again()
    assert [type(each.sent[0]) for each in (worker, service)] == [Link, Link]
    supervisor._join_again()
    assert len(worker.sent) == len(service.sent) == 1


def test_a_worker_that_stood_still_is_joined_later() -> None:
    """Its control socket is full: the link that it misses no one else would make."""
    supervisor: Any = Supervisor(ServerConfig(log_level="error"))
    supervisor._arena_fds = [0]
    worker, service = Linked(Kind.WORKER), Linked(Kind.SERVICE)
    worker.stands_still = True
    supervisor._link(service, worker)
    assert service.sent == [], "it would wait for the end that nobody has"
    supervisor._join_again()
    worker.stands_still = False
    supervisor._join_again()
    supervisor._join_again()
    assert [type(each) for each in worker.sent + service.sent] == [Link, Link]


def test_a_server_outlives_whoever_reads_its_log() -> None:
    server = Parent()
    server.wait_ready()
    server.stderr.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait() == 0
    server.close()


def pids_of(parent: Parent, module: str) -> list[int]:
    return [
        pid
        for pid in parent.child_pids()
        if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_children_do_not_outlive_a_killed_parent(parent: Parent) -> None:
    parent.wait_ready()
    pids = parent.child_pids()
    assert len(pids) == 2
    parent.process.kill()
    for pid in pids:
        wait_end(pid)


def test_the_end_of_the_lifeline_drains(parent: Parent) -> None:
    parent.wait_ready()
    os.close(parent.lifeline)
    assert parent.process.wait() == 0
    parent.lifeline = os.open(os.devnull, os.O_RDONLY)  # for `close`


def test_an_unusable_model_ends_the_server_with_the_services_words() -> None:
    server = Parent("--model=/nonexistent")
    try:
        assert server.process.wait() == 1
        assert server.ready.readline() == b""
        text = server.stderr.read()
        assert "/nonexistent is no model" in text
        assert "service 0 failed before it was ready" in text.splitlines()[-1]
    finally:
        server.close()


def test_a_service_that_hangs_is_killed_and_started_again() -> None:
    server = Parent("--service-timeout-ms=1500")
    try:
        server.wait_ready()
        (pid,) = pids_of(server, "gpu_service")
        os.kill(pid, signal.SIGSTOP)
        server.wait_line("service 0 has not moved for")
        server.wait_line("service 0 was killed by signal 9; starting it again")
        server.wait_line("service 0 ready")
    finally:
        server.close()
