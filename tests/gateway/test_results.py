"""results.py: what of a service's words becomes an event, and what is counted on the way."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.flight_recorder import NO_RECORDER
from gateway.metrics import Metrics
from gateway.results import Results
from gateway.stream import Stream
from protocol import service_messages as service
from protocol.client_messages import Error, Final, Hello, NonSpeech, Partial, ServerMessage, Stages
from protocol.ring import ArenaLayout

NOW_NS = 9_000
STAGES = Stages(1_000, 0, 3_000, 4_000, 0)


class Owner:
    """Remembers."""

    dialect_name = "test"

    def __init__(self) -> None:
        self.events: list[ServerMessage] = []

    def deliver(self, event: ServerMessage) -> None:
        self.events.append(event)

    def refuse(self, error: Error) -> None:
        raise AssertionError(error)

    def resume(self) -> None:
        raise AssertionError

    def stream_ended(self) -> None:
        raise AssertionError


class Bench:
    """One stream, and what is made of its results."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.metrics = Metrics()
        self.logged: list[Final] = []
        self.results = Results(
            self.metrics, NO_RECORDER, lambda stream, final: self.logged.append(final)
        )
        self.stream = Stream("s", Hello(), self.owner, None)
        layout = ArenaLayout(1, 100)
        self.stream.attach(0, 1, layout.ring(memoryview(bytearray(layout.size_bytes)), 0))

    def enqueue_ns(self, receive_ns: int) -> int:
        return receive_ns + 1_000

    def say(self, message: Any) -> list[ServerMessage]:
        self.results.deliver(self.stream, self, message, NOW_NS)
        events, self.owner.events = self.owner.events, []
        return events


def final(utterance: int = 0, start: int = 0, end: int = 50, **fields: Any) -> service.Final:
    return service.Final(0, 1, end, utterance, start, end, "text", stages=STAGES, **fields)


def draft(decoded: int = 40) -> service.Partial:
    return service.Partial(0, 1, decoded, 0, 0, decoded, "a", "b", stages=STAGES)


def test_a_draft_is_rendered_and_measured() -> None:
    bench = Bench()
    (event,) = bench.say(draft())
    assert isinstance(event, Partial)
    assert (event.stable, event.audio_decoded) == ("a", 40)
    assert event.stages == Stages(1_000, 2_000, 3_000, 4_000, NOW_NS)
    assert bench.metrics.partials.labels("test").value == 1
    assert bench.metrics.partial_latency.labels("total").sum_ns == NOW_NS - 1_000


def test_a_final_is_counted_and_logged() -> None:
    bench = Bench()
    (event,) = bench.say(final())
    assert bench.logged == [event]
    assert bench.metrics.finals.labels("test").value == 1
    assert bench.metrics.finalize_to_final.sum_ns == 0


def test_without_a_log_a_final_is_only_counted() -> None:
    bench = Bench()
    bench.results = Results(bench.metrics, NO_RECORDER, None)
    assert len(bench.say(final())) == 1
    assert bench.metrics.finals.labels("test").value == 1


def test_an_answer_is_measured_from_its_question() -> None:
    bench = Bench()
    bench.stream.open_finalizes = 2
    bench.stream.finalize_times[7] = NOW_NS - 500
    bench.say(final(finalize_id=7))
    bench.say(final(1, 50, 60, finalize_id=8))  # its question is not remembered
    assert bench.stream.open_finalizes == 0
    assert bench.metrics.finalize_to_final.sum_ns == 500
    assert bench.stream.finalize_times == {}


def test_what_was_heard_already_is_not_said_again() -> None:
    bench = Bench()
    assert len(bench.say(final())) == 1
    bench.stream.history.begin_again()
    assert bench.say(final()) == []
    assert bench.metrics.replay_differences.value == 0
    bench.stream.history.begin_again()
    assert bench.say(service.NonSpeech(0, 1, 50, 0, 50)) == []
    assert bench.metrics.replay_differences.value == 1
    assert bench.stream.history.differences == 0


def test_silence_is_passed_on() -> None:
    (event,) = Bench().say(service.NonSpeech(0, 1, 50, 0, 50))
    assert isinstance(event, NonSpeech)


@pytest.mark.parametrize(("decoded", "has_recovered"), [(39, False), (40, True)])
def test_a_stream_has_recovered_where_its_old_service_was(
    decoded: int, has_recovered: bool
) -> None:
    bench = Bench()
    bench.stream.orphaned_ns = NOW_NS - 300
    bench.stream.orphaned_sample = 40
    bench.say(draft(decoded))
    assert bench.metrics.recovery.sum_ns == (300 if has_recovered else 0)
    assert (bench.stream.orphaned_ns == 0) == has_recovered
