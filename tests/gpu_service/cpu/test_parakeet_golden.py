"""The engine's encoder against Hugging Face's, on the golden files of tests/fixtures/parakeet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.graph_builder import session
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder, open_encoder
from gpu_service.cpu.parakeet_features import log_mel_features
from gpu_service.cpu.parakeet_graph import build_encoder
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare
from tests.fixtures.parakeet.signals import (
    GOLDEN_SIGNALS,
    SPEECH_NAME,
    SPEECH_SAMPLES,
    golden_signal,
)

from ..speech import two_cities

Array = NDArray[np.float32]

FOLDER = Path(__file__).parents[2] / "fixtures" / "parakeet"
RELATIVE = 1e-3  # of the largest value


@pytest.fixture(scope="module")
def encoder() -> ParakeetEncoder:
    return open_encoder(load_checkpoint(str(FOLDER / "tiny")), 400, 1)[0]


def features_of(name: str) -> Array:
    if name == SPEECH_NAME:
        return log_mel_features(two_cities()[:SPEECH_SAMPLES])
    return log_mel_features(golden_signal(name))


@pytest.mark.parametrize("name", [*GOLDEN_SIGNALS, SPEECH_NAME])
def test_frames_equal_the_reference(encoder: ParakeetEncoder, name: str) -> None:
    with np.load(FOLDER / f"{name}.npz") as golden:
        projected = golden["projected"]
    frames = encoder.encode_exact(features_of(name))
    assert frames.shape == projected.shape
    assert np.abs(frames - projected).max() < RELATIVE * np.abs(projected).max()


def test_states_before_the_projection_equal_the_reference(encoder: ParakeetEncoder) -> None:
    features = features_of("signal_3_2s")
    weights = prepare(load_checkpoint(str(FOLDER / "tiny")), 400)
    model, outside = build_encoder(weights)
    inputs = {
        "features": np.concatenate([np.zeros((8, 128), np.float32), features])[None],
        "first": np.array([8]),
        "lengths": np.array([8 + len(features)]),
        "cached": np.array([0]),
    }
    config = weights.config
    for layer in range(config.num_layers):
        for kind, num_rows in (("key", 0), ("value", 0), ("conv", config.conv_kernel // 2)):
            inputs[f"past_{kind}_{layer}"] = np.zeros((1, num_rows, config.width), np.float32)
    with np.load(FOLDER / "signal_3_2s.npz") as golden:
        encoded = golden["encoded"]
    found = session(model, 1, outside).run(["encoded"], inputs)[0][0]
    assert np.abs(found - encoded).max() < RELATIVE * np.abs(encoded).max()


def test_more_look_ahead_brings_increments_closer_to_the_whole(encoder: ParakeetEncoder) -> None:
    """Nothing is forgotten here, so only the future is missing."""
    features = features_of(SPEECH_NAME)
    whole = encoder.encode_exact(features)
    errors = []
    for ahead_frames in (0, 4, 13, 40):
        cache, committed = encoder.new_cache(200), []
        while (start := cache.next_frame) < 112:
            rows = features[8 * start : 8 * (start + 4 + ahead_frames)]
            committed.append(encoder.encode_chunk(cache, rows, 4)[:4])
        frames = np.concatenate(committed)
        errors.append(float(np.abs(frames - whole[: len(frames)]).mean()))
    assert errors == sorted(errors, reverse=True), errors
