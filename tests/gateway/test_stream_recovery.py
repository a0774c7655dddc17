"""Streams whose services die, at every point of their life: the router and real streams of the
service over one arena, without a process. What a client hears is what it would have heard.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.recovery import MAX_CONTROLS, MAX_STRIKES, SILENCE_NS
from gateway.stream import Stream, is_consistent
from protocol.client_messages import (
    Closed,
    Error,
    Final,
    Hello,
    VadOptions,
)
from protocol.errors import ErrorCode
from protocol.service_messages import Checkpoint, StreamError

from .recovery_world import RING_SAMPLES, SHORT, Listener, World, speech, world_with_an_orphan

TURNS = VadOptions(max_utterance_ms=2_000, end_of_turn_ms=500)
OPTIONS = (
    TURNS,
    VadOptions(max_utterance_ms=1_500, min_silence_ms=200),
    VadOptions(enabled=False, max_utterance_ms=2_000),
)


# One whole life under random deaths


@dataclass(frozen=True)
class Step:
    """What happens next."""

    what: str
    amount: int = 0


runs = st.lists(
    st.tuples(st.sampled_from([0.9, 0.0, 0.4]), st.integers(1, 60)), min_size=1, max_size=10
)
steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("audio"), st.integers(1, 20_000)),
        st.builds(Step, st.just("turn"), st.integers(1, 64)),
        st.builds(Step, st.just("listen"), st.integers(1, 64)),
        st.builds(Step, st.just("deliver"), st.integers(0, 12)),
        st.builds(Step, st.just("finalize"), st.integers(0, 3)),
        st.builds(Step, st.just("configure"), st.integers(0, 2)),
        st.builds(Step, st.just("kill"), st.integers(0, 12)),
        st.builds(Step, st.just("restart")),
    ),
    max_size=40,
)


def live(
    audio: bytes, script: list[Step], hello: Hello, *, cuts: bool, faults: bool
) -> tuple[World, Listener]:
    """One stream through the script; without faults the same one on a service that lives."""
    world = World()
    world.add_service(cuts=cuts)
    owner = Listener()
    stream = world.router.admit(hello, owner, world.now_ns)
    assert isinstance(stream, Stream)
    assert world.router.claim(stream, world.now_ns) is None
    rest = audio
    for step in script:
        if step.what == "audio":
            say(world, stream, rest[: 2 * step.amount], cuts=cuts)
            rest = rest[2 * step.amount :]
        elif step.what == "finalize":
            world.router.finalize(stream, step.amount, world.now_ns)
        elif step.what == "configure":
            world.router.configure(stream, OPTIONS[step.amount])
        elif faults:
            disturb(world, step, cuts=cuts)
    for start in range(0, len(rest), 16_000):
        say(world, stream, rest[start : start + 16_000], cuts=cuts)
    world.router.close(stream, "client")
    recover(world, cuts=cuts)
    assert stream.ended
    return world, owner


def say(world: World, stream: Stream, pcm: bytes, *, cuts: bool) -> None:
    """A full ring must not move the controls that follow."""
    assert not stream.ended
    if stream.is_blocked:
        recover(world, cuts=cuts)
    world.say(stream, pcm)


def recover(world: World, *, cuts: bool) -> None:
    if not world.services:
        world.add_service(cuts=cuts)
    world.rest()


def disturb(world: World, step: Step, *, cuts: bool) -> None:
    if not world.services:
        if step.what == "restart":
            world.add_service(cuts=cuts)
        return
    (service,) = world.services
    if step.what == "turn":
        service.turn(step.amount)
    elif step.what == "listen":
        service.turn(step.amount, decode=False)
    elif step.what == "deliver":
        world.deliver(service, step.amount)
    elif step.what == "kill":
        world.deliver(service, step.amount)
        world.now_ns += SILENCE_NS  # or too many deaths without a word would end the stream
        world.kill(service)


def assert_recovered(
    audio: bytes, script: list[Step], hello: Hello, *, cuts: bool
) -> tuple[World, Listener]:
    world, owner = live(audio, script, hello, cuts=cuts, faults=True)
    _, expected = live(audio, script, hello, cuts=cuts, faults=False)
    assert owner.said() == expected.said()
    (record,) = world.closed
    assert is_consistent(record)
    assert record.engine_samples == len(audio) // 2
    assert world.metrics.replay_differences.value == 0
    assert world.metrics.accounting_mismatch.value == 0
    assert world.router.open_streams == ()
    assert world.router.admission.slots.num_free == 4
    assert owner.ended == 1
    return world, owner


@settings(max_examples=60, deadline=None)
@given(runs=runs, script=steps, vad=st.sampled_from(OPTIONS), cuts=st.booleans(),
       partials=st.booleans())  # fmt: skip
def test_a_client_hears_the_same_whenever_its_services_die(
    runs: list[tuple[float, int]],
    script: list[Step],
    vad: VadOptions,
    cuts: bool,
    partials: bool,
) -> None:
    hello = Hello(vad=vad, partials=partials, hop_ms=64)
    assert_recovered(speech(*runs), script, hello, cuts=cuts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_long_streams_under_many_deaths(seed: int) -> None:
    """Sixty seconds and a death every few of them, with controls between."""
    rng = random.Random(seed)
    audio = speech(*[(rng.choice((0.9, 0.0, 0.4)), rng.randint(1, 90)) for _ in range(45)])
    what = ["audio"] * 6 + ["turn"] * 6 + ["deliver"] * 4 + ["listen", "kill", "restart", "restart"]
    what += ["finalize"] if seed % 2 else []
    what += ["configure"] if seed % 3 == 0 else []
    script = [Step(rng.choice(what), rng.randint(1, 12)) for _ in range(2_000)]
    script = [
        Step(s.what, rng.randint(500, 4_000) if s.what == "audio" else s.amount % 3)
        if s.what in ("audio", "configure", "finalize")
        else s
        for s in script
    ]
    hello = Hello(vad=OPTIONS[seed % 3], partials=seed % 5 > 0, hop_ms=64)
    assert_recovered(audio, script, hello, cuts=seed % 4 > 1)


# One thing at a time


def test_a_stream_goes_on_with_its_successor_from_the_checkpoint() -> None:
    world = World()
    service = world.add_service()
    stream, owner = world.open(hop_ms=64)
    world.say(stream, SHORT)
    world.rest()
    world.kill(service)
    assert owner.ended == 0
    assert stream.link is None
    start = stream.history.start_sample
    assert start > 0
    world.say(stream, SHORT)  # nobody takes it yet, the ring does
    world.now_ns += 2_000_000_000
    (opened,) = world.add_service().opened
    assert (opened.first_sample, opened.generation) == (start, stream.generation)
    assert opened.checkpoint == stream.history.state
    assert not opened.alone
    world.rest()
    world.router.close(stream, "client")
    world.rest()
    assert [final.utterance for final in owner.finals] == [0, 1]
    assert is_consistent(world.closed[0])
    assert world.metrics.recovery.sum_ns >= 2_000_000_000
    assert stream.orphaned_ns == 0


def test_a_service_that_refuses_the_checkpoint_ends_the_stream() -> None:
    world = World()
    stream, owner = world_with_an_orphan(world)
    key = stream.slot, stream.generation
    stream.history.commit(Checkpoint(*key, 99, stream.history.start_sample, b"of another release"))
    world.add_service()
    world.rest()
    error, record = owner.events[-2:]
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == (ErrorCode.SERVICE_LOST, True)
    assert isinstance(record, Closed)
    assert record.reason == "service_lost"
    assert stream.ended


def test_a_stream_may_begin_while_no_service_is_there() -> None:
    world = World()
    service = world.add_service()
    owner = Listener()
    stream = world.router.admit(Hello(), owner, world.now_ns)
    assert isinstance(stream, Stream)
    world.kill(service)
    assert world.router.claim(stream, world.now_ns) is None
    world.say(stream, SHORT)
    world.router.finalize(stream, 4, world.now_ns)
    world.router.close(stream, "client")
    world.add_service()
    world.rest()
    assert [f.finalize_id for f in owner.events if isinstance(f, Final)] == [None, 4]
    assert is_consistent(world.closed[0])


def test_a_full_ring_waits_without_a_service() -> None:
    world = World()
    service = world.add_service()
    stream, owner = world.open()
    world.kill(service)
    audio = speech(*[(0.9, 30), (0.0, 30)] * 12)
    position = 0
    while not stream.is_blocked:
        world.say(stream, audio[position : position + 8_000])
        position += 8_000
    assert stream.ring_samples == RING_SAMPLES
    world.add_service()
    world.rest()
    assert not stream.is_blocked
    world.router.close(stream, "client")
    world.rest()
    assert is_consistent(world.closed[0])
    assert len(owner.finals) > 4


def test_a_stream_that_kills_services_ends_and_the_others_go_on() -> None:
    """Three services die in a step of two streams. Suspects have steps of their own: the third
    death is the poisonous one's alone.
    """
    world = World()
    service = world.add_service()
    (poison, victim), (innocent, client) = world.open(), world.open()
    for stream in (poison, innocent):
        world.say(stream, SHORT)
    for death in range(MAX_STRIKES):
        service.begin_step(poison.slot)
        if death == 0:
            service.begin_step(innocent.slot)
        else:
            assert {o.slot: o.alone for o in service.opened}[poison.slot]
            if innocent.suspicion.is_suspect:
                service.turn_of(innocent.slot)
        world.kill(service)
        service = world.add_service()
    error = victim.events[-1]
    assert isinstance(error, Error)
    assert error.code is ErrorCode.SERVICE_LOST
    assert poison.ended
    assert client.ended == 0
    world.router.close(innocent, "client")
    world.rest()
    assert is_consistent(world.closed[-1])
    assert len(client.finals) == 1


def test_a_stream_that_was_refused_is_not_carried_on() -> None:
    world = World()
    service = world.add_service()
    stream, owner = world.open()
    key = stream.slot, stream.generation
    world.router.receive(service, StreamError(*key, ErrorCode.INTERNAL, "trouble"), world.now_ns)
    world.kill(service)
    assert stream.ended
    assert [type(event) for event in owner.events] == [Error]
    assert world.closed[0].reason == "internal"


def test_too_many_controls_without_a_checkpoint_are_refused() -> None:
    world = World()
    service = world.add_service()
    stream, owner = world.open()
    for _ in range(MAX_CONTROLS):
        world.router.configure(stream, TURNS)
    assert owner.events == []
    world.router.configure(stream, TURNS)
    world.router.finalize(stream, 1, world.now_ns)
    assert [type(event) for event in owner.events] == [Error, Error]
    service.rest()
    world.deliver(service)
    world.router.configure(stream, TURNS)
    assert len(owner.events) == 2
