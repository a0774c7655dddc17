"""The GPU recognizer on the tiny checkpoint, and the CPU's as its oracle, each made once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_service.cpu.parakeet import ParakeetRecognizer, ParakeetSettings
from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.parakeet import GpuParakeetRecognizer
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.recognizer import Recognizer, SessionOptions, StepInput, Want
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare
from gpu_service.words import Hypothesis
from tests.gpu_service.cpu.test_parakeet import NOTHING, TINY, Samples, listed

UTTERANCE_SAMPLES = 8 * 16_000
SMALL: dict[str, Any] = {
    "max_utterance_samples": UTTERANCE_SAMPLES, "precision": "fp32", "max_streams": 8,
    "hop_ms": 320, "max_finals": 8, "max_drafts": 8, "draft_rows": 192, "staging_samples": 1 << 15,
}  # fmt: skip

_MADE: dict[tuple[object, ...], GpuParakeetRecognizer] = {}


def gpu_recognizer(device: Device, gemms: Gemms, **changes: object) -> GpuParakeetRecognizer:
    """One for each kind of device and settings: loading takes longer than most tests."""
    key = (type(device), getattr(device, "_deferred", None), *sorted(changes.items()))
    if key not in _MADE:
        settings = GpuParakeetSettings(**{**SMALL, **changes})
        _MADE[key] = make_recognizer(device, gemms, settings)
    return _MADE[key]


def make_recognizer(
    device: Device, gemms: Gemms, settings: GpuParakeetSettings
) -> GpuParakeetRecognizer:
    """Of the tiny checkpoint."""
    weights = prepare(load_checkpoint(TINY), settings.most_frames)
    return GpuParakeetRecognizer("tiny", weights, device, gemms, settings)


@functools.cache
def cpu_recognizer(**changes: Any) -> ParakeetRecognizer:
    """The oracle, with the same settings."""
    settings = ParakeetSettings(max_utterance_samples=UTTERANCE_SAMPLES, num_threads=1, **changes)
    return ParakeetRecognizer(TINY, settings)


def one(recognizer: Recognizer, item: StepInput) -> Hypothesis:
    """The answer to a step of one session."""
    (answer,) = recognizer.step([item])
    assert answer is not None
    return answer


def final(
    recognizer: Recognizer,
    samples: Samples,
    cuts: Sequence[int] = (),
    want: Want = Want.NOTHING,
    options: SessionOptions | None = None,
    **context: Any,
) -> Hypothesis:
    """The final of one utterance, fed in pieces that end at `cuts`, each asking for `want`."""
    handle = recognizer.open(options or SessionOptions())
    for piece in np.split(samples, sorted(cuts)):
        recognizer.step([StepInput(handle, piece, want, **context)])
    answer = one(recognizer, StepInput(handle, NOTHING, Want.FINAL, **context))
    recognizer.close(handle)
    return answer


def drafts(recognizer: Recognizer, samples: Samples, hop: int, **context: Any) -> list[Hypothesis]:
    """A draft every `hop` samples."""
    handle = recognizer.open(SessionOptions())
    shown = [
        one(recognizer, StepInput(handle, samples[at : at + hop], Want.DRAFT, **context))
        for at in range(0, len(samples), hop)
    ]
    recognizer.close(handle)
    return shown


def assert_alike(answer: Hypothesis, expected: Hypothesis) -> None:
    """Everything but the last digits of confidences, and of the state at a cut."""
    assert listed(answer) == listed(expected)
    assert (answer.text, answer.num_samples) == (expected.text, expected.num_samples)
    assert (answer.is_final, answer.open_words) == (expected.is_final, expected.open_words)
    for word, other in zip(answer.words, expected.words, strict=True):
        assert (word.text, word.start_sample) == (other.text, other.start_sample)
        assert word.end_sample == other.end_sample
        assert abs(word.confidence - other.confidence) < 2e-3
    assert len(answer.carry) == len(expected.carry)
