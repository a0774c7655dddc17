"""Recognizer: the one interface of every speech model, and the data it takes.

A recognizer keeps the samples of the open utterance of each session (at most
`max_utterance_samples`) and answers a batch of steps. Windowed models (Whisper) hear the whole
utterance again for each hypothesis, incremental ones (Parakeet) hear the new samples only; the
service can not tell. It knows no socket, no ring, no clock and no voice activity: the service
feeds it exactly the samples of utterances.

The rule that keeps results reproducible: a FINAL is a function of the utterance's samples and the
session's options alone (and, where it goes on behind a cut, of the audio and the `carry` from
before it). Drafts, candidates, `stable_words` and the other sessions of a batch change nothing in
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import RecognizerError
from .speech_events import CutRule as CutRule
from .words import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from .words import Hypothesis as Hypothesis
from .words import Word as Word


class Want(Enum):
    """What a step should answer with."""

    NOTHING = "nothing"  # take the samples
    DRAFT = "draft"  # a cheap hypothesis of the open utterance
    CANDIDATE = "candidate"  # final quality; the utterance may go on
    FINAL = "final"  # final quality; the utterance ends here and its buffer is emptied


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session fixes when it opens."""

    language: str | None = None  # ISO 639-1; None: the model's only one, or detected
    prompt: str = ""  # text that would have come before, as context for spelling
    hotwords: tuple[str, ...] = ()  # phrases to prefer, where the model can
    word_times: bool = True  # finals carry aligned word times and confidences
    translate: bool = False  # into English, where the model can

    def spelled(self, language: str | None) -> str | None:
        """The language of the text, where `language` is spoken."""
        return "en" if self.translate else language


@dataclass(frozen=True, slots=True)
class StepInput:
    """One session's part of a batch."""

    handle: int  # of open()
    samples: NDArray[
        np.int16
    ]  # (n,) 16 kHz, new ones of the open utterance; read in this step only
    want: Want
    stable_words: tuple[str, ...] = ()  # shown already: a DRAFT goes on from them
    left_samples: int = 0  # the first so many samples of the utterance's buffer lie before it
    right_samples: int = 0  # FINAL at a cut: the last so many lie behind it
    carry: bytes = b""  # Hypothesis.carry of the final before the cut at which it begins


Progress: TypeAlias = Callable[[], None]


def no_progress() -> None:
    """Nobody wants to know."""


class Recognizer(Protocol):
    """An engine. One thread calls it; a call may take as long as the model needs."""

    @property
    def model_id(self) -> str:
        """What clients see and ask for: "tiny.en"."""
        ...

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes that open() accepts."""
        ...

    @property
    def max_utterance_samples(self) -> int:
        """The longest utterance that a session can hold, context included."""
        ...

    @property
    def cut_rule(self) -> CutRule:
        """Where utterances that are too long may be cut, and what it hears around a cut."""
        ...

    @property
    def max_parallel(self) -> int:
        """How many sessions of a batch it works on at the same time."""
        ...

    @property
    def max_draft_batch(self) -> int:
        """How many drafts it had better be given at once."""
        ...

    def open(self, options: SessionOptions) -> int:
        """Make a session and return its handle, which is never used again after close()."""
        ...

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        """Take new samples and answer in the order of `batch`, None where NOTHING was wanted.

        A handle occurs once in a batch. A FINAL (or CANDIDATE) without new samples since a
        CANDIDATE is that candidate's result, at once. A FINAL of an empty utterance is an empty
        hypothesis. Raises RecognizerError for an unknown handle or an utterance that would
        exceed `max_utterance_samples`.

        progress() is called between the parts of a step that may last seconds, from any thread.
        """
        ...

    def close(self, handle: int) -> None:
        """Forget a session. Raises RecognizerError for an unknown handle."""
        ...

    def warm_up(self) -> None:
        """Run every kind of step once, so that the first user does not pay for it."""
        ...


def check_length(num_samples: int, max_samples: int) -> None:
    """Raises RecognizerError for an utterance beyond the longest one, context included."""
    if num_samples > max_samples:
        raise RecognizerError(f"{num_samples} samples in one utterance, {max_samples} are allowed")


@runtime_checkable
class DeviceRecognizer(Recognizer, Protocol):
    """An engine on a device that computes while its caller does something else.

    step() is begin(), wait() and finish(). One step runs at a time: the next one may begin when the
    device has been waited for, and the one before it is finished while that is computed. Sessions
    may be opened and closed meanwhile; the answer for one that was closed means nothing.
    """

    @property
    def max_step_ms(self) -> float:
        """How long a step had better take: who waits for it hears of nothing else meanwhile."""
        ...

    def begin(self, batch: Sequence[StepInput]) -> Any:
        """Begin a step, with no session in it whose last step is not finished. The device may read
        the samples where they lie until it has been waited for.
        """
        ...

    def wait(self, running: Any, progress: Progress = no_progress) -> None:
        """Return when the device has done the step of begin().

        progress() is called between the parts of a step that has several and may last seconds.
        """
        ...

    def finish(self, running: Any) -> list[Hypothesis | None]:
        """What step() returns, for a step that was waited for."""
        ...

    def register(self, buffer: memoryview) -> None:
        """Samples will lie in this memory: the device may read them there."""
        ...

    def unregister(self, buffer: memoryview) -> None:
        """The memory of a register() is about to go."""
        ...
