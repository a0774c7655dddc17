"""Supervisor: it kills a service that hangs, and none for having stood still itself."""

from __future__ import annotations

from typing import Any

from gateway.children import Kind
from gateway.config import ServerConfig
from gateway.supervisor import STATS_INTERVAL_NS, Supervisor

STOPPED_NS = 15_000_000_000
TIMEOUT_MS = 10_000


class StillProcess:
    """A child_process.ChildProcess that only knows whether it was killed."""

    was_killed = False

    def kill(self) -> None:
        self.was_killed = True


def ready_service(supervisor: Any, now_ns: int) -> StillProcess:
    (child,) = supervisor._children.services(0)
    supervisor._children.started(child)
    supervisor._children.became_ready(child, now_ns)
    process = StillProcess()
    supervisor._processes[Kind.SERVICE, child.index] = process
    return process


def test_a_parent_that_stood_still_does_not_blame_its_services() -> None:
    """Ctrl-Z and fg, or a frozen machine: what they said meanwhile is still to be read."""
    supervisor: Any = Supervisor(ServerConfig(service_timeout_ms=TIMEOUT_MS))
    now_ns = supervisor._next_stats_ns
    service = ready_service(supervisor, now_ns)
    supervisor._handle_timers(now_ns)
    now_ns += STOPPED_NS
    supervisor._handle_timers(now_ns)
    assert not service.was_killed
    for _ in range(TIMEOUT_MS * 1_000_000 // STATS_INTERVAL_NS):
        now_ns += STATS_INTERVAL_NS
        supervisor._handle_timers(now_ns)
        assert not service.was_killed
    supervisor._handle_timers(now_ns + STATS_INTERVAL_NS)
    assert service.was_killed, "it has had its time again"


def test_a_parent_that_is_a_little_late_finds_a_stuck_service() -> None:
    supervisor: Any = Supervisor(ServerConfig(service_timeout_ms=TIMEOUT_MS))
    now_ns = begin_ns = supervisor._next_stats_ns
    service = ready_service(supervisor, now_ns)
    supervisor._handle_timers(now_ns)
    while not service.was_killed:
        assert now_ns - begin_ns <= TIMEOUT_MS * 1_000_000
        now_ns += STATS_INTERVAL_NS * 3 // 2
        supervisor._handle_timers(now_ns)
