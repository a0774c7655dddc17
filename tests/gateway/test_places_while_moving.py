"""Who comes in while the sessions of one service move to another: never more than there are places,
counted with those that are still to come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission import Admission, ServiceLoad, SlotTable
from gateway.fair_share import Room
from protocol.client_messages import Hello
from protocol.errors import ErrorCode
from protocol.service_messages import Health

from .recovery_world import SHORT, World
from .test_stream_moves import Fleet, talking

NOW_NS = 1_000_000_000
OLD, NEW = 0, 1


def health(total: int, own: int, *, seats: int = 8, model: str = "m") -> Health:
    return Health(NOW_NS, NOW_NS, 1.0, total, own, seats, 320, 30_000, (model,))


def moving(old: Health, new: Health, *, num_slots: int = 40) -> Admission:
    """One worker's view, in the middle of a swap; none of the streams is its own."""
    admission = Admission(SlotTable(num_slots))
    for index, report in ((OLD, old), (NEW, new)):
        admission.services[index] = ServiceLoad(aliases=("m", "n"))
        admission.take_health(index, report, NOW_NS)
    admission.services[OLD].retiring = True
    return admission


@pytest.mark.parametrize(
    ("at_old", "at_new", "is_full"), [(5, 2, False), (5, 3, True), (8, 0, True)]
)
def test_a_stream_that_is_to_come_has_its_place(at_old: int, at_new: int, is_full: bool) -> None:
    admission = moving(health(at_old, 0), health(at_new, 0))
    error = admission.check(Hello(model="m"), NOW_NS)
    assert (error is not None) == (admission.choose("m", NOW_NS) is None) == is_full
    assert error is None or error.code is ErrorCode.AT_CAPACITY
    assert admission.choose("m", NOW_NS, was_admitted=True) == NEW, "its place is kept for it"


def test_streams_of_this_worker_count_as_they_are_now() -> None:
    admission = moving(health(3, 3), health(0, 0, seats=4))
    for _ in range(4):
        admission.stream_opened(OLD)
    assert admission.choose("m", NOW_NS) is None
    admission.stream_left(OLD)
    assert admission.choose("m", NOW_NS) == NEW


def test_the_room_that_tokens_share_is_without_those_places() -> None:
    admission = moving(health(5, 0), health(1, 0))
    assert admission.room(NOW_NS) == Room(places=8, free=2, own_places=40, own_free=40)
    admission.take_health(OLD, health(9, 0), NOW_NS)
    assert admission.room(NOW_NS).free == 0


def test_another_model_is_not_concerned() -> None:
    admission = moving(health(8, 0), health(0, 0))
    other = admission.services[2] = ServiceLoad(rank=1)
    other.take_health(health(1, 0, seats=2, model="other"), NOW_NS)
    assert admission.choose("m", NOW_NS) is None
    assert admission.choose("other", NOW_NS) == 2
    assert admission.choose(None, NOW_NS) == 2
    assert admission.room(NOW_NS).free == 1


def test_streams_without_a_service_are_to_come_too() -> None:
    world = World()
    service = world.add_service(max_streams=4)
    for _ in range(3):
        world.open()
    world.kill(service)
    admission = world.router.admission
    load = admission.services[0] = ServiceLoad()
    load.take_health(health(0, 0, seats=4), world.now_ns)
    assert admission.room(world.now_ns).free == 1
    admission.stream_opened(0)
    assert admission.choose("m", world.now_ns) is None
    world.add_service(max_streams=4)
    assert world.router.admission.services[0].open_streams == 3
    assert admission.room(world.now_ns).free == 1


def test_a_stream_of_a_model_that_nobody_serves_takes_nobodys_place() -> None:
    world = World()
    gone = world.add_service(0, models=("gone",))
    world.open(model="gone")
    world.add_service(1, max_streams=1)
    world.kill(gone)
    assert world.router.admission.choose("m", world.now_ns) == 1


def test_newcomers_wait_for_who_moves() -> None:
    """Through the router: four seats, one of them kept for a talker who is still at the old one."""
    fleet, stream, _, _ = talking()
    fleet.swap()
    new = fleet.world.services[1]
    for _ in range(3):
        assert fleet.world.open()[0].link is new
    assert fleet.world.router.admission.choose("m", fleet.world.now_ns) is None
    fleet.world.say(stream, SHORT)
    fleet.rest()
    assert stream.link is new
    assert len(new.opened) == 4


def test_a_swap_that_failed_keeps_the_places_of_those_that_come_back() -> None:
    fleet = Fleet()
    world = fleet.world
    stream, _ = world.open()
    world.say(stream, SHORT)
    fleet.swap()
    old, new = world.services
    old.rest()
    world.deliver(old)
    world.place()
    assert stream.link is new
    fleet.retire(new, True)
    fleet.retire(old, False)
    for _ in range(3):
        assert world.open()[0].link is old
    assert world.router.admission.choose("m", world.now_ns) is None


def test_those_who_have_left_keep_their_places_until_the_new_service_reports_them() -> None:
    """The five have left and opened at the new one, which makes a step longer than two reports of
    the old one; in the end the old one is stopped.
    """
    admission = moving(health(5, 0), health(2, 0))
    for _ in range(3):
        admission.take_health(OLD, health(0, 0), NOW_NS)
        assert admission.room(NOW_NS).free == 1
    admission.service_lost(OLD)
    assert admission.room(NOW_NS).free == 1
    admission.take_health(NEW, health(2, 0), NOW_NS)  # had been on its way
    assert admission.room(NOW_NS).free == 1
    admission.take_health(NEW, health(7, 0), NOW_NS)
    assert admission.room(NOW_NS).free == 1


def test_a_service_that_is_stopped_before_it_could_report_that_all_have_left() -> None:
    admission = moving(health(5, 0), health(2, 0))
    admission.service_lost(OLD)
    assert admission.room(NOW_NS).free == 1
    for _ in range(2):
        admission.take_health(NEW, health(7, 0), NOW_NS)
    assert admission.room(NOW_NS).free == 1


def test_who_leaves_a_service_that_goes_on_is_not_waited_for() -> None:
    admission = moving(health(5, 0), health(2, 0))
    admission.services[OLD].retiring = False
    admission.take_health(OLD, health(0, 0), NOW_NS)
    assert admission.room(NOW_NS).free == 14


@dataclass
class Truth:
    """What is so, and what one of two workers knows; the other one moves its streams, too.

    Of the other one this much is promised: who had left the old service when that reported it, or
    was stopped, is at the new one when that makes its second report from then on.
    """

    seats: int
    at: dict[tuple[int, bool], int] = field(default_factory=dict)  # by service, whether own
    moving: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})  # whether own
    reports_left: list[int] = field(default_factory=list)  # of the other's that move and are seen
    has_old: bool = True

    def __post_init__(self) -> None:
        self.admission = moving(self.report(OLD), self.report(NEW))

    def count(self, service: int, own: bool) -> int:
        return self.at.get((service, own), 0)

    def report(self, service: int) -> Health:
        own = self.count(service, True)
        return health(own + self.count(service, False), own, seats=self.seats)

    def tell_old(self) -> None:
        if self.has_old:
            self.admission.take_health(OLD, self.report(OLD), NOW_NS)
            self.see()

    def tell_new(self) -> None:
        self.reports_left = [num - 1 for num in self.reports_left]
        while 0 in self.reports_left:
            self.arrive(False)
        self.admission.take_health(NEW, self.report(NEW), NOW_NS)

    def stop_old(self) -> None:
        """The parent stops it when no worker has a stream there any more."""
        if self.has_old and not self.count(OLD, True) and not self.count(OLD, False):
            self.has_old = False
            self.admission.service_lost(OLD)
            self.see()

    def see(self) -> None:
        """All that have left until now are known to have."""
        self.reports_left += [2] * (self.moving[False] - len(self.reports_left))

    @property
    def total(self) -> int:
        return sum(self.at.values()) + sum(self.moving.values())

    def fill(self) -> None:
        """Newcomers, until one is refused."""
        while (chosen := self.admission.choose("m", NOW_NS)) is not None:
            self.admission.stream_opened(chosen)
            self.at[chosen, True] = self.count(chosen, True) + 1
            assert self.total <= self.seats

    def leave(self, own: bool) -> None:
        """One of them lets go of the old service."""
        if not self.count(OLD, own):
            return
        self.at[OLD, own] -= 1
        self.moving[own] += 1
        if own:
            self.admission.stream_left(OLD)
            self.admission.stream_waits("m")

    def arrive(self, own: bool) -> None:
        """The one that left first is at the new service."""
        if not self.moving[own]:
            return
        self.moving[own] -= 1
        self.at[NEW, own] = self.count(NEW, own) + 1
        if own:
            self.admission.stream_waits_no_more("m")
            self.admission.stream_opened(NEW)
        else:
            del self.reports_left[:1]


STEPS: dict[str, Callable[[Truth], None]] = {
    "come": Truth.fill,
    "leave": lambda truth: truth.leave(True),
    "arrive": lambda truth: truth.arrive(True),
    "other leaves": lambda truth: truth.leave(False),
    "other arrives": lambda truth: truth.arrive(False),
    "tell old": Truth.tell_old,
    "tell new": Truth.tell_new,
    "old stops": Truth.stop_old,
}


@settings(max_examples=400, deadline=None)
@given(
    seats=st.integers(1, 12),
    own=st.integers(0, 6),
    others=st.integers(0, 6),
    script=st.lists(st.sampled_from(sorted(STEPS)), max_size=60),
    stops=st.booleans(),
)
def test_whoever_moves_when_no_newcomer_is_one_too_many(
    seats: int, own: int, others: int, script: list[str], stops: bool
) -> None:
    truth = Truth(seats, {(OLD, True): own, (OLD, False): others})
    for _ in range(own):
        truth.admission.stream_opened(OLD)
    for step in script:
        STEPS[step](truth)
    for whose in (True, False):
        while truth.count(OLD, whose):
            truth.leave(whose)
        while truth.moving[whose]:
            truth.arrive(whose)
    if stops:
        truth.stop_old()
    truth.tell_old()
    for _ in range(2):
        truth.tell_new()
    free = seats - truth.total
    assert truth.admission.room(NOW_NS).free == max(0, free), "every place can be taken in the end"
