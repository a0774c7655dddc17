"""Workers that die at any store into a journal, under any history: clients resume at the successor
and hear what they would have heard, once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.gatekeeper import Gatekeeper
from gateway.journal_recovery import MAX_ATTEMPTS, ended_stream, recover_sessions
from gateway.kept_events import KeptEvents
from gateway.parking import Parking
from gateway.recovery import SILENCE_NS
from gateway.stream import Stream, is_consistent
from protocol.client_messages import Closed, VadOptions
from protocol.supervisor_messages import Token

from ..protocol.dying_writer import Killed
from .journal_world import (
    FOREVER,
    Client,
    DyingWorld,
    Halver,
    Session,
    doubled,
    hello_of,
    missed,
    restart_converter,
)
from .recovery_world import SHORT, speech
from .scripted import CountingQuota
from .test_stream_recovery import OPTIONS, Step, live, runs

Script = list[Step]

scripts = st.lists(
    st.one_of(
        st.builds(Step, st.just("audio"), st.integers(1, 20_000)),
        st.builds(Step, st.just("turn"), st.integers(1, 64)),
        st.builds(Step, st.just("deliver"), st.integers(0, 12)),
        st.builds(Step, st.just("arrive"), st.integers(0, 12)),
        st.builds(Step, st.just("acknowledge")),
        st.builds(Step, st.just("finalize"), st.integers(0, 3)),
        st.builds(Step, st.just("service dies"), st.integers(0, 12)),
        st.builds(Step, st.just("service begins")),
        st.builds(Step, st.just("die"), st.integers(0, 20)),
        st.builds(Step, st.just("die"), st.integers(0, 20)),
    ),
    max_size=40,
)


class Life:
    """One client's whole life, through as many workers as it takes."""

    def __init__(self, audio: bytes, client: Client, *, cuts: bool) -> None:
        self.audio = audio
        self.client = client
        self.cuts = cuts
        self.world = DyingWorld()
        self.num_deaths = 0
        self.has_said_bye = False
        self.is_over = False
        self.world.add_service(cuts=cuts)
        self.session: Session | None = None
        self._guarded(self._open)

    @property
    def alive(self) -> Session:
        assert self.session is not None
        return self.session

    # What happens

    def step(self, step: Step) -> None:
        if not self.is_over:
            self._guarded(lambda: self._carry_out(step))

    def finish(self, deaths: list[int]) -> None:
        """All audio, bye, and everything until the close record has come; behind the bye the
        worker dies after so many stores, one time for each.
        """
        self.world.killer.stores_left = FOREVER
        left = list(deaths)
        while not self.is_over:
            rest = (len(self.audio) - 2 * self.client.num_sent) // 2
            self.step(Step("audio", min(rest, 8_000)) if rest else Step("bye"))
            if left and not rest:
                self.step(Step("die", left.pop()))
            self.step(Step("rest"))
            self.step(Step("arrive", 3 if left else FOREVER))
            self.step(Step("acknowledge"))

    def _carry_out(self, step: Step) -> None:
        session, world, client = self.alive, self.world, self.client
        if step.what == "audio":
            end = min(client.num_sent + step.amount, len(self.audio) // 2)
            first, client.num_sent = client.num_sent, end
            self._send_audio(first, end)
        elif step.what == "finalize":
            client.finalizes.append((client.num_sent, step.amount))
            world.router.finalize(session.stream, step.amount, world.now_ns)
        elif step.what == "bye":
            self.has_said_bye = True
            world.router.close(session.stream, "client")
        elif step.what == "arrive":
            session.arrive(step.amount)
            self.is_over = bool(client.events) and isinstance(client.events[-1], Closed)
        elif step.what == "acknowledge":
            session.acknowledge()
        elif step.what == "die":
            world.killer.stores_left = step.amount
        else:
            self._move_services(step)

    def _move_services(self, step: Step) -> None:
        world = self.world
        if not world.services and step.what in ("service begins", "rest"):
            world.add_service(cuts=self.cuts)
        for service in tuple(world.services):
            if step.what == "turn":
                service.turn(step.amount)
            elif step.what == "deliver":
                world.deliver(service, step.amount)
            elif step.what == "service dies":
                world.deliver(service, step.amount)
                world.now_ns += SILENCE_NS
                world.kill(service)
        if step.what == "rest":
            world.rest()

    def _send_audio(self, first: int, end: int) -> None:
        for start in range(first, end, 16_000):
            if self.alive.stream.is_blocked:  # a client that is not read now would wait
                self._move_services(Step("rest"))
            pcm = self.audio[2 * start : 2 * min(end, start + 16_000)]
            self.world.say(self.alive.stream, pcm)

    # Deaths

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Killed:
            self.num_deaths += 1
            self._succeed()

    def _open(self) -> None:
        self.session = self.world.open_session(self.client)

    def _succeed(self) -> None:
        found = self.world.succeed()
        assert self.world.damage == []
        if not found:
            self._begin_anew()
            return
        (saved,) = found
        if saved.is_over:
            self._assert_has_all(ended_stream(saved, self.alive))
            for event in missed(KeptEvents(saved.num_acknowledged, saved.events), self.client):
                self.client.deliver(event)
            self.is_over = True
            return
        self.world.now_ns += SILENCE_NS
        self.session = self.world.take_back(saved, self.client)
        self._resume()

    def _begin_anew(self) -> None:
        """It died before there was a session to go on with: nothing was heard of it."""
        client = self.client
        assert client.num_received == client.kept_from == 0
        self.world.add_service(cuts=self.cuts)
        self._open()
        self._send_again(0, 0)

    def _resume(self) -> None:
        stream = self.alive.stream
        assert self.client.kept_from <= stream.client_samples <= self.client.num_sent
        if stream.closing:
            self._assert_has_all(stream)
        self._send_again(stream.client_samples, stream.num_finalizes)

    def _assert_has_all(self, stream: Stream) -> None:
        """It says that it has the bye, and so it has to have what came before."""
        assert self.has_said_bye
        assert stream.client_samples == self.client.num_sent
        assert stream.num_finalizes == len(self.client.finalizes)

    def _send_again(self, position: int, num_finalizes: int) -> None:
        stream, router = self.alive.stream, self.world.router
        for sample, finalize_id in self.client.finalizes[num_finalizes:]:
            assert sample >= position
            self._send_audio(position, sample)
            position = sample
            router.finalize(stream, finalize_id, self.world.now_ns)
        self._send_audio(position, self.client.num_sent)
        if self.has_said_bye:
            router.close(stream, "client")


def assert_nothing_differs(
    pcm: bytes, script: Script, deaths: list[int], vad: VadOptions, *, cuts: bool, partials: bool,
    half_rate: bool,
) -> Life:  # fmt: skip
    hello = hello_of(half_rate, vad=vad, partials=partials)
    life = Life(doubled(pcm) if half_rate else pcm, Client(hello), cuts=cuts)
    for step in script:
        life.step(step)
    life.finish(deaths)
    # The same without any death, in the ring's format.
    width = 2 if half_rate else 1
    plain = []
    position = 0
    for sample, finalize_id in life.client.finalizes:
        plain += [Step("audio", sample // width - position), Step("finalize", finalize_id)]
        position = sample // width
    plain_hello = hello_of(False, vad=vad, partials=partials)
    _, expected = live(pcm, plain, plain_hello, cuts=cuts, faults=False)
    said, speech_events, rest = life.client.said()
    expected_said, expected_speech, _ = expected.said()
    assert said == expected_said
    assert speech_events == expected_speech
    (closed,) = rest
    assert is_consistent(closed)
    assert closed.engine_samples == len(pcm) // 2
    world = life.world
    assert world.metrics.replay_differences.value == 0
    assert world.metrics.accounting_mismatch.value == 0
    assert world.router.open_streams == ()
    return life


@settings(max_examples=80, deadline=None)
@given(
    runs=runs,
    script=scripts,
    deaths=st.lists(st.integers(0, 40), max_size=4),
    vad=st.sampled_from(OPTIONS),
    cuts=st.booleans(),
    partials=st.booleans(),
    half_rate=st.booleans(),
)
def test_a_client_hears_the_same_whenever_its_workers_die(
    runs: list[tuple[float, int]],
    script: Script,
    deaths: list[int],
    vad: VadOptions,
    cuts: bool,
    partials: bool,
    half_rate: bool,
) -> None:
    assert_nothing_differs(
        speech(*runs), script, deaths, vad, cuts=cuts, partials=partials, half_rate=half_rate
    )


def a_long_life(seed: int, num_steps: int, num_runs: int) -> Life:
    rng = random.Random(seed)
    audio = speech(*[(rng.choice((0.9, 0.0, 0.4)), rng.randint(1, 90)) for _ in range(num_runs)])
    what = ["audio"] * 6 + ["turn"] * 6 + ["deliver"] * 4 + ["arrive"] * 4 + ["acknowledge"]
    what += ["die", "service begins", "service begins"] + ["service dies"] * (seed % 2)
    what += ["finalize"] if seed % 3 else []
    amounts = {"audio": (500, 4_000), "die": (0, 40), "finalize": (0, 3)}
    script = [
        Step(name, rng.randint(*amounts.get(name, (1, 12))))
        for name in rng.choices(what, k=num_steps)
    ]
    return assert_nothing_differs(
        audio, script, [rng.randint(0, 40) for _ in range(5)], OPTIONS[seed % 3],
        cuts=seed % 4 > 1, partials=seed % 5 > 0, half_rate=seed % 2 == 0,
    )  # fmt: skip


def test_a_life_through_many_workers() -> None:
    life = a_long_life(1, 300, 12)
    assert life.num_deaths > 5
    assert life.world.generations == list(range(2, 2 + len(life.world.generations)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_long_lives_through_many_workers(seed: int) -> None:
    assert a_long_life(seed, 2_000, 45).num_deaths > 5


# The successor's own part


def parked(world: DyingWorld, gatekeeper: Gatekeeper) -> tuple[Parking, int]:
    parking = Parking(0, 1, 1_000, world.router.close, lambda: b"secret")
    num = recover_sessions(
        world.succeed(), world.router, parking, gatekeeper, restart_converter, world.now_ns
    )
    return parking, num


def test_sessions_wait_for_their_clients_with_a_slot_or_without() -> None:
    world = DyingWorld()
    service = world.add_service()
    ended, halved, plain = (
        world.open_session(Client(hello_of(half_rate))) for half_rate in (False, True, False)
    )
    for session in (ended, halved, plain):
        assert session.stream is not None
        world.say(session.stream, SHORT)
    world.router.close(ended.stream, "client")
    service.rest()
    world.deliver(service)
    assert ended.ended
    parking, num = parked(world, Gatekeeper())
    assert (num, parking.num_parked) == (3, 3)
    assert world.router.admission.slots.num_free == 2
    streams = world.router.open_streams
    assert [stream.slot for stream in streams] == [1, 2]
    assert [stream.client_samples for stream in streams] == [
        halved.stream.ring_samples * 2 - Halver.KEEP, len(SHORT) // 2
    ]  # fmt: skip
    world.add_service()
    world.rest()
    for stream in streams:
        world.router.close(stream, "client")
    world.rest()
    assert all(is_consistent(record) for record in world.closed)
    assert world.router.open_streams == ()


def test_a_session_whose_token_is_gone_does_not_wait() -> None:
    world = DyingWorld()
    world.add_service()
    session = world.open_session(Client(hello_of(False)), token_name="anna")
    world.say(session.stream, SHORT)
    anna = Token("anna", b"digest", column=2)
    quota = CountingQuota()
    parking, num = parked(world, Gatekeeper((anna,), quota))
    assert (num, parking.num_parked, quota.open) == (1, 1, 1)
    assert world.router.open_streams[0].group == 3
    parking, num = parked(world, Gatekeeper((), quota))
    assert (num, parking.num_parked) == (0, 0)
    assert parked(world, Gatekeeper((anna,), quota))[1] == 0


def test_a_session_over_which_workers_die_is_given_up() -> None:
    world = DyingWorld()
    world.add_service()
    session = world.open_session(Client(hello_of(False)))
    world.say(session.stream, SHORT)
    for _ in range(MAX_ATTEMPTS):
        assert len(world.succeed(soon=True)) == 1
    assert world.succeed(soon=True) == []
    assert world.damage == [f"{MAX_ATTEMPTS} workers have died over it"]


def test_a_checkpoint_lets_the_attempts_begin_anew() -> None:
    world = DyingWorld()
    world.add_service()
    client = Client(hello_of(False))
    world.open_session(client)
    for _ in range(2 * MAX_ATTEMPTS):
        (saved,) = world.succeed(soon=True)
        session = world.take_back(saved, client)
        world.add_service()
        client.num_sent += len(SHORT) // 2
        world.say(session.stream, SHORT)
        world.rest()
        session.arrive(FOREVER)
    assert world.damage == []


def test_damage_is_named_and_cleared() -> None:
    world = DyingWorld()
    world.add_service()
    session = world.open_session(Client(hello_of(False)))
    world.say(session.stream, SHORT)
    world.layout.journal(world.arena, 0)[4] = 9  # in its head
    assert world.succeed() == []
    assert len(world.damage) == 1
    assert world.succeed() == []
    assert len(world.damage) == 1


def test_without_journals_there_is_nothing() -> None:
    assert DyingWorld(journal_bytes=0).succeed() == []
