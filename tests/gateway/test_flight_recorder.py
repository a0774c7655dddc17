"""Which moments are recorded, how often, and what is in a record. Streams are real, their clock,
their events and the folder are ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.config import FlightSettings
from gateway.flight_recorder import (
    LEAD_SAMPLES,
    MAX_A_MINUTE,
    MAX_LAGS_A_MINUTE,
    NS_PER_S,
    WINDOW_SAMPLES,
    FlightRecorder,
)
from gateway.metrics import Metrics
from gateway.stream import Stream
from protocol.client_messages import (
    Closed,
    EndOfTurn,
    Error,
    Final,
    Hello,
    MessageType,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    VadOptions,
    Watermark,
)
from protocol.flight_record import (
    GRID_SAMPLES,
    FlightHead,
    Reason,
    RecognitionSettings,
    RecordedControl,
)
from protocol.ring import Ring
from protocol.service_messages import Close, Configure, Finalize

SECOND = 16_000
SERVER = RecognitionSettings(
    model="m", hop_ms=320, guard_ms=300, window_s=15, hotword_weight=3.0, max_utterance_ms=30_000
)
OPTIONS = VadOptions(threshold=0.25)


class Owner:
    """See gateway.stream.StreamOwner."""

    dialect_name = "openai"

    def deliver(self, event: ServerMessage) -> None:
        """Nobody listens."""

    def refuse(self, error: Error) -> None:
        """Nobody listens."""

    def resume(self) -> None:
        """Nothing waits."""

    def stream_ended(self) -> None:
        """Nobody asks."""


class DirtyList:
    """See gateway.stream.DirtyList."""

    def __init__(self) -> None:
        self.dirty: list[Stream] = []


@dataclass
class Desk:
    """A recorder whose records are kept here, and its clock."""

    lag_ms: int = 2_000
    is_busy: bool = False
    now_ns: int = 1_000 * NS_PER_S
    saved: list[tuple[FlightHead, bytes]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        settings = FlightSettings(folder="", max_bytes=1, lag_ms=self.lag_ms, server=SERVER)
        self.recorder = FlightRecorder(settings, self.metrics, 5, self.save)

    def save(self, head: FlightHead, pcm: bytes) -> bool:
        if not self.is_busy:
            self.saved.append((head, pcm))
        return not self.is_busy

    def open(self, ring_s: float = 47, **hello: Any) -> Stream:
        stream = Stream("s-1", Hello(token="s3cret", **hello), Owner(), None)
        ring = Ring(memoryview(bytearray(int(ring_s * SECOND) * 2)))
        stream.attach(0, 1, ring, DirtyList())
        self.recorder.opened(stream, self.now_ns)
        return stream

    def feed(self, stream: Stream, seconds: float, at_once: bool = False) -> None:
        """Audio, in real time or at once; each sample is its number modulo 2**16."""
        first = stream.ring_samples
        for start in range(first, first + int(seconds * SECOND), SECOND):
            end = min(start + SECOND, first + int(seconds * SECOND))
            pcm = b"".join((n % 65_536).to_bytes(2, "little") for n in range(start, end))
            assert stream.write(pcm, self.now_ns)
            stream.announced_samples = stream.ring_samples
            stream.credit(stream.ring_samples, stream.ring_samples)
        if not at_once:
            self.pass_s(seconds)

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)

    def hear(self, stream: Stream, event: ServerMessage) -> None:
        self.recorder.heard(stream, event, self.now_ns)

    @property
    def reasons(self) -> list[Reason]:
        return [head.reason for head, _ in self.saved]

    @property
    def num_skipped(self) -> int:
        return self.metrics.flight_records_skipped.value


COUNTS = {"audio_received": 9, "audio_decoded": 9}


def partial(end_s: float, start_s: float = 0, utterance: int = 0) -> Partial:
    return Partial(
        utterance=utterance, start_sample=int(start_s * SECOND), end_sample=int(end_s * SECOND),
        stable="it was", volatile="", **COUNTS,
    )  # fmt: skip


def final(text: str, start_s: float, end_s: float, utterance: int = 0) -> Final:
    return Final(
        utterance=utterance, start_sample=int(start_s * SECOND), end_sample=int(end_s * SECOND),
        text=text, **COUNTS,
    )  # fmt: skip


def began(utterance: int, start_s: float) -> SpeechStarted:
    return SpeechStarted(utterance=utterance, start_sample=int(start_s * SECOND), **COUNTS)


def stopped(utterance: int, end_s: float) -> SpeechStopped:
    return SpeechStopped(utterance=utterance, end_sample=int(end_s * SECOND), **COUNTS)


# Lag


def test_a_late_partial_is_recorded() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 10)
    desk.hear(stream, partial(8.0))
    assert desk.saved == []
    desk.hear(stream, partial(7.9))
    ((head, _),) = desk.saved
    assert (head.reason, head.detail) == (Reason.LAG, "a partial came 2100 ms late")


def test_a_file_that_comes_faster_than_real_time_is_never_late() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 40, at_once=True)
    desk.pass_s(5)
    desk.hear(stream, partial(4.0))
    desk.hear(stream, stopped(0, 4.0))
    desk.hear(stream, final("it was", 0, 4.0))
    assert desk.saved == []
    desk.pass_s(3)  # but slower than real time is
    desk.hear(stream, partial(5.0, utterance=1))
    assert desk.reasons == [Reason.LAG]


def test_a_client_that_pauses_is_not_late() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 10)
    desk.pass_s(60)
    desk.hear(stream, partial(9.5))
    assert desk.saved == []


def test_a_late_final_counts_from_the_end_of_its_pause() -> None:
    desk = Desk()
    stream = desk.open(vad=VadOptions(min_silence_ms=1_000))
    desk.feed(stream, 10)
    desk.hear(stream, stopped(0, 7.1))
    desk.hear(stream, final("it was", 5, 7.1))
    assert desk.saved == []
    desk.hear(stream, stopped(1, 6.5))
    desk.hear(stream, final("it was", 5, 6.5, utterance=1))
    ((head, _),) = desk.saved
    assert head.detail == "a final came 2500 ms late"


def test_a_final_without_a_pause_may_end_long_before_what_was_heard() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 30)
    desk.hear(stream, final("it was", 0, 17))
    assert desk.saved == []


def test_a_cut_is_no_pause() -> None:
    """It lies well before what was heard of the utterance when it was decided."""
    desk = Desk()
    stream = desk.open()
    desk.hear(stream, began(0, 0))
    desk.feed(stream, 30)
    desk.hear(stream, stopped(0, 17))
    desk.hear(stream, began(1, 17))
    desk.hear(stream, final("it was", 0, 17))
    assert desk.saved == []
    desk.hear(stream, stopped(1, 20))
    desk.hear(stream, began(2, 21))
    desk.hear(stream, final("it was", 17, 20, utterance=1))
    assert desk.reasons == [Reason.LAG]


def test_while_another_service_takes_over_everything_is_late() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 10)
    stream.orphaned_ns = 1
    desk.hear(stream, partial(2.0))
    assert desk.saved == []
    stream.orphaned_ns = 0
    desk.hear(stream, partial(2.0))
    assert desk.reasons == [Reason.LAG]


# Finals


def test_speech_without_a_word_is_recorded() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 5)
    desk.hear(stream, final("", 0, 2))  # without voice activity detection nobody knows
    desk.hear(stream, began(1, 2))
    desk.hear(stream, final("", 2, 2.9, utterance=1))  # a cough
    desk.hear(stream, began(2, 3))
    desk.hear(stream, final("words", 3, 4.5, utterance=2))
    assert desk.saved == []
    desk.hear(stream, began(3, 3))
    desk.hear(stream, began(4, 4.6))
    desk.hear(stream, final(" ", 3, 4.5, utterance=3))
    ((head, _),) = desk.saved
    assert (head.reason, head.detail) == (Reason.EMPTY_FINAL, "1.5 s of speech without a word")


def test_a_final_that_repeats_itself_is_recorded_and_its_words_are_not_in_the_reason() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 5)
    desk.hear(stream, final("Thank you. " * 5, 0, 4))
    ((head, _),) = desk.saved
    assert (head.reason, head.detail) == (Reason.REPEATED_WORDS, "2 words in a row, 5 times")


# The end of a stream, and of a service


def test_counts_that_differ_are_recorded_unless_the_stream_was_given_up() -> None:
    desk = Desk()
    for abandoned, engine_samples in ((False, SECOND), (True, 5), (False, 5)):
        stream = desk.open()
        desk.feed(stream, 1)
        stream.abandoned = abandoned
        record = stream.close_record(engine_samples)
        desk.recorder.ended(stream, record, desk.now_ns)
        desk.recorder.ended(stream, record, desk.now_ns)  # it is forgotten
        desk.hear(stream, partial(0))
    ((head, pcm),) = desk.saved
    assert head.reason is Reason.MISMATCH
    assert head.detail == "socket 16000, lost 0, ring 16000, engine 5 samples"
    assert head.events[-1].type == MessageType.CLOSED
    assert len(pcm) == 2 * SECOND


def test_of_a_service_that_died_those_come_first_that_it_was_at_work_with() -> None:
    desk = Desk()
    streams = [desk.open() for _ in range(MAX_A_MINUTE + 2)]
    streams[-1].suspicion.strikes = 1
    desk.recorder.service_lost(streams, desk.now_ns)
    assert desk.reasons == [Reason.SERVICE_LOST] * MAX_A_MINUTE
    assert [head.detail for head, _ in desk.saved[:2]] == [
        "a step with this stream ran", "no step with this stream ran",
    ]  # fmt: skip
    assert desk.num_skipped == 2


# What is in a record


def test_what_a_record_says() -> None:
    desk = Desk()
    stream = desk.open(language="en", prompt="Earwire", client="me")
    desk.feed(stream, 3)
    desk.recorder.sent(stream, Finalize(0, 1, 4, 2 * SECOND))
    desk.recorder.sent(stream, Configure(0, 1, 3 * SECOND, OPTIONS))
    desk.hear(stream, Watermark(1, 1, 1))
    desk.hear(stream, final("it was", 0, 2))
    desk.hear(stream, EndOfTurn(utterance=0, end_sample=2 * SECOND, **COUNTS))
    desk.recorder.service_lost([stream], desk.now_ns)
    ((head, pcm),) = desk.saved
    assert (head.session_id, head.dialect) == ("s-1", "openai")
    assert head.hello == Hello(language="en", prompt="Earwire", client="me")
    assert (head.saved_ns, head.saved_wall_ns) == (desk.now_ns, desk.now_ns + 5)
    assert (head.first_sample, head.num_samples, head.overwritten_samples) == (0, 3 * SECOND, 0)
    assert head.client_samples == head.decoded_samples == 3 * SECOND
    assert head.server == SERVER
    assert head.vad == VadOptions()
    assert head.controls == (
        RecordedControl(at_sample=2 * SECOND, finalize_id=4),
        RecordedControl(at_sample=3 * SECOND, vad=OPTIONS),
    )
    assert [event.type for event in head.events] == [MessageType.FINAL, MessageType.END_OF_TURN]
    assert pcm == stream.ring.read(0, 3 * SECOND)  # type: ignore[union-attr]


def first_value(pcm: bytes) -> int:
    return int.from_bytes(pcm[:2], "little")


def test_the_last_seconds_begin_with_a_whole_frame() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 40.01)
    desk.recorder.service_lost([stream], desk.now_ns)
    ((head, pcm),) = desk.saved
    assert head.first_sample % GRID_SAMPLES == 0
    assert WINDOW_SAMPLES <= head.num_samples < WINDOW_SAMPLES + GRID_SAMPLES
    assert head.first_sample + head.num_samples == stream.ring_samples
    assert first_value(pcm) == head.first_sample % 65_536
    assert head.overwritten_samples == 0


@pytest.mark.parametrize("is_final", [True, False])
def test_an_utterance_that_began_earlier_is_there_as_a_whole(is_final: bool) -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 45)
    desk.hear(stream, final("before", 0, 9))
    desk.hear(stream, partial(44, start_s=10, utterance=1))
    desk.hear(stream, began(2, 44))
    if is_final:
        desk.hear(stream, final("thank you " * 9, 10, 44, utterance=1))
    else:
        desk.hear(stream, partial(10.5, start_s=10, utterance=1))
    ((head, _),) = desk.saved
    assert head.first_sample == (10 * SECOND - LEAD_SAMPLES) // GRID_SAMPLES * GRID_SAMPLES


def test_what_is_overwritten_is_said() -> None:
    desk = Desk()
    stream = desk.open(ring_s=20.01)
    desk.feed(stream, 50)
    desk.recorder.service_lost([stream], desk.now_ns)
    ((head, pcm),) = desk.saved
    assert head.first_sample % GRID_SAMPLES == 0
    assert 0 <= head.first_sample - (50 - 20.01) * SECOND < GRID_SAMPLES
    assert (
        head.first_sample - head.overwritten_samples == 20 * SECOND // GRID_SAMPLES * GRID_SAMPLES
    )
    assert first_value(pcm) == head.first_sample % 65_536


def test_options_and_controls_of_audio_that_is_gone() -> None:
    desk = Desk()
    stream = desk.open(ring_s=20)
    desk.feed(stream, 5)
    desk.recorder.sent(stream, Configure(0, 1, 5 * SECOND, OPTIONS))
    desk.feed(stream, 40)
    desk.recorder.sent(stream, Finalize(0, 1, 9, 45 * SECOND))
    desk.feed(stream, 1)
    desk.recorder.sent(stream, Close(0, 1, 46 * SECOND, "client"))
    desk.recorder.service_lost([stream], desk.now_ns)
    ((head, _),) = desk.saved
    assert head.vad == OPTIONS
    assert head.controls == (
        RecordedControl(at_sample=45 * SECOND, finalize_id=9),
        RecordedControl(at_sample=46 * SECOND, close_reason="client"),
    )


# How many


def test_one_stream_is_recorded_once_in_a_while_for_each_reason() -> None:
    desk = Desk()
    stream = desk.open()
    desk.feed(stream, 10)
    for _ in range(3):
        desk.hear(stream, partial(1))
    desk.hear(stream, final("no " * 9, 0, 1))
    assert desk.reasons == [Reason.LAG, Reason.REPEATED_WORDS]
    desk.pass_s(30)
    desk.hear(stream, partial(1))
    assert desk.reasons[2:] == [Reason.LAG]
    assert desk.num_skipped == 0


def test_a_slow_server_does_not_use_up_what_is_kept_for_the_rare() -> None:
    desk = Desk()
    for _ in range(8):
        stream = desk.open()
        desk.feed(stream, 10)
        desk.now_ns -= 10 * NS_PER_S
        desk.recorder.heard(stream, partial(1), desk.now_ns + 10 * NS_PER_S)
    assert desk.reasons == [Reason.LAG] * MAX_LAGS_A_MINUTE
    assert desk.num_skipped == 8 - MAX_LAGS_A_MINUTE
    for _ in range(8):
        desk.hear(desk.open(), final("no " * 9, 0, 1))
    assert len(desk.saved) == MAX_A_MINUTE
    desk.pass_s(71)
    desk.hear(desk.open(), final("no " * 9, 0, 1))
    assert len(desk.saved) == MAX_A_MINUTE + 1
    assert desk.metrics.flight_records.labels("repeated_words").value == 5


def test_a_busy_disk_is_counted_and_uses_up_nothing() -> None:
    desk = Desk(is_busy=True)
    for _ in range(MAX_A_MINUTE):
        desk.hear(desk.open(), final("no " * 9, 0, 1))
    assert desk.num_skipped == MAX_A_MINUTE
    desk.is_busy = False
    desk.hear(desk.open(), final("no " * 9, 0, 1))
    assert len(desk.saved) == 1


def test_a_stream_without_audio_is_not_known() -> None:
    desk = Desk()
    stream = Stream("s-2", Hello(), Owner(), None)
    desk.hear(stream, final("no " * 9, 0, 1))
    desk.recorder.sent(stream, Finalize(0, 0, 1, 0))
    desk.recorder.service_lost([stream], desk.now_ns)
    desk.recorder.ended(
        stream,
        Closed(reason="", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=9),
        desk.now_ns,
    )
    assert desk.saved == []
