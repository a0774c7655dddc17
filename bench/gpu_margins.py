"""Where two decodings part, and how clear the oracle's choice was there.

The margin of a choice is the oracle's best logit less its second best; of a decision, the smaller
one of its two choices, label and duration. A flip at a small margin is rounding, one at a large
margin is a wrong kernel. Free running, everything after the first flip may differ; so there is also
the count of flips along the oracle's own path, each decision forced to be its own.

Pure: weights and frames in. Shapes: N frames, J width, V tokens, R durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.builder.accuracy import Step, reference_steps
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.tdt_weights import DecoderWeights
from gpu_service.decoding.tokens import Token
from gpu_service.gpu.tdt_results import Decoded

Array = NDArray[np.float32]
Said = tuple[int, int, int]  # id, frame, duration


def said(tokens: Sequence[Token]) -> list[Said]:
    """What can be compared exactly."""
    return [(token.id, token.frame, token.duration) for token in tokens]


def said_by_device(row: Decoded) -> list[Said]:
    """The same of the device's answer."""
    columns = row.ids.tolist(), row.frames.tolist(), row.durations.tolist()
    return list(zip(*columns, strict=True))


def first_difference(ours: Sequence[Said], truth: Sequence[Said]) -> int | None:
    """The first place where they differ; None where they are equal."""
    for index, (one, other) in enumerate(zip(ours, truth, strict=False)):
        if one != other:
            return index
    return None if len(ours) == len(truth) else min(len(ours), len(truth))


def num_differing(ours: Sequence[Said], truth: Sequence[Said]) -> int:
    """Tokens of either that the other does not have."""
    return len(set(ours) ^ set(truth))


def margin_at(weights: DecoderWeights, frames: Array, truth: Sequence[Said], index: int) -> float:
    """The smallest margin of the oracle from behind token `index` - 1 up to token `index`.

    So it is that of the blanks between them too, any of which may be what fell otherwise. 0 where
    the oracle had nothing left to decide: there, a difference is no matter of margins.
    """
    margins = []
    num_tokens = 0
    for step in reference_steps(weights, frames):
        if num_tokens == index:
            margins.append(step_margin(step.logits, weights))
        num_tokens += int(step.logits[: weights.blank_id + 1].argmax()) != weights.blank_id
    return min(margins, default=0.0)


def step_margin(logits: Array, weights: DecoderWeights) -> float:
    """Of one decision, (V+1+R,) logits."""
    return min(_margin(part) for part in _parts(logits, weights))


@dataclass(frozen=True, slots=True)
class Flips:
    """Decisions along the oracle's path that fell otherwise."""

    num_decisions: int
    margins: list[float]  # of the oracle, at each flip

    @property
    def count(self) -> int:
        """Of flips."""
        return len(self.margins)

    def __add__(self, other: Flips) -> Flips:
        return Flips(self.num_decisions + other.num_decisions, self.margins + other.margins)


NO_FLIPS = Flips(0, [])


class _Forced(TdtDecoder):
    """The host decoder on a path that is given; what it would have chosen is written down."""

    def __init__(self, weights: DecoderWeights, steps: Sequence[Step]) -> None:
        super().__init__(weights)
        self.logits: list[Array] = []
        self._steps = iter(steps)

    def _step(self, row: Any, logits: Array) -> bool:
        self.logits.append(logits)
        return super()._step(row, next(self._steps).logits)


def flips(oracle: DecoderWeights, exact: Array, rounded: DecoderWeights, frames: Array) -> Flips:
    """How the oracle's decisions on `exact` (N, J) fall with other weights on other frames."""
    steps = reference_steps(oracle, exact)
    forced = _Forced(rounded, steps)
    forced.decode(frames, forced.start())
    margins = [
        _flip_margin(step.logits, logits, oracle)
        for step, logits in zip(steps, forced.logits, strict=True)
    ]
    return Flips(len(steps), [margin for margin in margins if margin is not None])


def _flip_margin(truth: Array, ours: Array, weights: DecoderWeights) -> float | None:
    """None where both choose the same."""
    pairs = zip(_parts(truth, weights), _parts(ours, weights), strict=True)
    margins = [_margin(one) for one, other in pairs if one.argmax() != other.argmax()]
    return max(margins, default=None)


def _parts(logits: Array, weights: DecoderWeights) -> tuple[Array, Array]:
    """Of labels and of durations."""
    return logits[: weights.blank_id + 1], logits[weights.blank_id + 1 :]


def _margin(logits: Array) -> float:
    if len(logits) < 2:
        return float("inf")
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)
