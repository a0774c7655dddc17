"""Connection: backpressure, loss, time-outs and slow readers, through a whole worker."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest

from gateway.connection import MAX_PUMP_NS, MAX_STEPS_A_TURN
from gateway.dialects import AudioIn, FinalizeIn, Intent, OpenStream, Output
from protocol import service_messages
from protocol.client_messages import (
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Overflow,
    Partial,
    Ping,
    Pong,
    ServerMessage,
    Watermark,
)
from protocol.errors import ErrorCode

from .rig import MS, Rig
from .scripted import ScriptedClient, ScriptedDialect


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def pcm(num_samples: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(2 * num_samples)


def assert_counts_agree(closed: Closed) -> None:
    assert closed.socket_samples == closed.ring_samples + closed.lost_samples
    assert closed.ring_samples == closed.engine_samples


def test_a_full_ring_stops_reading_and_credit_resumes(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = rig.connect(Hello())
    audio = pcm(40_000)
    client.send_audio(audio)
    client.send(Finalize(finalize_id=1))
    rig.settle()
    stream = service.all_streams[0]
    assert stream.samples == 16_000
    assert not stream.finalized
    while stream.samples < 40_000:
        service.credit(stream)
        rig.settle()
    assert stream.pcm == audio
    assert [f.at_sample for f in stream.finalized] == [40_000]


def test_a_live_stream_loses_whole_pieces_and_names_them(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = rig.connect(Hello(live=True))
    for _ in range(3):
        client.send_audio(pcm(7_000))
        rig.settle()
    overflow = client.of(Overflow)[0]
    assert (overflow.first_client_sample, overflow.num_client_samples) == (14_000, 7_000)
    client.send_audio(pcm(2_000))
    client.send(Bye())
    rig.settle()
    closed = client.of(Closed)[0]
    assert (closed.ring_samples, closed.lost_samples) == (16_000, 7_000)
    assert_counts_agree(closed)


@pytest.mark.parametrize("say_bye", [True, False])
def test_resampled_audio_is_counted_and_drained(rig: Rig, say_bye: bool) -> None:
    service = rig.add_service()
    client = rig.connect(Hello(sample_rate_hz=44_100))
    client.send_audio(pcm(10_001))
    client.send(Finalize(finalize_id=1))
    rig.settle()
    assert [f.at_sample for f in service.all_streams[0].finalized] == [10_001 * 16_000 // 44_100]
    client.send_audio(pcm(10_001))
    if say_bye:
        client.send(Bye())
    else:
        client.sock.close()
    rig.settle()
    close = service.all_streams[0].closed
    assert close is not None
    assert close.at_sample == 20_002 * 16_000 // 44_100
    assert close.reason == ("client" if say_bye else "vanished")
    assert rig.worker.metrics.accounting_mismatch.value == 0
    assert rig.worker.admission.slots.num_free == 4


def test_an_idle_connection_costs_no_slot_and_finalize_is_answered(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello())
    assert rig.worker.admission.slots.num_free == 4
    client.send(Finalize(finalize_id=3), Ping(9), Bye())
    rig.settle()
    assert client.of(Final)[0].finalize_id == 3
    assert client.of(Pong) == [Pong(9)]
    assert client.of(Closed)[0].engine_samples == 0
    assert not service.all_streams


def test_a_broken_protocol_is_answered_and_the_stream_still_closes(rig: Rig) -> None:
    rig.add_service()
    client = rig.connect(Hello())
    client.send_audio(pcm(320))
    client.sock.send(b"GET / HTTP/1.1\r\n\r\n")
    rig.settle()
    assert client.of(Error)[0].code is ErrorCode.BAD_MAGIC
    assert client.of(Closed)[0].engine_samples == 320
    assert client.saw_end


def test_time_outs(rig: Rig) -> None:
    rig.add_service()
    silent, idle = rig.connect(), rig.connect(Hello())
    rig.settle()
    rig.clock.advance_ms(10_001)
    rig.settle()
    assert silent.of(Error)[0].code is ErrorCode.HANDSHAKE_TIMEOUT
    assert not idle.of(Error)
    rig.clock.advance_ms(55_000)
    rig.settle()
    assert idle.of(Error)[0].code is ErrorCode.IDLE_TIMEOUT
    assert idle.saw_end


def test_a_client_that_keeps_talking_is_not_idle(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello())
    for _ in range(5):
        rig.clock.advance_ms(40_000)
        service.health(rig.clock.now_ns)
        rig.settle()
        client.send_audio(pcm(320))
        rig.settle()
    assert not client.of(Error)


def test_partials_are_shed_and_a_slow_reader_is_closed(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello())
    client.send_audio(pcm(320))
    rig.settle()
    stream = service.all_streams[0]
    rig.clients.remove(client)  # it does not read
    for _ in range(60):
        service.partial(stream, "x" * 16_000)
        rig.settle()
    assert rig.worker.partials_shed > 0
    assert rig.worker.metrics.slow_readers.value == 0
    for number in range(100):
        if stream.closed is None:
            service.send(_long_final(stream.open.slot, stream.open.generation, number))
            rig.settle()
    assert rig.worker.metrics.slow_readers.value == 1
    assert stream.closed is not None
    rig.clock.advance_ms(6_000)
    rig.settle()
    assert rig.worker.admission.slots.num_free == 4


def _long_final(slot: int, generation: int, number: int) -> service_messages.Final:
    span = 2 * number, 2 * number + 2
    return service_messages.Final(slot, generation, 320, number, *span, "y" * 16_000)


def test_watermarks_are_rate_limited(rig: Rig) -> None:
    rig.add_service()
    client = rig.connect(Hello())
    for _ in range(10):
        client.send_audio(pcm(320))
        rig.clock.advance_ms(20)
        rig.settle()
    watermarks = client.of(Watermark)
    assert 1 <= len(watermarks) <= 2
    assert watermarks[0] == Watermark(320, 320, 320)


def test_partials_can_be_declined(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello(partials=False))
    client.send_audio(pcm(320))
    rig.settle()
    service.partial(service.all_streams[0], "hello")
    rig.settle()
    assert not client.of(Partial)
    assert not service.all_streams[0].open.partials


def test_a_reset_client_is_decoded_to_its_end(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello())
    client.send_audio(pcm(320))
    rig.settle()
    service.partial(service.all_streams[0], "unread")
    rig.worker.loop.wake()
    rig.worker.loop.run_once()
    client.sock.close()  # with data unread: the other side sees a reset
    rig.settle()
    stream = service.all_streams[0]
    assert stream.closed is not None
    assert stream.closed.reason == "vanished"
    assert rig.worker.door.num_connections == 0
    assert rig.worker.admission.slots.num_free == 4


def test_a_half_closed_client_still_hears_its_finals(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_close = False
    client = rig.connect(Hello())
    client.send_audio(pcm(320))
    client.sock.shutdown(socket.SHUT_WR)
    rig.settle()
    stream = service.all_streams[0]
    service.final(stream)
    service.close(stream)
    rig.settle()
    assert client.of(Final)
    assert client.of(Closed)[0].reason == "vanished"
    assert client.saw_end


def test_a_client_that_vanishes_while_its_ring_is_full_is_decoded(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = rig.connect(Hello())
    client.send_audio(pcm(30_000))
    client.sock.close()
    rig.settle()
    stream = service.all_streams[0]
    assert stream.samples == 16_000
    for _ in range(3):
        if stream.closed is None:
            service.credit(stream)
            rig.settle()
    assert stream.samples == 30_000
    assert rig.worker.metrics.accounting_mismatch.value == 0
    assert rig.worker.door.num_connections == 0


def test_the_connection_is_ended_for_a_client_that_does_not_end_it(rig: Rig) -> None:
    rig.add_service()
    client = rig.connect(Hello())
    client.send(Bye())
    rig.settle()
    assert client.saw_end
    assert rig.worker.door.num_connections == 1
    client.sock.send(b"still talking")
    rig.clock.advance_ms(5_001)
    rig.settle()
    assert rig.worker.door.num_connections == 0


class BrokenDialect(ScriptedDialect):
    """Raises where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks_on = ""

    def receive_data(self, data: bytes | str) -> None:
        super().receive_data(data)
        if self.breaks_on == "data" and data:
            raise ZeroDivisionError("a defect")

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        super().handle_event(event, now_ns, channel)
        if self.breaks_on == type(event).__name__:
            raise ZeroDivisionError("a defect")

    def data_to_send(self) -> list[Output]:
        if self.breaks_on == "output":
            raise ZeroDivisionError("a defect")
        return super().data_to_send()


@pytest.mark.parametrize("has_audio", [True, False])
@pytest.mark.parametrize("breaks_on", ["data", "Final", "output"])
def test_a_defect_in_a_dialect_ends_its_client_and_nobody_else(
    rig: Rig, breaks_on: str, has_audio: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = rig.add_service()
    other = rig.connect(Hello())
    dialect = BrokenDialect()
    client = ScriptedClient(rig, dialect=dialect)
    client.say(OpenStream(Hello()), *([AudioIn(pcm(1_000))] if has_audio else []))
    dialect.breaks_on = breaks_on
    client.say(FinalizeIn(1))
    assert client.was_closed
    assert "ZeroDivisionError" in caplog.text
    other.send_audio(pcm(2_000))
    other.send(Bye())
    rig.settle()
    (record,) = other.of(Closed)
    assert record.engine_samples == 2_000
    assert not rig.worker.router.open_streams
    assert service.all_streams


def test_a_flood_of_small_messages_is_worked_off_in_slices(rig: Rig) -> None:
    """And everything behind it comes in its order."""
    rig.add_service()
    client = rig.connect(Hello())
    other = rig.connect(Hello())
    steps: list[int] = []
    client.send(*(Ping(number) for number in range(1_000)))
    for _ in range(5):
        rig.worker.loop.run_once()
        client.receive()
        steps.append(len(client.of(Pong)))
    assert max(after - before for before, after in pairwise(steps)) <= (MAX_STEPS_A_TURN)
    client.send_audio(pcm(1_000))
    client.send(Bye())
    other.send(Ping(7))
    rig.settle()
    assert [pong.nonce for pong in client.of(Pong)] == list(range(1_000))
    assert other.of(Pong) == [Pong(7)]
    (record,) = client.of(Closed)
    assert record.engine_samples == 1_000


class SlowDialect(ScriptedDialect):
    """Each intent costs a millisecond."""

    def __init__(self, rig: Rig) -> None:
        super().__init__()
        self.rig = rig

    def next_event(self) -> Intent | None:
        intent = super().next_event()
        if intent is not None:
            self.rig.clock.advance_ms(1)
        return intent


def test_few_messages_that_cost_much_are_worked_off_in_slices(rig: Rig) -> None:
    rig.add_service()
    dialect = SlowDialect(rig)
    client = ScriptedClient(rig, dialect=dialect)
    client.say(OpenStream(Hello()))
    dialect.intents.extend(FinalizeIn(number) for number in range(20))
    client.sock.send(b".")
    steps: list[int] = []
    while dialect.intents and len(steps) < 20:
        steps.append(len(dialect.intents))
        rig.worker.loop.wake()
        rig.worker.loop.run_once()
        rig.clock.advance_ms(100)  # its share of the time
    assert not dialect.intents
    most = MAX_PUMP_NS // MS + 1
    assert max(before - after for before, after in pairwise([*steps, 0])) <= most
    rig.settle()
    assert [final.finalize_id for final in client.of(Final)] == list(range(20))
