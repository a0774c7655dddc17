"""parking.py: who is known, who waits, until when, and who is forgotten first. Streams are real,
their service is not there; what a whole worker makes of it is in test_resumption.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

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

    def channel(self, *, has_slot: bool = True) -> Channel:
        self.quota.open += 1
        gatekeeper = Gatekeeper((), self.quota)
        channel = Channel(0, Hello(), Grant("t", 0), gatekeeper, "native", self.parking)
        channel.stream = Stream(f"s-{next(self._ids)}", Hello(), channel, None)
        if has_slot:
            channel.stream.attach(0, 1, self._ring)
        return channel

    def enter(self, *, has_slot: bool = True) -> tuple[Channel, ResumeToken]:
        channel = self.channel(has_slot=has_slot)
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
