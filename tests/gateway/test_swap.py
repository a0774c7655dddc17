"""A swap's decisions, at chosen times and without processes."""

from __future__ import annotations

import pytest

from gateway.children import Child, Children, Kind, Phase, Standing, link_of
from gateway.swap import (
    MOVE_SLACK_NS,
    REPORT_INTERVAL_NS,
    STOP_GRACE_NS,
    Stage,
    Swap,
    name_of,
)
from protocol.supervisor_messages import Link, Remaining, Retire

SECOND_NS = 1_000_000_000
MAX_UTTERANCE_MS = 30_000


class Crew:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.told: list[Retire] = []
        self.stopped: list[int] = []
        self.killed: list[int] = []
        self.reports: list[str] = []

    def tell_workers(self, message: Retire) -> None:
        self.told.append(message)

    def stop(self, child: Child) -> None:
        self.stopped.append(child.index)

    def kill(self, child: Child) -> None:
        self.killed.append(child.index)

    def report(self, text: str) -> None:
        self.reports.append(text)


class World:
    """A server with workers and services of "old", and a swap to "new" that has begun."""

    def __init__(self, num_workers: int = 1, num_services: int = 1) -> None:
        self.children = Children.of(num_workers, num_services, ("old", "other"))
        self.now_ns = 0
        self.start()
        for child in self.children.members:
            is_service = child.kind is Kind.SERVICE
            self.children.became_ready(child, 0, f"the {child.model}" if is_service else "")
        self.old = self.children.services(0)
        self.crew = Crew()
        self.swap = Swap(self.children, self.crew, "new", 0, MAX_UTTERANCE_MS, 0)
        self.new = [c for c in self.children.services(0) if c not in self.old]
        self.start()

    def start(self) -> None:
        for child in self.children.due(self.now_ns):
            self.children.started(child)

    def ready(self, child: Child, serves: str = "the new") -> None:
        self.children.became_ready(child, self.now_ns, serves)
        self.swap.became_ready(self.now_ns)

    def end(self, child: Child, status: int = -9) -> None:
        self.children.exited(child, status, self.now_ns)
        self.swap.exited(child, self.now_ns)

    def left(self, service: Child, num_streams: int, worker: int = 0) -> None:
        self.swap.has_remaining(worker, Remaining(service.index, num_streams), self.now_ns)

    def move(self) -> None:
        """All new services are ready."""
        for child in self.new:
            self.ready(child)

    @property
    def standings(self) -> list[Standing]:
        return [child.standing for child in (*self.old, *self.new)]


def test_the_new_service_loads_while_the_old_one_serves() -> None:
    world = World()
    (new,) = world.new
    assert (new.index, new.model, new.rank) == (2, "new", 0)
    assert world.standings == [Standing.SERVING, Standing.TRIAL]
    assert link_of(new) == Link(2, 0, 0, (), retiring=True)
    assert world.swap.stage is Stage.LOADING
    assert world.crew.reports == ["loading new; the old goes on serving"]
    world.swap.tick(REPORT_INTERVAL_NS)
    world.swap.tick(REPORT_INTERVAL_NS + SECOND_NS)
    assert world.crew.reports[1:] == ["loading new: 10 s"]
    assert world.crew.told == []


def test_streams_move_when_it_is_ready_and_the_old_one_ends_when_none_is_left() -> None:
    world = World()
    (old,), (new,) = world.old, world.new
    world.now_ns = 2 * SECOND_NS
    world.ready(new)
    assert world.swap.stage is Stage.MOVING
    assert world.crew.told == [
        Retire(2, retiring=False, aliases=("the old",)),
        Retire(0, retiring=True, aliases=("the new",)),
    ]
    assert link_of(new) == Link(2, 0, 0, ("the old",), retiring=False)
    assert link_of(old).retiring
    world.left(old, 3)
    world.left(old, 3)
    world.left(old, 1)
    assert world.crew.stopped == []
    assert world.crew.reports[1:] == [
        "the new is ready after 2.0 s; sessions move",
        "sessions still with the old: 3",
        "sessions still with the old: 1",
    ]
    world.left(old, 0)
    assert world.crew.stopped == [0]
    assert world.swap.stage is Stage.STOPPING
    assert new.standing is Standing.SERVING
    world.now_ns = 3 * SECOND_NS
    world.end(old, 0)
    assert world.swap.stage is Stage.DONE
    assert world.swap.is_over
    assert world.swap.text == "the new has replaced the old in 3.0 s"
    assert world.children.services(0) == [new]


def test_every_worker_has_to_say_so_for_every_service() -> None:
    world = World(num_workers=2, num_services=2)
    one, two = world.old
    world.ready(world.new[0])
    assert world.swap.stage is Stage.LOADING, "not before all are ready"
    world.ready(world.new[1])
    for worker, service in ((0, one), (0, two), (1, one)):
        world.left(service, 0, worker)
        assert world.swap.stage is Stage.MOVING
    world.left(two, 0, 1)
    assert world.crew.stopped == [0, 1]
    world.end(one, 0)
    assert not world.swap.is_over
    world.end(two, 0)
    assert world.swap.stage is Stage.DONE


def test_what_was_said_before_the_move_does_not_count() -> None:
    world = World()
    world.left(world.old[0], 0)
    world.move()
    assert world.swap.stage is Stage.MOVING


def test_workers_are_told_again_every_second() -> None:
    world = World()
    world.move()
    told = list(world.crew.told)
    world.swap.tick(SECOND_NS)
    assert world.crew.told == told * 2


def test_a_worker_that_is_started_again_is_asked_again() -> None:
    world = World(num_workers=2)
    (old,), (worker, _) = world.old, world.children.running(Kind.WORKER)
    world.move()
    world.left(old, 0, 0)
    world.end(worker)
    world.now_ns = worker.start_at_ns
    world.start()
    world.left(old, 0, 1)
    assert world.swap.stage is Stage.MOVING
    world.left(old, 0, 0)
    assert world.swap.stage is Stage.STOPPING


def test_a_move_that_hangs_is_ended() -> None:
    world = World()
    world.move()
    world.swap.tick(MAX_UTTERANCE_MS * 1_000_000 + MOVE_SLACK_NS - 1)
    assert world.crew.stopped == []
    world.swap.tick(MAX_UTTERANCE_MS * 1_000_000 + MOVE_SLACK_NS)
    assert world.crew.stopped == [0]


def test_an_old_service_that_does_not_end_is_killed() -> None:
    world = World()
    world.move()
    world.left(world.old[0], 0)
    world.swap.tick(STOP_GRACE_NS - 1)
    assert world.crew.killed == []
    world.swap.tick(STOP_GRACE_NS)
    assert world.crew.killed == [0]


# What goes wrong


def test_a_model_that_cannot_be_loaded_leaves_all_as_it_was() -> None:
    world = World(num_services=2)
    first, second = world.new
    first.last_error = "no such model"
    world.end(first, 3)
    assert world.swap.stage is Stage.FAILED
    assert world.swap.text == "no such model; the old goes on serving"
    assert world.crew.killed == [second.index]
    assert world.crew.told == []
    world.end(second)
    assert world.children.services(0) == world.old
    assert not world.children.failure
    assert world.standings[:2] == [Standing.SERVING] * 2


def test_another_try_before_the_services_of_the_first_one_are_gone() -> None:
    world = World()
    world.swap.give_up("never mind")
    Swap(world.children, world.crew, "newer", 0, MAX_UTTERANCE_MS, 0)
    assert [c.model for c in world.children.services(0)] == ["old", "new", "newer"]
    world.end(world.new[0])
    assert [c.model for c in world.children.services(0)] == ["old", "newer"]


def test_a_new_service_that_dies_without_a_word() -> None:
    world = World()
    world.end(world.new[0])
    assert world.swap.text == "new ended before it could take over; the old goes on serving"


def test_a_service_that_was_not_even_started_yet_is_not_started() -> None:
    world = World()
    world.new[0].phase = Phase.WAITING
    world.swap.give_up("never mind")
    assert world.children.services(0) == world.old
    assert world.crew.killed == []


def test_whoever_asked_may_take_it_back_while_the_model_loads() -> None:
    world = World()
    world.swap.give_up("never mind")
    assert world.swap.text == "never mind; the old goes on serving"
    assert world.crew.killed == [2]
    moving = World()
    moving.move()
    moving.swap.give_up("never mind")
    assert moving.swap.stage is Stage.MOVING


def test_streams_come_back_when_the_new_service_dies_under_them() -> None:
    world = World()
    (old,), (new,) = world.old, world.new
    world.move()
    world.crew.told.clear()
    world.end(new)
    assert world.swap.stage is Stage.FAILED
    assert world.crew.told == [
        Retire(2, retiring=True, aliases=("the old",)),
        Retire(0, retiring=False, aliases=("the new",)),
    ]
    assert old.standing is Standing.SERVING
    assert world.children.services(0) == [old]
    assert link_of(old).aliases == ("the new",), "sessions that began with the new one go on"


def test_an_old_service_that_died_on_its_way_out_is_replaced_when_the_swap_fails() -> None:
    world = World(num_services=2)
    world.move()
    one, two = world.old
    world.end(one)
    assert world.children.services(0) == [two, *world.new]
    world.end(world.new[0])
    survivor, successor = [c for c in world.children.services(0) if c not in world.new]
    assert survivor is two
    assert (successor.model, successor.standing) == ("old", Standing.SERVING)
    assert successor.aliases == ("the new",)
    assert successor.index == 6


def test_old_services_that_die_meanwhile_only_end_it_sooner() -> None:
    world = World()
    world.move()
    world.left(world.old[0], 5)
    world.end(world.old[0])
    assert world.swap.stage is Stage.DONE


def test_an_old_service_that_is_just_being_started_again_is_not_needed_any_more() -> None:
    world = World()
    (old,) = world.old
    world.end(old)
    assert old.phase is Phase.WAITING, "no part of the swap yet"
    world.move()
    assert world.swap.stage is Stage.DONE
    assert world.children.services(0) == world.new
    assert world.crew.stopped == []
    assert Retire(old.index) in world.crew.told, "workers would wait for it to be started again"


def test_once_it_serves_the_new_service_is_started_again_like_any_other() -> None:
    world = World()
    world.move()
    world.left(world.old[0], 0)
    world.end(world.new[0])
    assert world.new[0].phase is Phase.WAITING
    assert world.swap.stage is Stage.STOPPING
    world.end(world.children.services(1)[0])
    world.end(world.old[0], 0)
    assert world.swap.stage is Stage.DONE


@pytest.mark.parametrize("stage", ["loading", "stopping"])
def test_reports_of_streams_mean_nothing_in_other_stages(stage: str) -> None:
    world = World()
    if stage == "stopping":
        world.move()
        world.left(world.old[0], 0)
    world.left(world.old[0], 9)
    world.swap.tick(SECOND_NS)
    assert world.swap.stage is Stage(stage)


def test_the_same_model_again_needs_no_other_name() -> None:
    world = World()
    world.ready(world.new[0], "the old")
    assert world.new[0].aliases == world.old[0].aliases == ()
    assert name_of(world.new) == "the old"
