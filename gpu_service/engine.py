"""Engine: everything that computes, behind two verbs. `hear` runs voice activity detection over
new frames of many streams, `step` runs the recognizer over a batch of jobs.

It owns the models, a VAD row and a recognizer session per stream, and reads audio in place from
the rings. It knows positions only as it is told them: stream.py decides, service.py calls, one
thread does.

Legend: B streams of this call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.ring import Ring

from .endpointer import FRAME_SAMPLES
from .recognizer import Recognizer, SessionOptions, StepInput, Want
from .scheduler import Assignment
from .stream import Stream
from .utterance import Job
from .vad import Vad
from .words import Hypothesis

MAX_FRAMES_A_TURN = 64  # of one stream, 2 s: a fast sender must not keep the others waiting
PROBE_SAMPLES = 8_000

_WANT = {"draft": Want.DRAFT, "candidate": Want.CANDIDATE, "final": Want.FINAL}
_TO_FLOAT = np.float32(1 / 32768)


@dataclass(slots=True)
class Seat:
    """What the engine keeps for one stream: its ring, its VAD row, its recognizer session."""

    stream: Stream
    ring: Ring
    vad_row: int
    session_options: SessionOptions
    handle: int


class Engine:
    """One VAD, one recognizer, and the seats of the streams that use them."""

    def __init__(self, recognizer: Recognizer, vad: Vad, max_streams: int) -> None:
        self.recognizer = recognizer
        self.vad = vad
        self._free_rows = list(range(max_streams - 1, -1, -1))

    def open(self, stream: Stream, ring: Ring, options: SessionOptions) -> Seat | None:
        """A seat for a new stream; None when all are taken. Raises RecognizerError."""
        if not self._free_rows:
            return None
        handle = self.recognizer.open(options)
        row = self._free_rows.pop()
        self.vad.reset(row)
        return Seat(stream, ring, row, options, handle)

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
            [1.0] * count if not seat.stream.options.enabled else []
            for seat, count in zip(seats, counts, strict=True)
        ]
        audio = [
            _frames(seat, count) if seat.stream.options.enabled else None
            for seat, count in zip(seats, counts, strict=True)
        ]
        for index in range(max(counts, default=0)):
            rows = [i for i, a in enumerate(audio) if a is not None and index < len(a)]
            if not rows:
                break
            batch = np.stack([audio[i][index] for i in rows])  # type: ignore[index]
            vad_rows = np.array([seats[i].vad_row for i in rows])
            for i, probability in zip(rows, self.vad.step(vad_rows, batch), strict=True):
                heard[i].append(float(probability))
        return heard

    def step(self, work: Sequence[tuple[Seat, Assignment]]) -> list[Hypothesis]:
        """Run one batch of jobs, at most one a stream; a hypothesis for each, in order."""
        batch = [self._input(seat, assignment.job) for seat, assignment in work]
        hypotheses = self.recognizer.step(batch)
        assert all(hypothesis is not None for hypothesis in hypotheses)
        return [hypothesis for hypothesis in hypotheses if hypothesis is not None]

    def probe(self) -> None:
        """One real, small recognition step, so that readiness means what it says."""
        handle = self.recognizer.open(SessionOptions())
        silence = np.zeros(PROBE_SAMPLES, np.int16)
        self.recognizer.step([StepInput(handle, silence, Want.DRAFT)])
        self.recognizer.close(handle)

    def _input(self, seat: Seat, job: Job) -> StepInput:
        if job.restart:
            self.recognizer.close(seat.handle)
            seat.handle = self.recognizer.open(seat.session_options)
        samples = _int16(seat.ring, job.feed_from, job.feed_to - job.feed_from)
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


def _int16(ring: Ring, first_sample: int, num_samples: int) -> NDArray[np.int16]:
    """(n,) int16 copy of ring samples."""
    head, tail = ring.segments(first_sample, num_samples)
    return np.concatenate([np.frombuffer(head, np.int16), np.frombuffer(tail, np.int16)])


def _frames(seat: Seat, count: int) -> NDArray[np.float32]:
    """(count, FRAME_SAMPLES) float32 in [-1, 1): the stream's next frames."""
    first = seat.stream.endpointer.position_sample
    samples = _int16(seat.ring, first, count * FRAME_SAMPLES).astype(np.float32)
    samples *= _TO_FLOAT
    return samples.reshape(count, FRAME_SAMPLES)
