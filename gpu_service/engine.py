"""Engine: everything that computes, behind a few verbs. `hear` runs voice activity detection over
new frames of many streams; `begin`, `wait` and `finish` run the recognizer over a batch of jobs, on
a device between the first two.

It owns the models, a VAD row and a recognizer session per stream, and reads audio in place from
the rings. It knows positions only as it is told them: stream.py decides, service.py calls, one
thread does.

Legend: B streams of this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocol.ring import Ring

from .endpointer import FRAME_SAMPLES
from .recognizer import (
    DeviceRecognizer,
    Progress,
    Recognizer,
    SessionOptions,
    StepInput,
    Want,
    no_progress,
)
from .scheduler import Assignment, Scheduler
from .stream import Stream
from .utterance import Job
from .vad import Vad
from .words import Hypothesis

MAX_FRAMES_A_TURN = 64  # of one stream, 2 s: a fast sender must not keep the others waiting
PROBE_SAMPLES = 8_000

_WANT = {"draft": Want.DRAFT, "candidate": Want.CANDIDATE, "final": Want.FINAL}
_TO_FLOAT = np.float32(1 / 32768)


@dataclass(slots=True, eq=False)
class Seat:
    """What the engine keeps for one stream: its ring, its VAD row, its recognizer session."""

    stream: Stream
    ring: Ring
    vad_row: int
    session_options: SessionOptions
    handle: int
    owner: int = 0  # whose stream it is: the caller's number
    samples: NDArray[np.int16] = field(init=False)  # (R,) the whole ring, in place

    def __post_init__(self) -> None:
        self.samples = np.frombuffer(self.ring.view, np.int16)

    def read(self, first_sample: int, count: int) -> NDArray[np.int16]:
        """(count,) samples of the stream: where they lie, or a copy where they wrap around."""
        start = first_sample % len(self.samples)
        end = start + count
        if end <= len(self.samples):
            return self.samples[start:end]
        return np.concatenate([self.samples[start:], self.samples[: end - len(self.samples)]])


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that the recognizer works on, or has worked on already."""

    work: Sequence[tuple[Seat, Assignment]]
    step: Any  # of DeviceRecognizer.begin(), or the answers of Recognizer.step()


class Engine:
    """One VAD, one recognizer, and the seats of the streams that use them."""

    def __init__(self, recognizer: Recognizer, vad: Vad, max_streams: int) -> None:
        self.recognizer = recognizer
        self.vad = vad
        self._device = recognizer if isinstance(recognizer, DeviceRecognizer) else None
        self._free_rows = list(range(max_streams - 1, -1, -1))
        self._frames = np.empty((max_streams, FRAME_SAMPLES), np.int16)
        self._float_frames = np.empty((max_streams, FRAME_SAMPLES), np.float32)

    @property
    def works_aside(self) -> bool:
        """True where a batch that was begun is computed while the caller does something else."""
        return self._device is not None

    @property
    def max_step_ms(self) -> float | None:
        """How long a step had better take; None: as long as it takes."""
        return None if self._device is None else self._device.max_step_ms

    def new_scheduler(self, hop_samples: int) -> Scheduler:
        """One that knows what the recognizer can do at the same time."""
        max_step_ns = None if self.max_step_ms is None else self.max_step_ms * 1e6
        recognizer = self.recognizer
        return Scheduler(
            recognizer.max_parallel, recognizer.max_draft_batch, max_step_ns, hop_samples
        )

    def add_arena(self, arena: memoryview) -> None:
        """Rings of streams will lie there."""
        if self._device is not None:
            self._device.register(arena)

    def drop_arena(self, arena: memoryview) -> None:
        """All streams with a ring there are closed, and no batch runs."""
        if self._device is not None:
            self._device.unregister(arena)

    def open(
        self, stream: Stream, ring: Ring, options: SessionOptions, owner: int = 0
    ) -> Seat | None:
        """A seat for a new stream; None when all are taken. Raises RecognizerError."""
        if not self._free_rows:
            return None
        handle = self.recognizer.open(options)
        row = self._free_rows.pop()
        self.vad.reset(row)
        return Seat(stream, ring, row, options, handle, owner)

    def close(self, seat: Seat) -> None:
        """Give a seat back."""
        self.recognizer.close(seat.handle)
        self._free_rows.append(seat.vad_row)

    def hear(self, seats: Sequence[Seat]) -> list[list[float]]:
        """Speech probabilities of each stream's next frames, at most MAX_FRAMES_A_TURN each.

        Streams without detection (`vad` off) hear speech in every frame.
        """
        counts = [min(seat.stream.frames_to_hear(), MAX_FRAMES_A_TURN) for seat in seats]
        heard: list[list[float]] = [
            [] if seat.stream.options.enabled else [1.0] * count
            for seat, count in zip(seats, counts, strict=True)
        ]
        listening = [i for i, seat in enumerate(seats) if seat.stream.options.enabled]
        frame = 0
        while listening := [i for i in listening if counts[i] > frame]:
            probabilities = self._hear_frame([seats[i] for i in listening], frame)
            for i, probability in zip(listening, probabilities, strict=True):
                heard[i].append(probability)
            frame += 1
        return heard

    def step(self, work: Sequence[tuple[Seat, Assignment]]) -> list[Hypothesis]:
        """Run one batch of jobs, at most one a stream; a hypothesis for each, in order."""
        running = self.begin(work)
        self.wait(running)
        return self.finish(running)

    def begin(
        self, work: Sequence[tuple[Seat, Assignment]], progress: Progress = no_progress
    ) -> Running:
        """Begin a batch of jobs, at most one a stream, when none runs. Streams of a batch that is
        not finished are not in it. An engine that does not work aside does it all here.
        """
        batch = [self._input(seat, assignment.job) for seat, assignment in work]
        if self._device is not None:
            return Running(work, self._device.begin(batch))
        return Running(work, self.recognizer.step(batch, progress))

    def wait(self, running: Running, progress: Progress = no_progress) -> None:
        """Return when the batch runs no more: the next may begin. See DeviceRecognizer.wait."""
        if self._device is not None:
            self._device.wait(running.step, progress)

    def finish(self, running: Running) -> list[Hypothesis]:
        """A hypothesis for each job of a batch that was waited for, in order."""
        answers: list[Hypothesis | None] = (
            running.step if self._device is None else self._device.finish(running.step)
        )
        return [_certain(answer) for answer in answers]

    def probe(self) -> None:
        """One real, small recognition step, so that readiness means what it says."""
        handle = self.recognizer.open(SessionOptions())
        silence = np.zeros(PROBE_SAMPLES, np.int16)
        self.recognizer.step([StepInput(handle, silence, Want.DRAFT)])
        self.recognizer.close(handle)

    def _hear_frame(self, seats: Sequence[Seat], frame: int) -> list[float]:
        """(B,) probabilities of the frame so many behind each stream's next one."""
        frames, floats = self._frames[: len(seats)], self._float_frames[: len(seats)]
        pieces = [
            seat.read((seat.stream.endpointer.next_frame + frame) * FRAME_SAMPLES, FRAME_SAMPLES)
            for seat in seats
        ]
        np.concatenate(pieces, out=frames.reshape(-1))
        audio = np.multiply(frames, _TO_FLOAT, out=floats)
        rows = np.array([seat.vad_row for seat in seats])
        probabilities: list[float] = self.vad.step(rows, audio).tolist()
        return probabilities

    def _input(self, seat: Seat, job: Job) -> StepInput:
        if job.restart:
            self.recognizer.close(seat.handle)
            seat.handle = self.recognizer.open(seat.session_options)
        samples = seat.read(job.feed_from, job.feed_to - job.feed_from)
        stable = seat.stream.transcript.stable_words if job.kind == "draft" else ()
        utterance = job.utterance
        return StepInput(
            seat.handle,
            samples,
            _WANT[job.kind],
            stable,
            utterance.start_sample - utterance.context_sample,
            job.right_samples,
            utterance.carry,
        )


def _certain(answer: Hypothesis | None) -> Hypothesis:
    """Every job wants an answer."""
    if answer is None:
        raise AssertionError("a job without an answer")
    return answer
