"""The supervisor's decisions, at chosen times and without processes."""

from __future__ import annotations

import pytest

from gateway.children import (
    EXIT_DEVICE_LOST,
    EXIT_HOPELESS,
    FIRST_DELAY_NS,
    HEALTHY_NS,
    MAX_DEATHS_BEFORE_READY,
    MAX_DELAY_NS,
    Child,
    Children,
    Kind,
    Phase,
    Standing,
    describe_status,
    link_of,
    restart_delay_ns,
)
from protocol.supervisor_messages import Link

SECOND_NS = 1_000_000_000


def start_all(children: Children, now_ns: int = 0) -> None:
    for child in children.due(now_ns):
        children.started(child)


def the(children: Children, kind: Kind) -> Child:
    return next(c for c in children.members if c.kind is kind)


@pytest.fixture
def children() -> Children:
    fleet = Children.of(1, 1)
    start_all(fleet)
    return fleet


def test_everything_is_due_at_once_services_first() -> None:
    due = Children.of(2, 1).due(0)
    assert [c.name for c in due] == ["service 0", "worker 0", "worker 1"]


def test_delays_double_up_to_a_bound() -> None:
    delays = [restart_delay_ns(n) for n in range(1, 40)]
    assert delays[:3] == [FIRST_DELAY_NS, 2 * FIRST_DELAY_NS, 4 * FIRST_DELAY_NS]
    assert delays[-1] == MAX_DELAY_NS


def test_ready_needs_all_workers_and_one_service() -> None:
    fleet = Children.of(2, 2)
    start_all(fleet)
    services = [c for c in fleet.members if c.kind is Kind.SERVICE]
    workers = [c for c in fleet.members if c.kind is Kind.WORKER]
    fleet.became_ready(services[1], 1)
    fleet.became_ready(workers[0], 1)
    assert not fleet.all_ready
    fleet.became_ready(workers[1], 1)
    assert fleet.all_ready


def test_ready_needs_a_service_of_each_model() -> None:
    fleet = Children.of(1, 2, ("a", "b"))
    start_all(fleet)
    assert [(c.model, c.rank) for c in fleet.services(0) + fleet.services(1)] == [
        ("a", 0), ("a", 0), ("b", 1), ("b", 1),
    ]  # fmt: skip
    fleet.became_ready(the(fleet, Kind.WORKER), 1)
    fleet.became_ready(fleet.services(0)[1], 1, "a")
    assert not fleet.all_ready
    fleet.became_ready(fleet.services(1)[0], 1, "b")
    assert fleet.all_ready


def test_a_worker_is_told_which_service_it_is_joined_to() -> None:
    service = Child(Kind.SERVICE, 3, "b", 1, aliases=("a",), epoch=2)
    assert link_of(service) == Link(3, 2, 1, ("a",), retiring=False)
    service.standing = Standing.TRIAL
    assert link_of(service).retiring


def test_a_service_has_a_number_of_its_own() -> None:
    fleet = Children.of(1, 1)
    (first,) = fleet.add_services("m", 0, 1, Standing.TRIAL)
    start_all(fleet)
    fleet.exited(first, -9, 0)
    assert first.phase is Phase.GONE
    assert first not in fleet.members, "a trial is not repeated"
    (second,) = fleet.add_services("m", 0, 1)
    assert (first.index, second.index) == (1, 2)


def test_samples(children: Children) -> None:
    children.became_ready(the(children, Kind.WORKER), 0)
    children.restarts[Kind.SERVICE] = 4
    values = {(s.name, s.labels[0][1]): s.value for s in children.samples()}
    assert values == {
        ("earwire_children_up", "worker"): 1,
        ("earwire_children_up", "service"): 0,
        ("earwire_child_restarts_total", "worker"): 0,
        ("earwire_child_restarts_total", "service"): 4,
    }


def test_a_dead_child_is_due_again_after_its_delay_with_a_new_epoch(children: Children) -> None:
    service = the(children, Kind.SERVICE)
    assert service.epoch == 0
    children.became_ready(service, 0)
    children.exited(service, -9, SECOND_NS)
    assert children.next_deadline() == SECOND_NS + FIRST_DELAY_NS
    assert children.due(SECOND_NS) == []
    assert children.running(Kind.SERVICE) == []
    assert children.due(SECOND_NS + FIRST_DELAY_NS) == [service]
    children.started(service)
    assert service.epoch == 1
    assert children.restarts == {Kind.WORKER: 0, Kind.SERVICE: 1}
    assert children.next_deadline() is None


def test_crashes_soon_after_ready_wait_longer_and_longer(children: Children) -> None:
    worker, now_ns = the(children, Kind.WORKER), 0
    for expected in (1, 2, 4, 8):
        children.became_ready(worker, now_ns)
        children.exited(worker, 1, now_ns + 1)
        assert worker.start_at_ns - now_ns - 1 == expected * FIRST_DELAY_NS
        now_ns = worker.start_at_ns
        children.started(worker)
    assert not children.failure


def test_a_crash_after_a_healthy_time_is_a_first_crash(children: Children) -> None:
    worker = the(children, Kind.WORKER)
    for _ in range(3):
        children.became_ready(worker, 0)
        children.exited(worker, 1, 1)
        children.started(worker)
    children.became_ready(worker, 0)
    children.exited(worker, 1, HEALTHY_NS)
    assert worker.start_at_ns == HEALTHY_NS + FIRST_DELAY_NS


def test_gives_up_on_a_child_that_is_never_ready(children: Children) -> None:
    service = the(children, Kind.SERVICE)
    service.last_error = "no such model"
    for _ in range(MAX_DEATHS_BEFORE_READY - 1):
        children.exited(service, 1, 0)
        assert service.phase is Phase.WAITING
        children.started(service)
    children.exited(service, 1, 0)
    assert children.is_ending
    assert children.failure == "service 0 failed 5 times before it was ready: no such model"
    assert children.due(10**18) == []


def test_ready_once_resets_the_count_of_failed_starts(children: Children) -> None:
    service = the(children, Kind.SERVICE)
    for _ in range(MAX_DEATHS_BEFORE_READY - 1):
        children.exited(service, 1, 0)
        children.started(service)
    children.became_ready(service, 0)
    children.exited(service, 1, 0)
    children.started(service)
    children.exited(service, 1, 0)
    assert not children.failure


def test_a_wrong_configuration_is_not_tried_twice(children: Children) -> None:
    children.exited(the(children, Kind.SERVICE), EXIT_HOPELESS, 0)
    assert children.failure == (
        "service 0 failed before it was ready: "
        f"it exited with status {EXIT_HOPELESS}; its messages are above"
    )


def test_nothing_is_restarted_once_ending(children: Children) -> None:
    worker, service = the(children, Kind.WORKER), the(children, Kind.SERVICE)
    children.exited(worker, 1, 0)
    children.end()
    assert worker.phase is Phase.GONE
    children.exited(service, 0, 0)
    assert children.due(10**18) == []
    assert children.running() == []
    assert not children.failure


def test_statuses_in_words() -> None:
    assert describe_status(-9) == "was killed by signal 9"
    assert describe_status(3) == "exited with status 3"
    assert describe_status(EXIT_DEVICE_LOST) == "lost its GPU and exited with status 4"


def test_a_service_that_lost_its_device_is_started_again(children: Children) -> None:
    service = the(children, Kind.SERVICE)
    children.became_ready(service, 0)
    children.exited(service, EXIT_DEVICE_LOST, SECOND_NS)
    assert children.due(SECOND_NS + FIRST_DELAY_NS) == [service]
    assert not children.failure


def test_a_service_that_gives_no_sign_of_life_is_stuck(children: Children) -> None:
    worker, service = the(children, Kind.WORKER), the(children, Kind.SERVICE)
    timeout_ns = 10 * SECOND_NS
    assert children.stuck(10**18, timeout_ns) == [], "a start takes as long as it takes"
    children.became_ready(worker, 0)
    children.became_ready(service, 5 * SECOND_NS)
    assert children.stuck(15 * SECOND_NS, timeout_ns) == []
    assert children.stuck(15 * SECOND_NS + 1, timeout_ns) == [service]
    service.alive_ns = 15 * SECOND_NS
    assert children.stuck(25 * SECOND_NS, timeout_ns) == []
    assert children.stuck(10**18, 0) == [], "0 means never"
    children.exited(service, -9, 26 * SECOND_NS)
    assert children.stuck(10**18, timeout_ns) == []


def test_who_did_not_look_holds_nothing_against_a_service(children: Children) -> None:
    worker, service = the(children, Kind.WORKER), the(children, Kind.SERVICE)
    children.forgive(SECOND_NS)
    assert service.alive_ns == 0, "its time begins when it is ready"
    children.became_ready(worker, 0)
    children.became_ready(service, 0)
    children.forgive(20 * SECOND_NS)
    assert (worker.alive_ns, service.alive_ns) == (0, 20 * SECOND_NS)
    assert children.stuck(30 * SECOND_NS, 10 * SECOND_NS) == []
    assert children.stuck(31 * SECOND_NS, 10 * SECOND_NS) == [service]
