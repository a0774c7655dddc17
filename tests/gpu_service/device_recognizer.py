"""A recognizer that works aside: it reads what it was given in wait(), and holds its caller to the
contract. It hears one word in every 100 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_service.recognizer import Progress, SessionOptions, StepInput, Want, no_progress
from gpu_service.speech_events import CutRule
from gpu_service.words import Hypothesis, Word

WORD_SAMPLES = 1_600


@dataclass
class Session:
    pieces: list[NDArray[np.int16]] = field(default_factory=list)
    left_samples: int = 0


@dataclass
class WaitingRecognizer:
    """See DeviceRecognizer."""

    model_id: str = "aside"
    languages: tuple[str, ...] = ()
    max_utterance_samples: int = 60 * 16_000
    cut_rule: CutRule = field(default_factory=CutRule)
    max_parallel: int = 4
    max_draft_batch: int = 8
    max_step_ms: float = 40.0
    sessions: dict[int, Session] = field(default_factory=dict)
    running: list[StepInput] | None = None
    unfinished: dict[int, list[StepInput]] = field(default_factory=dict)  # by a step's identity
    answers: dict[int, list[Hypothesis | None]] = field(default_factory=dict)
    memory: list[memoryview] = field(default_factory=list)
    num_opened: int = 0
    num_steps: int = 0
    num_parts: int = 1  # of a step
    finals: list[NDArray[np.int16]] = field(default_factory=list)  # the audio of each

    def open(self, options: SessionOptions) -> int:
        self.num_opened += 1
        self.sessions[self.num_opened] = Session()
        return self.num_opened

    def close(self, handle: int) -> None:
        del self.sessions[handle]

    def register(self, buffer: memoryview) -> None:
        self.memory.append(buffer)

    def unregister(self, buffer: memoryview) -> None:
        assert self.running is None
        self.memory.remove(buffer)

    def warm_up(self) -> None:
        pass

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        running = self.begin(batch)
        self.wait(running, progress)
        return self.finish(running)

    def begin(self, batch: Sequence[StepInput]) -> list[StepInput]:
        assert self.running is None
        taken = {item.handle for step in self.unfinished.values() for item in step}
        assert len(taken.union(item.handle for item in batch)) == len(taken) + len(batch)
        self.running = list(batch)
        self.unfinished[id(self.running)] = self.running
        return self.running

    def wait(self, running: list[StepInput], progress: Progress = no_progress) -> None:
        assert running is self.running
        for _ in range(self.num_parts):
            progress()
        self.running = None
        self.answers[id(running)] = [self._answer(item) for item in running]

    def finish(self, running: list[StepInput]) -> list[Hypothesis | None]:
        del self.unfinished[id(running)]
        self.num_steps += 1
        return self.answers.pop(id(running))

    def _answer(self, item: StepInput) -> Hypothesis | None:
        session = self.sessions.get(item.handle, Session())  # closed meanwhile: never mind
        if not session.pieces:
            session.left_samples = item.left_samples
        session.pieces.append(item.samples.copy())
        audio = np.concatenate(session.pieces)[session.left_samples :]
        audio = audio[: len(audio) - item.right_samples]
        is_final = item.want is not Want.DRAFT
        if item.want is Want.FINAL:
            session.pieces.clear()
            self.finals.append(audio)
        words = tuple(
            Word(f"w{start}", start, start + WORD_SAMPLES, 0.9)
            for start in range(0, len(audio), WORD_SAMPLES)
        )
        text = " ".join(word.text for word in words)
        return Hypothesis(words, text, len(audio), is_final, open_words=0 if is_final else 1)
