"""Supervisor: a worker that lost its link to a service that lives gets another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.children import Child, Kind, Standing
from gateway.config import ServerConfig
from gateway.supervisor import Supervisor
from protocol.supervisor_messages import Link, Remaining, SupervisorMessage, Unlinked


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
