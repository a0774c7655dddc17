"""Streams that move to another service while they go on, at every point of their life: the router,
moves.py and real streams of the service over one arena, without a process. What a client hears is
what it would have heard; with another model, up to what that model says.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.moves import SLACK_NS, Moves
from gateway.recovery import SILENCE_NS
from gateway.stream import Stream, is_consistent
from protocol.client_messages import Final, Hello, VadOptions
from protocol.service_messages import Left, Open
from protocol.supervisor_messages import Link, Remaining, Retire

from .memory_service import MemoryService
from .recovery_world import SHORT, Listener, World, speech
from .test_stream_recovery import OPTIONS, Step, runs

MAX_UTTERANCE_MS = 2_000
PATIENCE_S = (MAX_UTTERANCE_MS * 1_000_000 + SLACK_NS) / 1e9


class Fleet:
    """A world whose services are replaced one after another, as a swap does it."""

    def __init__(self, *, cuts: bool = False, models: tuple[str, ...] = ("m",)) -> None:
        self.world = World()
        self._cuts = cuts
        self._models = models  # of one service after the other, round and round
        self._num_services = 0
        self.moves = Moves(
            self.world.router.admission, self.world.router.links,
            lambda: self.world.router.open_streams, MAX_UTTERANCE_MS,
        )  # fmt: skip
        self.add()

    def add(self, *, retiring: bool = False) -> MemoryService:
        index, self._num_services = self._num_services, self._num_services + 1
        model = self._models[index % len(self._models)]
        service = self.world.add_service(index, models=(model,), model=model, cuts=self._cuts)
        link = Link(index, 0, aliases=self._models, retiring=retiring)
        self.moves.linked(link, self.world.now_ns)
        return service

    def swap(self) -> None:
        """Another service stands by, then takes over; not while there are two."""
        if len(self.world.services) == 1:
            (old,) = self.world.services
            new = self.add(retiring=True)
            self.retire(new, False)
            self.retire(old, True)

    def retire(self, service: MemoryService, retiring: bool) -> None:
        self.moves.retire(Retire(service.index, retiring, self._models), self.world.now_ns)

    def left_at(self, service: MemoryService) -> int:
        """Streams, as it is reported."""
        reports = self.moves.reports(self.world.now_ns)
        return {report.peer: report.num_streams for report in reports}[service.index]

    def stop_the_empty(self) -> None:
        """What the parent does when a report says that nothing is left."""
        if len(self.world.services) == 2 and self.left_at(self.world.services[0]) == 0:
            self.world.kill(self.world.services[0])

    def kill(self, number: int) -> None:
        """One of them dies; when it is the new one, the old one is kept."""
        if not self.world.services:
            return
        self.world.now_ns += SILENCE_NS  # too many deaths without a word would end the stream
        service = self.world.services[number % len(self.world.services)]
        self.world.kill(service)
        for other in self.world.services:
            self.retire(other, False)

    def act(self, step: Step) -> None:
        world = self.world
        if step.what == "swap":
            self.swap()
        elif step.what == "kill":
            self.kill(step.amount)
        elif step.what == "hurry":
            world.wait(PATIENCE_S)
            self.moves.reports(world.now_ns)
        elif not world.services:
            self.add()
        for service in tuple(world.services):
            if step.what in ("turn", "listen"):
                service.turn(step.amount, decode=step.what == "turn")
            elif step.what == "deliver":
                world.deliver(service, step.amount)
        world.place()
        self.stop_the_empty()

    def rest(self) -> None:
        if not self.world.services:
            self.add()
        self.world.rest()
        self.world.place()
        self.world.rest()


steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("audio"), st.integers(1, 20_000)),
        st.builds(Step, st.just("turn"), st.integers(1, 64)),
        st.builds(Step, st.just("listen"), st.integers(1, 64)),
        st.builds(Step, st.just("deliver"), st.integers(0, 12)),
        st.builds(Step, st.just("finalize"), st.integers(0, 3)),
        st.builds(Step, st.just("configure"), st.integers(0, 2)),
        st.builds(Step, st.just("swap")),
        st.builds(Step, st.just("hurry")),
        st.builds(Step, st.just("kill"), st.integers(0, 1)),
    ),
    max_size=40,
)


def live(audio: bytes, script: list[Step], hello: Hello, fleet: Fleet, *, swaps: bool) -> Listener:
    """One stream through the script; without swaps the same on one service that lives."""
    world, rest = fleet.world, audio
    owner = Listener()
    stream = world.router.admit(hello, owner, world.now_ns)
    assert isinstance(stream, Stream)
    assert world.router.claim(stream, world.now_ns) is None
    for step in script:
        if step.what == "audio":
            say(fleet, stream, rest[: 2 * step.amount])
            rest = rest[2 * step.amount :]
        elif step.what == "finalize":
            world.router.finalize(stream, step.amount, world.now_ns)
        elif step.what == "configure":
            world.router.configure(stream, OPTIONS[step.amount])
        elif swaps:
            fleet.act(step)
    for start in range(0, len(rest), 16_000):
        say(fleet, stream, rest[start : start + 16_000])
    world.router.close(stream, "client")
    fleet.rest()
    assert stream.ended
    return owner


def say(fleet: Fleet, stream: Stream, pcm: bytes) -> None:
    if stream.is_blocked:
        fleet.rest()
    fleet.world.say(stream, pcm)


def assert_counted(fleet: Fleet, owner: Listener, num_samples: int) -> None:
    world = fleet.world
    (record,) = world.closed
    assert is_consistent(record)
    assert record.engine_samples == num_samples
    assert world.metrics.accounting_mismatch.value == 0
    assert world.router.open_streams == ()
    assert owner.ended == 1


@dataclass(frozen=True)
class Life:
    """Audio, what happens meanwhile, and what the client asked for."""

    audio: bytes
    script: list[Step]
    hello: Hello


lives = st.builds(
    lambda runs, script, vad, partials: Life(
        speech(*runs), script, Hello(vad=vad, partials=partials, hop_ms=64)
    ),
    runs, steps, st.sampled_from(OPTIONS), st.booleans(),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(life=lives, cuts=st.booleans())
def test_a_client_hears_the_same_whenever_its_stream_moves(life: Life, cuts: bool) -> None:
    fleet, still = Fleet(cuts=cuts), Fleet(cuts=cuts)
    owner = live(life.audio, life.script, life.hello, fleet, swaps=True)
    expected = live(life.audio, life.script, life.hello, still, swaps=False)
    assert owner.said() == expected.said()
    assert_counted(fleet, owner, len(life.audio) // 2)
    assert fleet.world.metrics.replay_differences.value == 0


@settings(max_examples=80, deadline=None)
@given(life=lives)
def test_another_model_hears_every_sample_once(life: Life) -> None:
    """With cuts: what lies before a cut is no context for the next model, so texts differ; where
    utterances, answers and turns lie does not.
    """
    fleet, still = Fleet(cuts=True, models=("m", "n")), Fleet(cuts=True)
    owner = live(life.audio, life.script, life.hello, fleet, swaps=True)
    expected = live(life.audio, life.script, life.hello, still, swaps=False)
    assert places(owner) == places(expected)
    assert owner.said()[1:] == expected.said()[1:]
    assert_counted(fleet, owner, len(life.audio) // 2)


def places(owner: Listener) -> list[object]:
    """What was said in order, without its text."""
    return [event[:3] + event[5:] if len(event) == 6 else event for event in owner.said()[0]]


# One thing at a time

LONG_SPEECH = speech((0.9, 20))


def talking(**hello: object) -> tuple[Fleet, Stream, Listener, MemoryService]:
    """A fleet with a stream in the middle of an utterance, part of which has been shown."""
    fleet = Fleet()
    stream, owner = fleet.world.open(hop_ms=64, **hello)
    fleet.world.say(stream, LONG_SPEECH)
    fleet.world.rest()
    (old,) = fleet.world.services
    return fleet, stream, owner, old


def test_an_open_utterance_is_waited_for() -> None:
    fleet, stream, owner, old = talking()
    fleet.swap()
    fleet.world.rest()
    assert (stream.link, fleet.left_at(old)) == (old, 1)
    fleet.world.say(stream, speech((0.0, 30)))
    fleet.rest()
    assert isinstance(owner.finals[-1], Final)
    assert fleet.left_at(old) == 0
    assert stream.link is fleet.world.services[1]


def test_an_utterance_that_does_not_end_is_not_waited_for_for_ever() -> None:
    fleet, stream, _, old = talking()
    fleet.swap()
    fleet.world.wait(PATIENCE_S - 0.1)
    assert fleet.left_at(old) == 1
    fleet.world.rest()
    assert stream.link is old
    fleet.world.wait(0.2)
    assert fleet.left_at(old) == 1
    fleet.rest()
    assert stream.link is fleet.world.services[1]


def test_new_streams_go_to_the_new_service_only() -> None:
    fleet, _, _, old = talking()
    fleet.swap()
    for _ in range(3):
        stream, _ = fleet.world.open()
        assert stream.link is fleet.world.services[1]
    assert fleet.left_at(old) == 1


def silent(fleet: Fleet, **hello: object) -> Stream:
    """A session that has begun and has no audio yet."""
    admission, router = fleet.world.router.admission, fleet.world.router
    settled = admission.settle(Hello(**hello), any_model=False)  # type: ignore[arg-type]
    stream = router.admit(settled, Listener(), fleet.world.now_ns)
    assert isinstance(stream, Stream)
    return stream


def speaks(fleet: Fleet, stream: Stream) -> Open:
    """Its first audio; how the service hears of it."""
    assert fleet.world.router.claim(stream, fleet.world.now_ns) is None
    fleet.world.place()
    return fleet.world.services[-1].opened[-1]


@pytest.mark.parametrize("models", [("m",), ("m", "n")])
def test_who_began_before_the_swap_was_admitted(models: tuple[str, ...]) -> None:
    """What the new model cannot do for it is left out, as it is for those who had spoken."""
    fleet = Fleet(models=models)
    early = silent(fleet)
    fleet.swap()
    assert speaks(fleet, early).was_admitted
    assert not speaks(fleet, silent(fleet)).was_admitted, "it hears what is wrong with its hello"


def test_a_service_that_is_started_again_is_the_one_that_admitted() -> None:
    fleet = Fleet()
    early = silent(fleet)
    fleet.kill(0)
    fleet.world.add_service(0)
    assert not speaks(fleet, early).was_admitted


def test_who_spoke_and_had_no_checkpoint_yet_was_admitted() -> None:
    fleet = Fleet()
    stream, _ = fleet.world.open()
    assert not fleet.world.services[0].opened[-1].was_admitted
    fleet.world.say(stream, SHORT[:200])
    fleet.swap()
    fleet.world.kill(fleet.world.services[0])
    fleet.world.place()
    (again,) = fleet.world.services[0].opened
    assert (again.checkpoint, again.was_admitted) == (b"", True)


def test_a_stream_that_closes_ends_where_it_is() -> None:
    fleet, stream, owner, old = talking()
    fleet.world.router.close(stream, "client")
    fleet.swap()
    fleet.world.rest()
    assert owner.ended == 1
    assert fleet.left_at(old) == 0
    assert old.opened[-1].slot == stream.slot
    assert fleet.world.services[1].opened == []


def test_a_stream_that_has_left_waits_where_no_service_is() -> None:
    fleet = Fleet()
    stream, _ = fleet.world.open()
    fleet.world.say(stream, SHORT)
    fleet.swap()
    old, new = fleet.world.services
    old.rest()
    assert isinstance(old.outbox[-1], Left)
    fleet.world.deliver(old)
    fleet.world.kill(new)
    fleet.world.place()
    assert stream.link is None
    fleet.retire(old, False)
    fleet.world.place()
    assert stream.link is old, "the swap failed: it comes back"
    assert fleet.moves.reports(fleet.world.now_ns) == []


def test_a_service_may_be_told_again_and_again() -> None:
    fleet, stream, _, old = talking()
    fleet.swap()
    fleet.retire(old, True)
    assert fleet.moves.reports(fleet.world.now_ns) == [Remaining(old.index, 1)]
    fleet.retire(old, False)
    fleet.retire(old, False)
    assert fleet.moves.reports(fleet.world.now_ns) == []
    assert fleet.world.router.admission.services[old.index].aliases == ("m",)
    assert stream.link is old


@pytest.mark.parametrize("retiring", [True, False])
def test_a_service_that_is_dead_is_only_forgotten(retiring: bool) -> None:
    fleet, _, _, old = talking()
    fleet.world.kill(old)
    assert fleet.world.router.admission.models() == ("m",)
    fleet.retire(old, retiring)
    assert fleet.world.router.admission.models() == (() if retiring else ("m",))
    assert fleet.moves.reports(fleet.world.now_ns) == []


def test_a_model_whose_service_was_once_started_again_goes_for_good() -> None:
    fleet = Fleet(models=("m", "n"))
    world, (old,) = fleet.world, fleet.world.services
    world.kill(old)
    world.add_service(old.index)
    fleet.swap()
    assert world.router.admission.models() == ("n",)
    stream, _ = world.open(model="m")
    assert stream.link is world.services[1]
    fleet.kill(0)
    assert world.router.admission.models() == ("n",)


def test_a_service_that_dies_before_its_patience_is_over_is_not_told_to_hurry() -> None:
    fleet, _, _, old = talking()
    fleet.swap()
    fleet.world.kill(old)
    fleet.world.wait(PATIENCE_S + 1)
    assert fleet.moves.reports(fleet.world.now_ns) == []


def test_options_hold_where_the_stream_goes() -> None:
    fleet = Fleet()
    stream, _ = fleet.world.open()
    fleet.world.say(stream, SHORT)
    fleet.world.router.configure(stream, VadOptions(min_silence_ms=700))
    fleet.world.rest()
    fleet.swap()
    fleet.rest()
    assert fleet.world.services[1].opened[-1].vad.min_silence_ms == 700
