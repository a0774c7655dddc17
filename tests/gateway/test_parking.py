"""parking.py: who is known, who waits, until when, and who is forgotten first. Streams are real,
their service is not there; what a whole worker makes of it is in resumption/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import parking
from gateway.channel import Channel
from gateway.gatekeeper import Gatekeeper, Grant
from gateway.kept_events import MAX_KEPT_EVENT_BYTES, KeptEvents
from gateway.parking import MAX_PARKED_WITHOUT_SLOT, Parking, Resumable
from gateway.resume_token import ResumeToken, parse_resume_token
from gateway.stream import Stream
from protocol.client_messages import Hello, Latency, LatencyClass, NonSpeech
from protocol.ring import ArenaLayout

from .scripted import CountingQuota

WINDOW_NS = 1_000
SILENCE = NonSpeech(audio_received=1, audio_decoded=1, start_sample=0, end_sample=1)


class Yard:
    """A parking, and what it closed."""

    def __init__(self, window_ns: int = WINDOW_NS) -> None:
        self.closed: list[tuple[str, str]] = []
        secrets = (number.to_bytes(16, "big") for number in count())
        self.parking = Parking(3, 4, window_ns, self._close, lambda: next(secrets))
        self.quota = CountingQuota()
        self._ids: Iterator[int] = count(1)
        layout = ArenaLayout(1, 100)
        self._ring = layout.ring(memoryview(bytearray(layout.size_bytes)), 0)

    def _close(self, stream: Stream, reason: str) -> None:
        self.closed.append((stream.session_id, reason))

    def channel(self, kind: type[Channel] = Channel, *, has_slot: bool = True) -> Channel:
        self.quota.open += 1
        gatekeeper = Gatekeeper((), self.quota)
        channel = kind(0, Hello(), Grant("t", 0), gatekeeper, "native", self.parking)
        channel.stream = Stream(f"s-{next(self._ids)}", Hello(), channel, None)
        if has_slot:
            channel.stream.attach(0, 1, self._ring)
        return channel

    def end(self, channel: Channel) -> None:
        """Its slot is free again, and it says so."""
        channel.streaming.ended = True
        channel.stream_ended()

    def enter(
        self, kind: type[Channel] = Channel, *, has_slot: bool = True
    ) -> tuple[Channel, ResumeToken]:
        channel = self.channel(kind, has_slot=has_slot)
        token = parse_resume_token(self.parking.enter(channel))
        assert token is not None
        return channel, token


def test_a_token_finds_its_session_and_no_other() -> None:
    yard = Yard()
    (one, first), (two, second) = yard.enter(), yard.enter()
    assert (first.owner, first.session_id) == (3, "s-1")
    assert yard.parking.find(first) is one
    assert yard.parking.find(second) is two
    assert yard.parking.find(ResumeToken(3, "s-1", second.secret)) is None
    assert yard.parking.find(ResumeToken(3, "s-9", first.secret)) is None


def test_who_waits_too_long_is_closed() -> None:
    yard = Yard()
    (one, first), (two, second) = yard.enter(), yard.enter()
    yard.parking.park(one, 0)
    yard.parking.park(two, 10)
    assert yard.parking.num_parked == 2
    yard.parking.expire(WINDOW_NS - 1)
    assert yard.closed == []
    yard.parking.expire(WINDOW_NS)
    assert yard.closed == [("s-1", "vanished")]
    assert (yard.parking.find(first), yard.parking.find(second)) == (None, two)
    yard.parking.expire(WINDOW_NS + 10)
    assert yard.closed == [("s-1", "vanished"), ("s-2", "vanished")]


def test_who_was_taken_back_does_not_wait() -> None:
    yard = Yard()
    channel, token = yard.enter()
    yard.parking.park(channel, 0)
    yard.parking.take_back(channel)
    yard.parking.take_back(channel)
    yard.parking.expire(WINDOW_NS)
    assert (yard.closed, yard.parking.find(token)) == ([], channel)


def test_who_left_twice_waits_from_the_second_time_on() -> None:
    yard = Yard()
    (one, _), (two, _) = yard.enter(), yard.enter()
    yard.parking.park(one, 0)
    yard.parking.park(two, 5)
    yard.parking.take_back(one)
    yard.parking.park(one, 10)
    yard.parking.expire(WINDOW_NS + 9)
    assert yard.closed == [("s-2", "vanished")]


def test_of_those_without_a_slot_the_oldest_is_forgotten() -> None:
    yard = Yard()
    talker, token = yard.enter()
    yard.parking.park(talker, 0)
    for _ in range(MAX_PARKED_WITHOUT_SLOT + 1):
        yard.parking.park(yard.enter(has_slot=False)[0], 1)
    assert yard.closed == [("s-2", "vanished")]
    ended, _ = yard.enter()
    ended.streaming.ended = True  # its slot is free again
    yard.parking.park(ended, 2)
    assert yard.closed[1:] == [("s-3", "vanished")]
    assert yard.parking.find(token) is talker


def test_who_ends_while_it_waits_has_no_slot_from_then_on() -> None:
    yard = Yard()
    talker, token = yard.enter()
    yard.parking.park(talker, 0)
    for _ in range(MAX_PARKED_WITHOUT_SLOT):
        yard.parking.park(yard.enter(has_slot=False)[0], 1)
    assert yard.closed == []
    yard.end(talker)
    assert yard.closed == [("s-2", "vanished")], "one too many now, and not at the next loss"
    assert yard.parking.find(token) is talker


class WatchedChannel(Channel):
    """Counts how often somebody looks at one of them."""

    num_looks = 0

    @property
    def streaming(self) -> Stream:
        WatchedChannel.num_looks += 1
        return super().streaming


@pytest.mark.parametrize("num_parked", [10, 1_000])
def test_how_many_wait_is_nothing_to_the_next_one(num_parked: int) -> None:
    yard = Yard()
    waiting = [yard.enter(WatchedChannel)[0] for _ in range(num_parked)]
    for channel in waiting:
        yard.parking.park(channel, 0)
    another, _ = yard.enter(WatchedChannel)
    WatchedChannel.num_looks = 0
    yard.parking.park(another, 1)
    yard.end(waiting[3])
    yard.parking.take_back(another)
    assert WatchedChannel.num_looks <= 6
    WatchedChannel.num_looks = 0
    yard.parking.expire(WINDOW_NS)
    assert len(yard.closed) == num_parked
    assert WatchedChannel.num_looks <= 4 * num_parked, "each of them costs the same"


@pytest.mark.parametrize("num_others", [0, 1_000])
def test_nor_to_one_for_whom_another_is_forgotten(num_others: int) -> None:
    yard = Yard()
    for has_slot in [True] * num_others + [False] * MAX_PARKED_WITHOUT_SLOT:
        yard.parking.park(yard.enter(WatchedChannel, has_slot=has_slot)[0], 0)
    another, _ = yard.enter(WatchedChannel, has_slot=False)
    WatchedChannel.num_looks = 0
    yard.parking.park(another, 1)
    assert yard.closed == [(f"s-{num_others + 1}", "vanished")]
    assert WatchedChannel.num_looks <= 5


@dataclass
class Model:
    """Who waits, as slowly as can be: names in the order in which they came to wait so."""

    max_without_slot: int
    waiting: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    closed: list[tuple[str, str]] = field(default_factory=list)

    def lose(self, name: str, stream: Stream) -> None:
        self.waiting.append(name)
        if stream.ended:
            self.wait_without_slot(name, self.ended)
        elif not stream.is_attached:
            self.wait_without_slot(name, self.silent)

    def wait_without_slot(self, name: str, among: list[str]) -> None:
        among.append(name)
        if len(self.silent) + len(self.ended) > self.max_without_slot:
            first = (self.silent or self.ended)[0]
            self.go(first)
            self.closed.append((first, "vanished"))

    def go(self, name: str) -> None:
        for names in (self.waiting, self.silent, self.ended):
            if name in names:
                names.remove(name)


@settings(max_examples=200, deadline=None)
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(["lose", "lose", "lose", "end", "end", "back"]), st.integers(0, 9)
        ),
        min_size=10,
        max_size=60,
    )
)
def test_whoever_comes_and_goes_the_oldest_of_those_without_a_slot_goes_first(
    script: list[tuple[str, int]],
) -> None:
    most = 2
    yard, model = Yard(), Model(most)
    channels = [yard.enter(has_slot=number % 2 == 0)[0] for number in range(10)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "MAX_PARKED_WITHOUT_SLOT", most)
        for step, number in script:
            act(yard, model, channels[number], step)
            assert yard.closed == model.closed
            assert yard.parking.num_parked == len(model.waiting)
    for name in tuple(model.waiting):
        model.go(name)
        model.closed.append((name, "vanished"))
    yard.parking.expire(2 * WINDOW_NS)
    assert yard.closed == model.closed, "and the window ends for all, in order"


def act(yard: Yard, model: Model, channel: Channel, step: str) -> None:
    if channel.session is None:
        return  # it is over
    name, stream = channel.streaming.session_id, channel.streaming
    if step == "lose" and name not in model.waiting:
        model.lose(name, stream)
        yard.parking.park(channel, len(model.closed))
    elif step == "back":
        model.go(name)
        yard.parking.take_back(channel)
    elif step == "end" and stream.is_attached and not stream.ended:
        if name in model.waiting:
            model.wait_without_slot(name, model.ended)
        yard.end(channel)


def test_a_drain_closes_those_that_wait_and_no_other() -> None:
    yard = Yard()
    (one, _), (two, second) = yard.enter(), yard.enter()
    yard.parking.park(one, 0)
    yard.parking.drain("draining")
    assert yard.closed == [("s-1", "draining")]
    assert yard.parking.find(second) is two
    yard.parking.forget(one)
    assert yard.parking.num_parked == 0


def test_a_session_from_before_waits_like_any_other() -> None:
    yard = Yard()
    channel = yard.channel()
    token = ResumeToken(3, "s-1", bytes(16))
    channel.session = Resumable(token.digest, KeptEvents(7, (SILENCE,)))
    yard.parking.restore(channel, 0)
    assert yard.parking.find(token) is channel
    assert channel.kept_since(7) == (SILENCE,)
    yard.parking.expire(WINDOW_NS)
    assert yard.closed == [("s-1", "vanished")]


def test_of_what_a_session_says_the_numbered_is_kept() -> None:
    yard = Yard()
    channel, _ = yard.enter()
    assert yard.parking.keep(channel, SILENCE)
    assert yard.parking.keep(channel, Latency(latency_class=LatencyClass.SLOW, hop_ms=640))
    assert channel.kept_since(0) == (SILENCE,)
    assert channel.session is not None
    channel.session.kept._num_bytes = MAX_KEPT_EVENT_BYTES
    assert not yard.parking.keep(channel, SILENCE)
    yard.parking.forget(channel)
    assert yard.parking.keep(channel, SILENCE), "nothing is kept, and so it is not too much"
