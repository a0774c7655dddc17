"""Talkers: sessions of a recognizer that speak without end, one utterance after the other.

Their audio lies in one arena that the recognizer may read in place, as a gateway's does. Each hop
is a draft, the last one of an utterance its final; lengths and places are random, the same for the
same seed. Knows the Recognizer's interface and no engine.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.recognizer import DeviceRecognizer, SessionOptions, StepInput, Want
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Samples, speech

ARENA_ROWS = 8  # of the recording, each scaled in its own way


class Arena:
    """Audio that any utterance is a piece of."""

    def __init__(self, base: Samples) -> None:
        audio = np.concatenate([speech(base, row, len(base)) for row in range(ARENA_ROWS)])
        self.buffer = memoryview(mmap.mmap(-1, audio.nbytes))
        self.samples: NDArray[np.int16] = np.frombuffer(self.buffer, np.int16)
        self.samples[:] = audio


@dataclass(frozen=True, slots=True)
class Speaking:
    """How talkers speak."""

    shortest_s: float = 2.0
    longest_s: float = 8.0  # so 5 s in the mean

    @property
    def longest_samples(self) -> int:
        """Of an utterance."""
        return round(self.longest_s * SAMPLE_RATE_HZ)


@dataclass(slots=True)
class _Talker:
    handle: int
    start: int = 0  # of the utterance, in the arena
    length: int = 0
    place: int = 0  # samples given so far


@dataclass(slots=True)
class Talkers:
    """Sessions, opened as they are needed. One hop size for all."""

    recognizer: DeviceRecognizer
    arena: Arena
    hop_samples: int
    speaking: Speaking
    seed: int = 0
    num_finals: int = 0
    num_final_tokens: int = 0
    _running: deque[tuple[list[StepInput], Any]] = field(default_factory=deque)
    _talkers: list[_Talker] = field(default_factory=list)
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def require(self, count: int) -> None:
        """Open sessions up to `count`, each somewhere in its first utterance, with a draft of it.

        So a run that follows begins in the steady state.
        """
        new = []
        while len(self._talkers) < count:
            talker = _Talker(self.recognizer.open(SessionOptions()))
            self._begin(talker)
            self._talkers.append(talker)
            new.append(talker)
        inputs = []
        for talker in new:
            hops = int(self._random.uniform() * talker.length / self.hop_samples)
            inputs.append(self._next(talker, max(1, hops) * self.hop_samples, Want.DRAFT))
        for group in self._groups(inputs):
            running = self.recognizer.begin(group)
            self.recognizer.wait(running)
            self.recognizer.finish(running)

    def begin(self, due: Sequence[int]) -> int:
        """See gpu_schedule.Server: a hop of as many talkers as one step may take."""
        inputs: list[StepInput] = []
        num_finals = 0
        for index in due[: self.recognizer.max_draft_batch]:
            talker = self._talkers[index]
            is_last = talker.place + self.hop_samples >= talker.length
            if is_last and num_finals == self.recognizer.max_parallel:
                break
            num_finals += is_last
            want = Want.FINAL if is_last else Want.DRAFT
            inputs.append(self._next(talker, self.hop_samples, want))
            if is_last:
                self._begin(talker)
        self._running.append((inputs, self.recognizer.begin(inputs)))
        return len(inputs)

    def wait(self) -> None:
        """See gpu_schedule.Server."""
        self.recognizer.wait(self._running[-1][1])

    def finish(self) -> None:
        """See gpu_schedule.Server."""
        inputs, running = self._running.popleft()
        for item, answer in zip(inputs, self.recognizer.finish(running), strict=True):
            if item.want is Want.FINAL and answer is not None:
                self.num_finals += 1
                self.num_final_tokens += len(answer.tokens)

    def close(self) -> None:
        """Close all sessions."""
        for talker in self._talkers:
            self.recognizer.close(talker.handle)
        self._talkers.clear()

    def _begin(self, talker: _Talker) -> None:
        """The talker's next utterance."""
        longest = self.speaking.longest_samples
        talker.start = int(self._random.integers(0, len(self.arena.samples) - longest))
        seconds = self._random.uniform(self.speaking.shortest_s, self.speaking.longest_s)
        talker.length, talker.place = round(seconds * SAMPLE_RATE_HZ), 0

    def _next(self, talker: _Talker, num_samples: int, want: Want) -> StepInput:
        start = talker.start + talker.place
        stop = talker.start + min(talker.place + num_samples, talker.length)
        talker.place += num_samples
        return StepInput(talker.handle, self.arena.samples[start:stop], want)

    def _groups(self, inputs: Sequence[StepInput]) -> list[Sequence[StepInput]]:
        size = self.recognizer.max_draft_batch
        return [inputs[start : start + size] for start in range(0, len(inputs), size)]
