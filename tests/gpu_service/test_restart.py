"""A service that dies and goes on from a checkpoint: the finals that it would have given, token for
token, with the real engine behind it. Whatever moment it dies at.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gpu_service.checkpoint import restore_checkpoint, take_checkpoint
from gpu_service.cpu.parakeet import ParakeetRecognizer
from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.engine import Engine
from gpu_service.recognizer import SessionOptions
from gpu_service.scheduler import Assignment
from gpu_service.stream import Stream
from gpu_service.vad import Vad
from protocol import service_messages as messages
from protocol.client_messages import Stages
from protocol.ring import Ring
from protocol.service_messages import Checkpoint, Final

from .speech import two_cities

TINY = Path(__file__).parents[1] / "fixtures" / "parakeet" / "tiny"
SAMPLES = two_cities()[: 14 * 16_000]
Said = tuple[int, int, int, tuple[tuple[int, int, int], ...]]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(ParakeetRecognizer(str(TINY)), Vad(2), 2)


class Service:
    """One stream on the real engine, as service.py drives it, one VAD frame at a time."""

    def __init__(self, engine: Engine, options: VadOptions) -> None:
        self.engine = engine
        self.stream = Stream(
            0, 1, options, hop_samples=5_120, cut_rule=engine.recognizer.cut_rule, tokens=True
        )
        ring = Ring(memoryview(bytearray(SAMPLES.astype("<i2").tobytes())))
        seat = engine.open(self.stream, ring, SessionOptions())
        assert seat is not None
        self.seat = seat
        self.finals: list[Final] = []

    def advance(self, until_sample: int) -> None:
        """Hear and decode what is there up to a sample."""
        first = self.stream.announced_sample
        self.stream.announce(first, until_sample - first, until_sample)
        while self._turn():
            pass

    def finish(self) -> None:
        self.stream.control(messages.Close(0, 1, len(SAMPLES)))
        self.advance(len(SAMPLES))
        assert self.stream.closed
        self.engine.close(self.seat)

    def checkpoint(self) -> Checkpoint | None:
        if not self.stream.can_checkpoint:
            return None
        return take_checkpoint(self.stream, self.engine.vad.row_state(self.seat.vad_row))

    def restore(self, checkpoint: Checkpoint) -> None:
        vad_state = restore_checkpoint(self.stream, checkpoint.state)
        self.engine.vad.restore_row(self.seat.vad_row, vad_state)
        assert self.stream.announced_sample == checkpoint.sample

    def _turn(self) -> bool:
        stream = self.stream
        position = stream.endpointer.position_sample
        out = stream.hear(self.engine.hear([self.seat])[0])
        while stream.has_due_control:
            out += stream.run_controls()
        out += stream.settle()
        job = stream.next_job(0)
        if job is not None:
            (hypothesis,) = self.engine.step([(self.seat, Assignment(stream, job))])
            out += stream.job_done(job, hypothesis, Stages())
        self.finals += [message for message in out if isinstance(message, Final)]
        return job is not None or stream.endpointer.position_sample > position

    def said(self) -> list[Said]:
        return [
            (f.utterance, f.start_sample, f.end_sample,
             tuple((t.id, t.frame, t.duration) for t in f.tokens))
            for f in self.finals
        ]  # fmt: skip


def lives(
    engine: Engine, options: VadOptions, every: int
) -> Iterator[tuple[list[Said], list[Said]]]:
    """What was said behind each checkpoint, by the service that took it and by another one."""
    first = Service(engine, options)
    taken: list[tuple[int, Checkpoint]] = []
    for number, until in enumerate(range(FRAME_SAMPLES, len(SAMPLES), FRAME_SAMPLES)):
        first.advance(until)
        checkpoint = first.checkpoint() if number % every == 0 else None
        if checkpoint is not None:
            taken.append((len(first.finals), checkpoint))
    first.finish()
    assert len(taken) > 400 // every
    for num_finals, checkpoint in taken:
        second = Service(engine, options)
        second.restore(checkpoint)
        second.finish()
        yield first.said()[num_finals:], second.said()


CASES = [
    pytest.param(VadOptions(), id="vad"),
    pytest.param(VadOptions(max_utterance_ms=2_000), id="vad, cut"),
    pytest.param(VadOptions(enabled=False, max_utterance_ms=3_000), id="no vad, cut"),
]


@pytest.mark.parametrize("options", CASES)
def test_it_goes_on_as_if_nothing_had_happened(engine: Engine, options: VadOptions) -> None:
    for expected, said in lives(engine, options, every=29):
        assert said == expected


@pytest.mark.slow
@pytest.mark.parametrize("options", CASES)
def test_at_every_frame(engine: Engine, options: VadOptions) -> None:
    for expected, said in lives(engine, options, every=1):
        assert said == expected


def test_cut_speech_goes_on_behind_the_cut(engine: Engine) -> None:
    """Without it the cases above would test less than they say."""
    service = Service(engine, VadOptions(enabled=False, max_utterance_ms=3_000))
    service.advance(len(SAMPLES))
    assert service.stream.open_utterance is not None
    assert service.stream.open_utterance.goes_on
    assert service.stream.open_utterance.carry
    service.finish()
    spans = [(final.start_sample, final.end_sample) for final in service.finals]
    assert all(end == start for (_, end), (start, _) in pairwise(spans))
    assert all((end - start) % 1280 == 0 for start, end in spans[:-1])
