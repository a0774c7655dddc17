"""The encoder's graph: padding of every kind is invisible, weights stay outside of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.graph_builder import session
from gpu_service.cpu.parakeet_graph import STATE_KINDS, build_encoder, state_names
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare

from .parakeet_random import SMALL, random_checkpoint, random_features

Array = NDArray[np.float32]

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(random_checkpoint(SMALL), 64)


@pytest.fixture(scope="module")
def graph(weights: ParakeetWeights) -> Any:
    model, outside = build_encoder(weights)
    return session(model, 1, outside)


def inputs(tail: Array, rows: Array, past: Array, conv: Array, num_cached: int) -> dict[str, Any]:
    """Of one utterance: (8, F), (T, F), (layers, 2, L, D), (layers, K//2, D)."""
    arrays: dict[str, Any] = {
        "features": np.concatenate([tail, rows])[None],
        "first": np.array([0]),
        "lengths": np.array([8 + len(rows)]),
        "cached": np.array([num_cached]),
    }
    for layer in range(SMALL.num_layers):
        arrays[f"past_key_{layer}"] = past[layer, :1]
        arrays[f"past_value_{layer}"] = past[layer, 1:]
        arrays[f"past_conv_{layer}"] = conv[layer, None]
    return arrays


def random_inputs(num_rows: int, num_cached: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    rows = random_features(8 + num_rows)
    past = random.standard_normal((SMALL.num_layers, 2, num_cached, SMALL.width), np.float32)
    conv = random.standard_normal((SMALL.num_layers, 2, SMALL.width), np.float32)
    return inputs(rows[:8], rows[8:], past, conv, num_cached)


def run(graph: Any, arrays: dict[str, Any]) -> dict[str, Array]:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, arrays), strict=True))


def assert_same_frames(padded: dict[str, Array], plain: dict[str, Array], num_frames: int) -> None:
    assert padded.keys() == plain.keys()
    for name, array in plain.items():
        error = np.abs(padded[name][:, :num_frames] - array[:, :num_frames]).max()
        assert error < TOLERANCE * max(1.0, float(np.abs(array).max())), name


@pytest.mark.parametrize("num_rows", [9, 16, 23, 24])
def test_what_lies_behind_the_last_row_is_not_seen(graph: Any, num_rows: int) -> None:
    arrays = random_inputs(num_rows, 5)
    plain = run(graph, arrays)
    noise = 100 * random_features(77)[None]
    arrays["features"] = np.concatenate([arrays["features"], noise], axis=1)
    assert_same_frames(run(graph, arrays), plain, -(-num_rows // 8))


def test_what_lies_before_the_first_row_is_not_seen(graph: Any) -> None:
    arrays = random_inputs(40, 0) | {"first": np.array([8])}
    arrays["features"][:, :8] = 0
    plain = run(graph, arrays)
    arrays["features"][:, :8] = 100
    assert_same_frames(run(graph, arrays), plain, 5)


def test_the_tail_is_seen_where_there_is_one(graph: Any) -> None:
    arrays = random_inputs(40, 0)
    plain = run(graph, arrays)["encoded"]
    arrays["features"][:, 1:8] += 1
    assert np.abs(run(graph, arrays)["encoded"] - plain).max() > 0.01


def test_cached_rows_that_are_not_real_are_not_seen(graph: Any) -> None:
    arrays = random_inputs(40, 5)
    plain = run(graph, arrays)
    for layer in range(SMALL.num_layers):
        for kind in ("key", "value"):
            name = f"past_{kind}_{layer}"
            noise = np.full((1, 7, SMALL.width), 100, np.float32)
            arrays[name] = np.concatenate([noise, arrays[name]], axis=1)
    assert_same_frames(run(graph, arrays), plain, 5)


def test_nothing_at_all_is_finite(graph: Any) -> None:
    arrays = random_inputs(16, 5) | {"lengths": np.array([8]), "cached": np.array([0])}
    for name, array in run(graph, arrays).items():
        assert np.isfinite(array).all(), name


def test_rows_for_the_convolution_are_zero_behind_the_end(graph: Any) -> None:
    arrays = random_inputs(32, 0) | {"lengths": np.array([8 + 16])}
    for name in state_names("conv", SMALL.num_layers):
        rows = run(graph, arrays)[name]
        assert rows[:, :2].all()
        assert not rows[:, 2:].any()


def test_every_state_that_goes_in_comes_out(graph: Any) -> None:
    taken = {value.name for value in graph.get_inputs()}
    given = {value.name for value in graph.get_outputs()}
    states = {name for kind in STATE_KINDS for name in state_names(kind, SMALL.num_layers)}
    assert taken == {f"past_{name}" for name in states} | {"features", "first", "lengths", "cached"}
    assert given == states | {"projected", "encoded"}


def test_weights_are_outside_of_the_graph_and_not_copied(weights: ParakeetWeights) -> None:
    model, outside = build_encoder(weights)
    assert outside.keys() == weights.encoder.keys()
    for name, array in outside.items():
        assert np.shares_memory(array, weights.encoder[name]), name
    inside = sum(len(tensor.raw_data) for tensor in onnx.load_from_string(model).graph.initializer)
    assert inside < 1000
