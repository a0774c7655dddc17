"""How close an encoder's output is to the reference's, and whether that is close enough.

Two measures. Closeness of the frames: relative error over a bucket, and the cosine of its worst
frame, for one wrong frame drowns in a norm. And decisions of the decoder, teacher-forced: along the
reference's own path, would the other frames have led to the same token and duration? A flip where
the reference itself was of two minds is rounding; one against a clear margin is a wrong engine
(NVIDIA/TensorRT issue 4822 is one, of this very model, on one kind of GPU).

Pure: arrays in, numbers and sentences out. Shapes: N frames, J width, M decisions, V tokens, R
durations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.tdt import TdtDecoder
from ..decoding.tdt_weights import DecoderWeights
from ..gpu.trt_compat import TrtPrecision
from .manifest import BucketResult, DecisionResult

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine must keep to."""

    relative_error: float
    cosine: float
    flip_rate: float
    flip_margin: float  # in deviations of the reference's logits


LIMITS: Mapping[TrtPrecision, Limits] = {
    "fp32": Limits(1e-3, 0.99999, 0.005, 0.01),
    "fp16": Limits(1e-2, 0.999, 0.05, 0.1),
    "bf16": Limits(6e-2, 0.99, 0.20, 0.6),
}


@dataclass(frozen=True, slots=True)
class Closeness:
    """Of an encoder's frames to the reference's."""

    relative_error: float
    cosine: float  # of the worst frame


def closeness(found: Sequence[Array], expected: Sequence[Array]) -> Closeness:
    """Of (N, J) frames of some utterances. What is not finite is as far away as can be."""
    difference = size = 0.0
    cosine = 1.0
    for ours, truth in zip(found, expected, strict=True):
        if not np.isfinite(ours).all():
            return Closeness(float("inf"), -1.0)
        ours, truth = ours.astype(np.float64), truth.astype(np.float64)
        difference += float(((ours - truth) ** 2).sum())
        size += float((truth**2).sum())
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(truth, axis=1)
        cosines = (ours * truth).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
        cosine = min(cosine, float(cosines.min(initial=1.0)))
    return Closeness((difference / max(size, np.finfo(np.float64).tiny)) ** 0.5, cosine)


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the reference."""

    frame: int
    predicted: Array  # (J,) the prediction network's part
    logits: Array  # (V+1+R,)


class _Witness(TdtDecoder):
    """The host decoder, which also writes down what it looked at."""

    def __init__(self, weights: DecoderWeights) -> None:
        super().__init__(weights)
        self.steps: list[Step] = []

    def _step(self, row: Any, logits: Array) -> bool:
        self.steps.append(Step(row.frame, row.predicted.copy(), logits.copy()))
        return super()._step(row, logits)


def reference_steps(weights: DecoderWeights, frames: Array) -> list[Step]:
    """Every decision that greedy search takes on (N, J) frames."""
    witness = _Witness(weights)
    witness.decode(frames, witness.start())
    return witness.steps


def decisions(weights: DecoderWeights, steps: Sequence[Step], frames: Array) -> DecisionResult:
    """How the same decisions fall on another encoder's (N, J) frames."""
    flips, worst = 0, 0.0
    num_labels = weights.blank_id + 1
    for step in steps:
        joined = np.maximum(frames[step.frame] + step.predicted, np.float32(0.0))
        logits = weights.head_weight @ joined + weights.head_bias
        margins = [
            _margin(truth, ours)
            for truth, ours in (
                (step.logits[:num_labels], logits[:num_labels]),
                (step.logits[num_labels:], logits[num_labels:]),
            )
        ]
        flipped = [margin for margin in margins if margin is not None]
        flips += bool(flipped)
        worst = max(worst, *flipped) if flipped else worst
    return DecisionResult(count=len(steps), flips=flips, worst_margin=worst)


def _margin(truth: Array, ours: Array) -> float | None:
    """None where both choose the same; else how clear the truth was, in deviations."""
    best = int(truth.argmax())
    if int(ours.argmax()) == best and np.isfinite(ours).all():
        return None
    others = np.delete(truth, best)
    if others.size == 0:
        return None
    return float((truth[best] - others.max()) / max(float(truth.std()), 1e-6))


def merged(results: Sequence[DecisionResult]) -> DecisionResult:
    """Of several utterances together."""
    return DecisionResult(
        count=sum(result.count for result in results),
        flips=sum(result.flips for result in results),
        worst_margin=max((result.worst_margin for result in results), default=0.0),
    )


def problems(limits: Limits, results: Sequence[BucketResult], decided: DecisionResult) -> list[str]:
    """What is not close enough and by how much; empty where an engine may be used."""
    found = []
    for result in results:
        bucket = f"{result.bucket.batch} x {result.bucket.frames} frames"
        if not result.relative_error <= limits.relative_error:
            found.append(
                f"{bucket}: relative error {result.relative_error:.2e}, "
                f"at most {limits.relative_error:.0e} allowed"
            )
        if not result.cosine >= limits.cosine:
            found.append(
                f"{bucket}: cosine {result.cosine:.5f} in the worst frame, "
                f"at least {limits.cosine} wanted"
            )
    if decided.flips > limits.flip_rate * decided.count:
        found.append(
            f"{decided.flips} of {decided.count} decoder decisions differ, "
            f"at most {limits.flip_rate:.1%} allowed"
        )
    if decided.worst_margin > limits.flip_margin:
        found.append(
            f"a decision differs that was clear by {decided.worst_margin:.2f} deviations, "
            f"at most {limits.flip_margin} allowed"
        )
    return found
