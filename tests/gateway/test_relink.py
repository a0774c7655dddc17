"""A worker that lost its link to a service that lives, or could not take it, gets another one."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.child_process import control_pair
from gateway.children import Child, Kind, Standing
from gateway.config import ServerConfig
from gateway.supervisor import Supervisor
from gateway.worker import RELINK_NS
from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import Link, Remaining, SupervisorMessage, Unlinked

from .rig import MS, Rig


class StillProcess:
    """A child_process.ChildProcess that remembers what it is sent."""

    def __init__(self, kind: Kind, *, status: int | None = None) -> None:
        self.child = Child(kind, 0, epoch=3)
        self.status = status
        self.sent: list[tuple[SupervisorMessage, int]] = []

    def poll(self) -> int | None:
        return self.status

    def send(self, message: SupervisorMessage, fds: tuple[int, ...] = ()) -> bool:
        self.sent.append((message, len(fds)))
        return True


@pytest.mark.parametrize(
    ("epoch", "status", "is_linked"), [(3, None, True), (2, None, False), (3, -9, False)]
)
def test_only_a_living_service_of_that_epoch_is_linked(
    epoch: int, status: int | None, is_linked: bool
) -> None:
    supervisor: Any = Supervisor(ServerConfig())
    supervisor._arena_fds = [0]
    worker, service = StillProcess(Kind.WORKER), StillProcess(Kind.SERVICE, status=status)
    supervisor._processes[Kind.SERVICE, 0] = service
    supervisor._relink(worker, Unlinked(0, epoch))
    assert worker.sent == ([(Link(0, 3), 1)] if is_linked else [])
    assert service.sent == ([(Link(0, 3), 2)] if is_linked else [])


def test_a_service_that_retires_is_not_linked_again() -> None:
    """Its streams went elsewhere when the link broke, which is what was wanted."""
    supervisor: Any = Supervisor(ServerConfig())
    worker, service = StillProcess(Kind.WORKER), StillProcess(Kind.SERVICE)
    service.child.standing = Standing.RETIRING
    told: list[tuple[int, Remaining]] = []
    supervisor._processes[Kind.SERVICE, 0] = service
    supervisor._swaps = SimpleNamespace(has_remaining=lambda *args: told.append(args))
    supervisor._relink(worker, Unlinked(0, 3))
    assert told == [(0, Remaining(0, 0))]
    assert worker.sent == service.sent == []


def test_a_service_that_is_not_running_is_not_linked() -> None:
    supervisor: Any = Supervisor(ServerConfig())
    supervisor._relink(SimpleNamespace(), Unlinked(0, 0))


# The worker's side


class Parent:
    """The parent's end of a worker's control socket."""

    def __init__(self, rig: Rig) -> None:
        ours, self.sock = control_pair()
        self.sock.setblocking(False)
        self.rig = rig
        rig.sockets.append(self.sock)
        rig.worker.attach_parent(ours)

    def give_link(self, epoch: int) -> None:
        ours, theirs = socket.socketpair()
        self.rig.sockets.append(ours)
        with theirs:
            send_message(self.sock, Link(0, epoch), (theirs.fileno(),))

    def asked(self) -> list[Unlinked]:
        """Since the last time."""
        got: list[SupervisorMessage] = []
        with contextlib.suppress(BlockingIOError):
            while (received := receive_message(self.sock)) is not None:
                got.append(received[0])
        return [message for message in got if isinstance(message, Unlinked)]

    def wait(self) -> None:
        """Until the worker asks again."""
        self.rig.clock.advance_ms(RELINK_NS / MS)
        self.rig.settle()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process gets no new one; those that it has go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_a_worker_without_free_descriptors_asks_for_the_link_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    parent = Parent(rig)
    parent.give_link(epoch=1)
    with no_descriptors():
        rig.settle()
        assert not rig.worker.router.links
        assert "service 0" in caplog.text
        parent.wait()
    assert parent.asked() == [Unlinked(0, 1)]
    parent.give_link(epoch=1)
    rig.settle()
    assert rig.worker._links[0].epoch == 1
    parent.wait()
    assert parent.asked() == []


def test_a_link_that_came_by_another_way_is_not_asked_for_again(rig: Rig) -> None:
    parent = Parent(rig)
    parent.give_link(epoch=1)
    with no_descriptors():
        rig.settle()
    parent.give_link(epoch=1)
    rig.settle()
    parent.wait()
    assert parent.asked() == []
    assert rig.worker._links[0].epoch == 1
