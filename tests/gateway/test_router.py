"""Router: identity, options and counts, with a link that only remembers. The rest of its work
is seen through a whole worker in test_worker.py."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from gateway.admission import PROMISE_NS, Admission, ServiceLoad, SlotTable
from gateway.metrics import Metrics
from gateway.router import MAX_OPEN_FINALIZES, Router
from gateway.stream import Stream
from protocol import service_messages as service
from protocol.client_messages import (
    Closed,
    Error,
    Final,
    Hello,
    Latency,
    LatencyClass,
    ServerMessage,
    Stages,
    VadOptions,
)
from protocol.errors import ErrorCode
from protocol.ring import ArenaLayout

from .rig import make_config

NOW_NS = 50_000_000_000


class Owner:
    """Remembers."""

    dialect_name = "test"

    def __init__(self) -> None:
        self.events: list[ServerMessage] = []
        self.resumed = 0
        self.ended = 0

    def deliver(self, event: ServerMessage) -> None:
        self.events.append(event)

    def refuse(self, error: Error) -> None:
        self.events.append(error)

    def resume(self) -> None:
        self.resumed += 1

    def stream_ended(self) -> None:
        self.ended += 1


class RememberingLink:
    """Remembers."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.dirty: list[Stream] = []
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def enqueue_ns(self, receive_ns: int) -> int:
        return receive_ns + 1


class Bench:
    """A router with links 0 and 1."""

    def __init__(
        self,
        hop_ms: int = 320,
        on_final: Any = None,
        latency_class: LatencyClass = LatencyClass.FULL,
        **config: Any,
    ) -> None:
        layout = ArenaLayout(4, 1_000)
        admission = Admission(SlotTable(4))
        self.closed: list[Closed] = []
        self.metrics = Metrics()
        self.router = Router(
            make_config(**config), admission, self.metrics, layout,
            memoryview(bytearray(layout.size_bytes)), lambda hello: None,
            lambda stream, record: self.closed.append(record), "w", on_final,
        )  # fmt: skip
        self.links = [RememberingLink(0), RememberingLink(1)]
        for link in self.links:
            self.router.links[link.index] = link
            load = admission.services[link.index] = ServiceLoad()
            report = service.Health(
                NOW_NS, NOW_NS, 1.0, 0, 0, 4, hop_ms, 30_000, ("m",), latency_class=latency_class
            )
            load.take_health(report, NOW_NS)

    def open(self, **hello: Any) -> tuple[Stream, Owner]:
        owner = Owner()
        stream = self.router.admit(Hello(**hello), owner, NOW_NS)
        assert isinstance(stream, Stream)
        assert self.router.claim(stream, NOW_NS) is None
        return stream, owner

    def receive(self, message: Any, link: int = 0) -> None:
        self.router.receive(self.links[link], message, NOW_NS)


def reporting(bench: Bench, bearable_streams: int, open_streams: int = 0) -> None:
    """Both services can bear so many."""
    for load in bench.router.admission.services.values():
        report = structs.replace(
            load.health, bearable_streams=bearable_streams, open_streams=open_streams
        )
        load.take_health(report, NOW_NS)


def admitted(bench: Bench) -> Stream:
    """A client that has said hello, and no audio yet."""
    stream = bench.router.admit(Hello(), Owner(), NOW_NS)
    assert isinstance(stream, Stream)
    return stream


def test_who_was_let_in_and_speaks_soon_has_the_places_of_that_time() -> None:
    bench = Bench()
    reporting(bench, 1)
    soon, late, third = (admitted(bench) for _ in range(3))
    reporting(bench, 0)  # a service that was started again has much to catch up with
    assert isinstance(bench.router.admit(Hello(), Owner(), NOW_NS), Error)
    assert bench.router.claim(soon, NOW_NS + PROMISE_NS - 1) is None
    error = bench.router.claim(late, NOW_NS + PROMISE_NS)
    assert error is not None
    assert error.code is ErrorCode.AT_CAPACITY
    assert bench.router.claim(late, NOW_NS) is None
    assert bench.router.claim(third, NOW_NS) is not None  # no more than there were places


def final(stream: Stream, generation: int | None = None) -> service.Final:
    return service.Final(
        stream.slot, generation or stream.generation, 5, 1, 0, 5, "text", finalize_id=2,
        stages=Stages(100, 0, 300, 400, 0),
    )  # fmt: skip


def test_results_of_another_generation_or_link_are_dropped() -> None:
    bench = Bench()
    stream, owner = bench.open()
    bench.receive(final(stream, generation=7))
    bench.receive(final(stream), link=1)
    bench.receive(service.Credit(3, 1, 0, 0))
    assert owner.events == []
    assert bench.router.num_stale == 3
    bench.receive(final(stream))
    assert len(owner.events) == 1


def test_the_gateway_completes_the_stages() -> None:
    bench = Bench()
    stream, owner = bench.open()
    bench.router.finalize(stream, 2, NOW_NS - 5)
    bench.receive(final(stream))
    event = owner.events[0]
    assert isinstance(event, Final)
    assert event.stages == Stages(100, 101, 300, 400, NOW_NS)
    assert bench.metrics.finalize_to_final.sum_ns == 5


def test_finalizes_without_answers_are_bounded() -> None:
    bench = Bench()
    stream, owner = bench.open()
    for number in range(MAX_OPEN_FINALIZES):
        bench.router.finalize(stream, number, NOW_NS)
    assert owner.events == []
    bench.router.finalize(stream, 0, NOW_NS)
    (error,) = owner.events
    assert isinstance(error, Error)
    assert error.code is ErrorCode.UNEXPECTED_MESSAGE
    bench.receive(final(stream))
    assert stream.open_finalizes == MAX_OPEN_FINALIZES


def test_speech_events_and_checkpoints() -> None:
    bench = Bench()
    stream, owner = bench.open()
    key = stream.slot, stream.generation
    bench.receive(service.SpeechStarted(*key, 5, 1, 2))
    bench.receive(service.SpeechStopped(*key, 6, 1, 9))
    bench.receive(service.NonSpeech(*key, 7, 0, 2))
    bench.receive(service.Checkpoint(*key, 1, 5, b""))
    names = [type(event).__name__ for event in owner.events]
    assert names == ["SpeechStarted", "SpeechStopped", "NonSpeech"]
    assert stream.decoded_samples == 7
    assert stream.history.checkpoint == service.Checkpoint(*key, 1, 5, b"")


def test_options_reach_the_service() -> None:
    bench = Bench(vad=False)
    stream, _ = bench.open(language="en", hop_ms=500, prompt="p", vad=VadOptions(threshold=0.3))
    opened = bench.links[0].sent[0]
    assert (opened.language, opened.hop_ms, opened.prompt) == ("en", 500, "p")
    assert opened.vad == VadOptions(enabled=False)
    bench.router.configure(stream, VadOptions(enabled=False, max_utterance_ms=2_000))
    assert bench.links[0].sent[1].vad == VadOptions(enabled=False, max_utterance_ms=2_000)


def test_options_before_the_first_audio_open_the_stream() -> None:
    bench = Bench()
    stream = bench.router.admit(Hello(), Owner(), NOW_NS)
    assert isinstance(stream, Stream)
    bench.router.configure(stream, VadOptions(threshold=0.9))
    bench.router.claim(stream, NOW_NS)
    assert bench.links[0].sent[0].vad.threshold == 0.9


def test_started_tells_the_present_hop() -> None:
    stream, _ = Bench().open()
    calm = Bench().router.started(stream, NOW_NS)
    assert (calm.hop_ms, calm.latency_class, calm.model) == (320, LatencyClass.FULL, "m")
    busy = Bench(hop_ms=900, latency_class=LatencyClass.SLOW).router.started(stream, NOW_NS)
    assert (busy.hop_ms, busy.latency_class) == (900, LatencyClass.SLOW)


def test_a_client_hears_of_another_class_and_of_nothing_else() -> None:
    bench = Bench()
    stream, owner = bench.open()
    bench.router.started(stream, NOW_NS)
    key = stream.slot, stream.generation
    bench.receive(service.Pace(*key, LatencyClass.FULL, 320))
    bench.receive(service.Pace(*key, LatencyClass.FULL, 640))
    assert owner.events == []
    bench.receive(service.Pace(*key, LatencyClass.SLOW, 900))
    assert owner.events == [Latency(latency_class=LatencyClass.SLOW, hop_ms=900)]
    resumed = bench.router.resumed(stream, NOW_NS)
    assert (resumed.latency_class, resumed.hop_ms) == (LatencyClass.SLOW, 900)


def test_a_service_knows_whose_stream_it_is() -> None:
    bench = Bench()
    stream = bench.router.admit(Hello(), Owner(), NOW_NS)
    assert isinstance(stream, Stream)
    stream.group = 7
    bench.router.claim(stream, NOW_NS)
    assert bench.links[0].sent[0].group == 7


def test_a_stream_error_closes_and_is_counted_but_is_no_mismatch() -> None:
    bench = Bench()
    stream, owner = bench.open()
    stream.write(bytes(200), 1)
    key = stream.slot, stream.generation
    bench.receive(service.StreamError(*key, ErrorCode.INTERNAL, "trouble"))
    bench.receive(service.StreamClosed(*key, 0))
    assert [type(event) for event in owner.events] == [Error, Closed]
    assert bench.metrics.accounting_mismatch.value == 0
    assert bench.metrics.sessions.labels("test", "internal").value == 1
    assert (owner.ended, bench.links[0].dirty) == (1, [])


def test_counts_that_differ_are_counted() -> None:
    bench = Bench()
    stream, _ = bench.open()
    stream.write(bytes(200), 1)
    bench.router.close(stream, "client")
    bench.receive(service.StreamClosed(stream.slot, stream.generation, 99))
    assert bench.metrics.accounting_mismatch.value == 1
    assert bench.closed[0].engine_samples == 99
    bench.router.close(stream, "again")
    assert len(bench.closed) == 1


def test_a_lost_link_ends_streams_without_a_checkpoint_that_covers_them() -> None:
    """A service that lets audio be overwritten before it can be heard again."""
    bench = Bench()
    (one, first), (two, second) = bench.open(), bench.open()
    one.write(bytes(200), 1)
    bench.links[0].dirty.remove(one)
    one.take_record()
    bench.receive(service.Credit(one.slot, one.generation, 100, 50))
    bench.router.link_lost(bench.links[0], NOW_NS)
    assert one.ended
    assert not two.ended
    error = first.events[-1]
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == (ErrorCode.SERVICE_LOST, True)
    assert second.events == []
    assert bench.router.open_streams == (two,)
    assert bench.closed[0].reason == "service_lost"
    bench.router.pump(one)  # controls of a dead stream go nowhere


def test_reopening_keeps_the_session_and_checks_the_hello() -> None:
    bench = Bench()
    owner = Owner()
    stream = bench.router.admit(Hello(), owner, NOW_NS)
    assert isinstance(stream, Stream)
    reopened = bench.router.reopen(stream, Hello(sample_rate_hz=8_000), NOW_NS)
    assert isinstance(reopened, Stream)
    assert reopened.session_id == stream.session_id
    assert reopened.owner is owner
    assert reopened.format.sample_rate_hz == 8_000
    refused = bench.router.reopen(reopened, Hello(model="no such"), NOW_NS)
    assert isinstance(refused, Error)
    assert refused.code is ErrorCode.UNKNOWN_MODEL
    assert bench.router.claim(reopened, NOW_NS) is None
    with pytest.raises(AssertionError):
        bench.router.reopen(reopened, Hello(), NOW_NS)


def test_finals_are_told_to_who_wants_to_log_them() -> None:
    told: list[tuple[Stream, Final]] = []
    bench = Bench(on_final=lambda stream, event: told.append((stream, event)))
    stream, owner = bench.open()
    bench.receive(final(stream))
    assert told == [(stream, owner.events[0])]
