"""A worker that lost its link to a service that lives gets another one: what the worker says of it,
and what the supervisor does.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.child_process import control_pair
from gateway.children import Child, Kind, Standing
from gateway.config import ServerConfig
from gateway.supervisor import Supervisor
from protocol.shm import receive_message
from protocol.supervisor_messages import Link, Log, Remaining, SupervisorMessage, Unlinked

from .rig import Rig


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


class BusyParent:
    """The parent of a worker, which reads when it is told to."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.control, theirs = control_pair()
        self.rig.sockets.append(self.control)
        self.rig.worker.attach_parent(theirs)
        self.worker: Any = self.rig.worker

    def is_busy(self) -> None:
        """From here on nothing reaches it."""
        while self.worker._control.send(Log("info", "x" * 10_000)):
            pass

    def reads(self) -> list[Unlinked]:
        """What it hears of lost links."""
        heard = []
        while (message := self._receive()) is not None:
            heard.append(message)
        return [message for message in heard if isinstance(message, Unlinked)]

    def _receive(self) -> SupervisorMessage | None:
        try:
            received = receive_message(self.control)
        except BlockingIOError:
            return None
        assert received is not None
        return received[0]

    def a_second_later(self) -> list[Unlinked]:
        self.rig.clock.advance_ms(1_000)
        self.rig.settle()
        return self.reads()


@pytest.fixture
def parent() -> Iterator[BusyParent]:
    parent = BusyParent()
    yield parent
    parent.rig.close()


def test_a_parent_that_is_busy_hears_of_a_lost_link_later_and_once(parent: BusyParent) -> None:
    services = [parent.rig.add_service(index, epoch=4) for index in range(2)]
    parent.is_busy()
    for service in services:
        service.sock.close()
    parent.rig.settle()
    assert parent.reads() == []
    assert parent.a_second_later() == [Unlinked(0, 4), Unlinked(1, 4)]
    assert parent.a_second_later() == []


def test_of_a_link_that_was_made_again_meanwhile_it_hears_nothing(parent: BusyParent) -> None:
    service = parent.rig.add_service(epoch=4)
    parent.is_busy()
    service.sock.close()
    parent.rig.settle()
    parent.rig.add_service(epoch=5)
    assert parent.reads() == []
    assert parent.a_second_later() == []
