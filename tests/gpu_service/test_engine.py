"""Engine: what it gives the models is what the rings hold, in place or around their end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.engine import MAX_FRAMES_A_TURN, Engine, Seat
from gpu_service.recognizer import (
    DeviceRecognizer,
    Progress,
    SessionOptions,
    StepInput,
    no_progress,
)
from gpu_service.scheduler import Assignment
from gpu_service.stream import Stream
from gpu_service.utterance import Job, Utterance
from gpu_service.vad import Vad
from gpu_service.words import Hypothesis
from protocol.ring import Ring

from .device_recognizer import WaitingRecognizer
from .speech import two_cities

RING_SAMPLES = 20_000  # no whole number of frames


class Blocking:
    """The same without begin() and finish(): an engine on the CPU."""

    def __init__(self) -> None:
        self.inner = WaitingRecognizer()
        self.model_id, self.languages = "here", ()
        self.max_utterance_samples, self.cut_rule = 960_000, self.inner.cut_rule
        self.max_parallel, self.max_draft_batch = 1, 1
        self.open, self.close, self.warm_up = self.inner.open, self.inner.close, self.inner.warm_up

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        return self.inner.step(batch, progress)


@pytest.fixture
def recognizer() -> WaitingRecognizer:
    return WaitingRecognizer()


@pytest.fixture
def engine(recognizer: WaitingRecognizer) -> Engine:
    return Engine(recognizer, Vad(4), 4)


def seat_of(engine: Engine, samples: NDArray[np.int16], *, vad: bool = True) -> Seat:
    """A stream whose last RING_SAMPLES are in its ring, all of them announced."""
    ring = Ring(memoryview(bytearray(2 * RING_SAMPLES)))
    for start in range(0, len(samples), 1_000):
        ring.write(start, samples[start : start + 1_000].tobytes())
    stream = Stream(0, 1, VadOptions(enabled=vad))
    stream.announce(0, len(samples), 1)
    seat = engine.open(stream, ring, SessionOptions())
    assert seat is not None
    return seat


def test_what_has_begin_and_finish_works_aside(
    recognizer: WaitingRecognizer, engine: Engine
) -> None:
    assert isinstance(recognizer, DeviceRecognizer)
    assert engine.works_aside
    assert engine.max_step_ms == 40.0
    here = Engine(Blocking(), Vad(1), 1)
    assert not here.works_aside
    assert here.max_step_ms is None


def test_a_step_is_told_of_wherever_it_runs(engine: Engine) -> None:
    blocking = Blocking()
    for each, inner in ((engine, engine.recognizer), (Engine(blocking, Vad(4), 4), blocking.inner)):
        assert isinstance(inner, WaitingRecognizer)
        inner.num_parts = 3
        told: list[None] = []
        seat = seat_of(each, two_cities()[:9_000])
        running = each.begin([job(seat, "final", 1_000, 9_000)], partial(told.append, None))
        each.wait(running, partial(told.append, None))
        assert len(told) == 3


def test_samples_are_read_in_place_until_they_wrap_around(engine: Engine) -> None:
    samples = two_cities()[:50_000]
    seat = seat_of(engine, samples)
    for first, count in ((40_000, 500), (39_000, 1_000), (32_000, 8_000), (45_000, 0)):
        read = seat.read(first, count)
        assert np.array_equal(read, samples[first : first + count])
        assert np.shares_memory(read, seat.samples) or not count
    for first, count in ((39_990, 11), (32_000, 18_000)):
        read = seat.read(first, count)
        assert np.array_equal(read, samples[first : first + count])
        assert not np.shares_memory(read, seat.samples)


def test_frames_are_heard_as_one_by_one(engine: Engine) -> None:
    """Of streams at different places, one of them without detection, one around its ring's end."""
    samples = two_cities()
    streams = [samples[:19_000], samples[20_000:35_000], samples[:9_000]]
    seats = [seat_of(engine, audio, vad=i != 2) for i, audio in enumerate(streams)]
    around = seat_of(engine, samples[: 30 * FRAME_SAMPLES + RING_SAMPLES - 100])
    around.stream.endpointer.next_frame = 35
    heard = engine.hear([*seats, around])
    assert [len(one) for one in heard] == [37, 29, 17, 33]
    assert heard[2] == [1.0] * 17
    frames = samples[35 * FRAME_SAMPLES : 68 * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    for audio, got in ((streams[0], heard[0]), (streams[1], heard[1]), (frames.ravel(), heard[3])):
        vad = Vad(1)
        whole = audio[: len(got) * FRAME_SAMPLES].reshape(-1, 1, FRAME_SAMPLES)
        expected = [
            float(vad.step(np.array([0]), frame.astype(np.float32) / np.float32(32768))[0])
            for frame in whole
        ]
        assert got == expected


def test_a_fast_sender_is_heard_a_bounded_number_of_frames_at_a_time(engine: Engine) -> None:
    seat = seat_of(engine, np.zeros(RING_SAMPLES, np.int16), vad=False)
    seat.stream.announce(0, 10_000_000, 2)
    assert len(engine.hear([seat])[0]) == MAX_FRAMES_A_TURN
    assert engine.hear([]) == []


def job(seat: Seat, kind: str, feed_from: int, feed_to: int) -> tuple[Seat, Assignment]:
    utterance = Utterance(0, 1_000, 1_000)
    return seat, Assignment(seat.stream, Job(kind, utterance, feed_from, feed_to))


def test_a_batch_is_begun_and_finished(recognizer: WaitingRecognizer, engine: Engine) -> None:
    samples = two_cities()[:15_000]
    seats = [seat_of(engine, samples) for _ in range(2)]
    running = engine.begin([job(seat, "final", 1_000, 9_000) for seat in seats])
    assert recognizer.running is not None
    assert np.shares_memory(recognizer.running[0].samples, seats[0].samples)
    engine.wait(running)
    hypotheses = engine.finish(running)
    assert [h.num_samples for h in hypotheses] == [8_000, 8_000]
    assert all(np.array_equal(audio, samples[1_000:9_000]) for audio in recognizer.finals)
    assert engine.step([job(seats[0], "draft", 1_000, 2_000)])[0].num_samples == 1_000


def test_arenas_are_told_to_what_reads_in_place_only(
    recognizer: WaitingRecognizer, engine: Engine
) -> None:
    arena = memoryview(bytearray(100))
    engine.add_arena(arena)
    assert recognizer.memory == [arena]
    engine.drop_arena(arena)
    assert recognizer.memory == []
    here = Engine(Blocking(), Vad(1), 1)
    here.add_arena(arena)
    here.drop_arena(arena)


def test_seats_are_given_again(recognizer: WaitingRecognizer, engine: Engine) -> None:
    samples = np.zeros(1_000, np.int16)
    seats = [seat_of(engine, samples) for _ in range(4)]
    assert engine.open(seats[0].stream, seats[0].ring, SessionOptions()) is None
    engine.close(seats[2])
    assert seat_of(engine, samples).vad_row == seats[2].vad_row
    engine.probe()
    assert len(recognizer.sessions) == 4
