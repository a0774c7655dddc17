"""Closeness and decisions: what is close, what is not, and the sentence that says by how much."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.builder.accuracy import (
    LIMITS,
    closeness,
    decisions,
    merged,
    problems,
    reference_steps,
)
from gpu_service.builder.manifest import Bucket, BucketResult, DecisionResult
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.tdt_weights import DecoderWeights
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare

from .fakes import off_by

Array = NDArray[np.float32]
GOLDEN = np.load("tests/fixtures/parakeet/signal_7_77s.npz")


@pytest.fixture(scope="module")
def decoder() -> DecoderWeights:
    return prepare(load_checkpoint("tests/fixtures/parakeet/tiny"), 8).decoder


@pytest.fixture
def frames() -> Array:
    projected: Array = GOLDEN["projected"]
    return projected


def result(relative_error: float, cosine: float) -> BucketResult:
    return BucketResult(bucket=Bucket(4, 8), relative_error=relative_error, cosine=cosine, ms=1.0)


def test_closeness_is_of_all_frames_and_of_the_worst_one(frames: Array) -> None:
    assert closeness([frames], [frames]).relative_error == 0.0
    assert closeness([frames], [frames]).cosine == pytest.approx(1.0)
    close = closeness([off_by(0.01)(frames), frames], [frames, frames])
    assert close.relative_error == pytest.approx(0.01 / 2**0.5, rel=1e-3)
    turned = frames.copy()
    turned[17] = -turned[17]
    assert closeness([turned], [frames]).cosine == pytest.approx(-1.0)


def test_what_is_not_finite_is_far_away(frames: Array) -> None:
    broken = frames.copy()
    broken[3, 5] = np.nan
    close = closeness([broken], [frames])
    assert (close.relative_error, close.cosine) == (float("inf"), -1.0)


def test_steps_are_those_of_the_decoder(decoder: DecoderWeights, frames: Array) -> None:
    steps = reference_steps(decoder, frames)
    oracle = TdtDecoder(decoder)
    tokens, _ = oracle.decode(frames, oracle.start())
    num_labels = decoder.blank_id + 1
    labels = [int(step.logits[:num_labels].argmax()) for step in steps]
    assert [label for label in labels if label != decoder.blank_id] == [t.id for t in tokens]
    assert [s.frame for s in steps] == sorted(s.frame for s in steps)


def test_the_same_frames_decide_the_same(decoder: DecoderWeights, frames: Array) -> None:
    steps = reference_steps(decoder, frames)
    assert decisions(decoder, steps, frames) == DecisionResult(
        count=len(steps), flips=0, worst_margin=0.0
    )


def test_a_little_noise_flips_only_what_was_close(decoder: DecoderWeights, frames: Array) -> None:
    steps = reference_steps(decoder, frames)
    little = decisions(decoder, steps, off_by(3e-3)(frames))
    much = decisions(decoder, steps, off_by(1.0)(frames))
    assert little.flips < 0.03 * little.count
    assert little.worst_margin < LIMITS["fp16"].flip_margin
    assert much.flips > 0.2 * much.count
    assert much.worst_margin > LIMITS["fp16"].flip_margin


def test_frames_that_are_not_finite_flip(decoder: DecoderWeights, frames: Array) -> None:
    steps = reference_steps(decoder, frames)
    found = decisions(decoder, steps, np.full_like(frames, np.nan))
    assert found.flips == found.count


def test_results_of_several_utterances_are_merged() -> None:
    found = merged(
        [
            DecisionResult(count=10, flips=1, worst_margin=0.1),
            DecisionResult(count=5, flips=2, worst_margin=0.3),
        ]
    )
    assert found == DecisionResult(count=15, flips=3, worst_margin=0.3)
    assert merged([]).count == 0


def test_problems_say_by_how_much() -> None:
    fine = DecisionResult(count=100, flips=1, worst_margin=0.05)
    assert problems(LIMITS["fp16"], [result(9e-3, 0.9999)], fine) == []
    assert problems(LIMITS["fp16"], [result(0.35, 0.83)], fine) == [
        "4 x 8 frames: relative error 3.50e-01, at most 1e-02 allowed",
        "4 x 8 frames: cosine 0.83000 in the worst frame, at least 0.999 wanted",
    ]
    assert problems(LIMITS["fp16"], [], DecisionResult(count=100, flips=9, worst_margin=1.5)) == [
        "9 of 100 decoder decisions differ, at most 5.0% allowed",
        "a decision differs that was clear by 1.50 deviations, at most 0.1 allowed",
    ]
    assert problems(LIMITS["fp32"], [result(float("nan"), float("nan"))], fine)[:2]
