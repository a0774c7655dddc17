"""The accuracy gate of Whisper: an engine's states and decisions against the oracle's.

Called after a build, for each encoder that was built, and by a service that finds its engine folder
on another GPU or driver than it was made on. What is close enough is accuracy.py's to say. Knows an
engine only as a WhisperBackend, which tests fake. Shapes: B windows, N positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..gpu.encoder_layers import Bucket
from .accuracy import Limits, closeness, merged, problems
from .gate import Done
from .manifest import BucketResult, Candidate, DecisionResult, EncoderKind
from .whisper_reference import WhisperUtterance

Samples = NDArray[np.int16]
MAX_TIMED_RUNS = 10


class WhisperBackend(Protocol):
    """A whole engine on a device, with audio that is given to it."""

    name: EncoderKind
    batches: tuple[int, ...]

    def encode(self, batch: int, utterances: Sequence[Samples]) -> NDArray[np.float32]:
        """As many utterances as the batch has -> (B, N, D). Raises DeviceError."""
        ...

    def decide(self, samples: Samples, prompts: Sequence[tuple[int, ...]]) -> list[int]:
        """The token behind each prompt, the end included, by the rules of a first one without
        times. Raises DeviceError.
        """
        ...

    def time_ms(self, batch: int, utterances: Sequence[Samples], num_runs: int) -> float:
        """The encoder's median time on the device. Raises DeviceError."""
        ...

    def is_graph(self, batch: int) -> bool:
        """Whether the batch is encoded by one CUDA graph."""
        ...


def examine_whisper(
    backend: WhisperBackend,
    reference: Sequence[WhisperUtterance],
    limits: Limits,
    done: Done = lambda *_: None,
) -> Candidate:
    """Compare and time every batch. `problem` of the answer says what is too far away."""
    results = []
    for number, batch in enumerate(backend.batches):
        results.append(_examine_batch(backend, batch, reference))
        done(number + 1, len(backend.batches) + 1)
    decided = merged([_decisions(backend, utterance) for utterance in reference])
    done(len(backend.batches) + 1, len(backend.batches) + 1)
    return Candidate(
        encoder=backend.name,
        results=tuple(results),
        decisions=decided,
        problem="; ".join(problems(limits, results, decided)),
    )


def _examine_batch(
    backend: WhisperBackend, batch: int, reference: Sequence[WhisperUtterance]
) -> BucketResult:
    rows = [reference[row % len(reference)] for row in range(batch)]
    utterances = [row.samples for row in rows]
    close = closeness(list(backend.encode(batch, utterances)), [row.states for row in rows])
    return BucketResult(
        bucket=Bucket(batch, len(reference[0].states)),
        relative_error=close.relative_error,
        cosine=close.cosine,
        ms=backend.time_ms(batch, utterances, MAX_TIMED_RUNS),
        is_graph=backend.is_graph(batch),
    )


def _decisions(backend: WhisperBackend, utterance: WhisperUtterance) -> DecisionResult:
    """How the oracle's decisions fall on the engine."""
    found = backend.decide(utterance.samples, utterance.prompts())
    flipped = [
        margin
        for ours, truth, margin in zip(found, utterance.chosen, utterance.margins, strict=True)
        if ours != truth
    ]
    return DecisionResult(
        count=len(found), flips=len(flipped), worst_margin=max(flipped, default=0.0)
    )
