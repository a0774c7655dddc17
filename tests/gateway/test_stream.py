"""Stream: what is written, what waits, what is lost, and in which order controls come."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session_journal import NoJournal
from gateway.stream import MAX_FINALIZE_TIMES, MAX_PENDING_BYTES, Stream, is_consistent
from protocol.client_messages import Closed, Hello, VadOptions, Watermark
from protocol.ring import Ring
from protocol.service_messages import Close, Configure, Finalize, SamplesRecord

RING_SAMPLES = 100


class Owner:
    """Nobody listens."""

    dialect_name = "test"

    def deliver(self, event: object) -> None:
        raise AssertionError("a stream delivers nothing itself")

    def resume(self) -> None:
        raise AssertionError

    def stream_ended(self) -> None:
        raise AssertionError


class Link:
    """Where dirty streams go."""

    def __init__(self) -> None:
        self.dirty: list[Stream] = []


class Doubler:
    """A converter from 8 kHz that repeats each sample, and holds back one until drained."""

    def __init__(self) -> None:
        self.held = b""

    def convert(self, pcm: bytes | memoryview) -> bytes:
        data = self.held + b"".join(bytes(pcm[i : i + 2]) * 2 for i in range(0, len(pcm), 2))
        self.held = data[-2:]
        return data[:-2]

    def drain(self) -> bytes:
        held, self.held = self.held, b""
        return held

    def max_ring_samples(self, num_client_samples: int) -> int:
        return 2 * num_client_samples + 1

    def restart_sample(self, ring_samples: int) -> int:
        return max(0, ring_samples // 2 - 5)


class CountingJournal(NoJournal):
    """Only counts how often it was told of counters."""

    def __init__(self) -> None:
        self.num_notes = 0

    def note(self) -> None:
        self.num_notes += 1


def make(attached: bool = True, converter: Any = None, **hello: Any) -> tuple[Stream, Link]:
    stream = Stream("id", Hello(**hello), Owner(), converter)
    link = Link()
    if attached:
        stream.attach(3, 9, Ring(memoryview(bytearray(2 * RING_SAMPLES))), link)
    return stream, link


def pcm(num_samples: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(2 * num_samples)


def ring_of(stream: Stream) -> Ring:
    assert stream.ring is not None
    return stream.ring


def test_written_samples_are_announced_once_a_turn() -> None:
    stream, link = make()
    assert stream.takes_ring_audio
    first, second = pcm(30), pcm(20, 1)
    assert stream.write(first, 5)
    assert stream.write(memoryview(second), 6)
    assert link.dirty == [stream]
    assert stream.take_record() == SamplesRecord(3, 9, 0, 50, 6)
    link.dirty.clear()
    assert stream.write(first, 7)
    assert stream.take_record() == SamplesRecord(3, 9, 50, 30, 7)
    assert ring_of(stream).read(0, 80) == first + second + first


def test_write_refuses_what_does_not_fit_and_wraps_after_credit() -> None:
    stream, _ = make()
    assert not stream.write(b"", 1)
    assert not stream.write(pcm(101), 1)
    assert stream.write(pcm(90), 1)
    assert not stream.write(pcm(11), 1)
    stream.take_record()
    stream.credit(90, 90)
    assert stream.write(pcm(40, 5), 1)
    assert ring_of(stream).read(90, 40) == pcm(40, 5)
    assert stream.client_samples == stream.ring_samples == 130


def test_write_needs_a_ring_and_an_open_stream() -> None:
    stream, _ = make(attached=False)
    assert not stream.takes_ring_audio
    assert not stream.write(pcm(1), 1)
    stream, _ = make()
    stream.close("client")
    assert not stream.takes_ring_audio
    assert not stream.write(pcm(1), 1)


def test_what_does_not_fit_waits_with_the_controls_behind_it() -> None:
    stream, _ = make()
    data = pcm(250)
    stream.accept(data, 1)
    stream.finalize(4, 1)
    stream.configure(VadOptions(enabled=False))
    stream.close("client")
    stream.close("again")
    assert list(stream.pump()) == []
    assert stream.is_blocked
    assert stream.pending_bytes == 300
    read = b""
    controls = []
    while stream.is_blocked:
        record = stream.take_record()
        read += ring_of(stream).read(record.first_sample, record.num_samples)
        stream.credit(stream.ring_samples, stream.ring_samples)
        controls += list(stream.pump())
    assert not stream.is_dirty or stream.take_record().num_samples
    assert controls == [
        Finalize(3, 9, 4, 250), Configure(3, 9, 250, VadOptions(enabled=False)),
        Close(3, 9, 250, "client"),
    ]  # fmt: skip
    assert read + ring_of(stream).read(200, 50) == data
    assert stream.pending_bytes == 0


class History:
    """A stream between a client and a service, and what both saw."""

    def __init__(self) -> None:
        self.stream, _ = make()
        self.sent = self.seen = b""
        self.expected: list[tuple[int, int]] = []
        self.controls: list[tuple[int, int]] = []

    def client_sends(self, kind: str, amount: int, number: int) -> None:
        if kind == "finalize":
            self.stream.finalize(amount, 1)
            self.expected.append((amount, len(self.sent) // 2))
            return
        data = pcm(amount, number)
        self.sent += data
        if not self.stream.write(data, 1):
            self.stream.accept(data, 1)

    def credit(self, amount: int) -> None:
        stream = self.stream
        stream.credit(min(stream.released_samples + amount, stream.announced_samples), 0)

    def pump(self) -> None:
        for control in self.stream.pump():
            assert isinstance(control, Finalize)
            self._announce()
            assert control.at_sample * 2 == len(self.seen)
            self.controls.append((control.finalize_id, control.at_sample))
        self._announce()

    def _announce(self) -> None:
        if self.stream.is_dirty:
            record = self.stream.take_record()
            assert record.first_sample * 2 == len(self.seen)
            self.seen += ring_of(self.stream).read(record.first_sample, record.num_samples)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.integers(1, 150).map(lambda n: ("audio", n)),
            st.integers(0, 99).map(lambda n: ("finalize", n)),
            st.integers(0, 150).map(lambda n: ("credit", n)),
        ),
        max_size=30,
    )
)
def test_order_and_content_for_any_history(steps: list[tuple[str, int]]) -> None:
    """The service sees each sample once, in order, and each control at its place."""
    history = History()
    for number, (kind, amount) in enumerate(steps):
        if kind == "credit":
            history.credit(amount)
        elif not history.stream.is_blocked:  # else the connection does not read
            history.client_sends(kind, amount, number)
        history.pump()
    while history.stream.is_blocked:
        history.credit(RING_SAMPLES)
        history.pump()
    assert history.seen == history.sent
    assert history.controls == history.expected


def test_a_live_stream_loses_whole_pieces_and_says_which() -> None:
    stream, _ = make(live=True)
    stream.accept(pcm(80), 1)
    assert list(stream.pump()) == []
    assert stream.take_overflow() is None
    stream.accept(pcm(30), 1)
    stream.accept(pcm(10), 1)  # would fit, but one report names one contiguous range
    overflow = stream.take_overflow()
    assert overflow is not None
    assert (overflow.first_client_sample, overflow.num_client_samples) == (80, 40)
    stream.accept(pcm(20), 1)
    list(stream.pump())
    assert stream.ring_samples == 100
    stream.close("client")
    record = stream.close_record(100)
    assert (record.socket_samples, record.lost_samples) == (140, 40)
    assert is_consistent(record)


def test_a_live_stream_that_waits_for_a_ring_loses_too() -> None:
    stream, _ = make(attached=False, live=True)
    stream.accept(pcm(1), 1)
    assert stream.lost_client_samples == 1


def test_a_converter_is_drained_by_each_control() -> None:
    stream, _ = make(converter=Doubler(), sample_rate_hz=8_000, live=True)
    assert not stream.takes_ring_audio
    stream.accept(pcm(10), 1)
    assert list(stream.pump()) == []
    assert stream.ring_samples == 19
    stream.finalize(1, 1)
    assert list(stream.pump()) == [Finalize(3, 9, 1, 20)]
    stream.accept(pcm(39), 1)
    stream.close("vanished")
    assert list(stream.pump()) == [Close(3, 9, 98, "vanished")]
    stream.accept(pcm(40), 1)  # after the close nothing counts
    assert is_consistent(stream.close_record(98))


def test_a_stream_without_a_ring_keeps_its_options_and_closes_empty() -> None:
    stream, _ = make(attached=False)
    stream.configure(VadOptions(enabled=False))
    assert not stream.vad.enabled
    stream.close("client")
    assert not stream.is_blocked
    record = stream.close_record(0)
    assert record == Closed(
        reason="client", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
    )


def test_credit_is_bounded_by_what_was_announced_and_never_goes_back() -> None:
    stream, _ = make()
    stream.write(pcm(50), 1)
    stream.credit(50, 0)
    assert stream.released_samples == 0
    stream.take_record()
    stream.credit(40, 30)
    stream.credit(20, 20)
    assert (stream.released_samples, stream.decoded_samples) == (40, 30)
    assert stream.watermark() == Watermark(50, 50, 30)
    assert stream.free_samples == 90


def test_a_fed_blocked_stream_is_a_bug() -> None:
    stream, _ = make()
    stream.accept(bytes(MAX_PENDING_BYTES), 1)
    with pytest.raises(AssertionError):
        stream.accept(bytes(2), 1)


def test_finalize_times_are_bounded() -> None:
    stream, _ = make()
    for number in range(MAX_FINALIZE_TIMES + 5):
        stream.finalize(number, number)
    assert len(stream.finalize_times) == MAX_FINALIZE_TIMES


@pytest.mark.parametrize("wrong", [(11, 10, 10, 0), (10, 10, 9, 0), (10, 10, 10, 1)])
def test_counts_that_differ(wrong: tuple[int, int, int, int]) -> None:
    socket_samples, ring_samples, engine_samples, lost_samples = wrong
    record = Closed(
        reason="", client_samples=0, socket_samples=socket_samples, ring_samples=ring_samples,
        engine_samples=engine_samples, lost_samples=lost_samples,
    )  # fmt: skip
    assert not is_consistent(record)


# Streams that may go on at another worker


def test_the_journal_knows_of_samples_before_services_and_clients() -> None:
    stream, _ = make()
    journal = stream.journal = CountingJournal()
    stream.write(pcm(10), 5)
    assert journal.num_notes == 0, "it costs nothing a frame"
    stream.take_record()
    assert journal.num_notes == 1
    stream.watermark()
    assert journal.num_notes == 2


def test_a_client_forgets_only_what_the_ring_has() -> None:
    stream, _ = make()
    stream.accept(pcm(150), 5)
    list(stream.pump())
    assert stream.watermark() == Watermark(150, 100, 0)
    stream.journal = CountingJournal()
    assert stream.watermark() == Watermark(100, 100, 0)


def test_what_was_lost_is_not_asked_for_again() -> None:
    stream, _ = make(live=True)
    stream.journal = CountingJournal()
    for _ in range(2):
        stream.accept(pcm(60), 5)
        list(stream.pump())
    assert stream.lost_client_samples == 60
    assert stream.safe_client_samples == 120


def test_a_client_keeps_what_a_converter_would_have_to_hear_again() -> None:
    stream, _ = make(converter=Doubler(), sample_rate_hz=8_000, live=True)
    stream.journal = CountingJournal()
    stream.accept(pcm(30), 5)
    list(stream.pump())
    assert (stream.ring_samples, stream.safe_client_samples) == (59, 24)
    stream.accept(pcm(30), 5)
    assert stream.lost_client_samples == 30
    assert not stream.can_restart
    assert stream.safe_client_samples == 60


def test_a_stream_without_a_link_keeps_no_list() -> None:
    stream, link = make()
    stream.leave()
    stream.write(pcm(20), 5)
    assert (stream.link, link.dirty) == (None, [])
    other = Link()
    stream.join(other, 5)
    stream.announce_rest()
    assert other.dirty == [stream]
    assert stream.take_record_to(12) == SamplesRecord(3, 9, 5, 7, 5)
    assert stream.take_record() == SamplesRecord(3, 9, 12, 8, 5)
    stream.announce_rest()
    assert other.dirty == [stream], "it was not listed again"
