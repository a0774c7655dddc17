"""The TensorRT network, executed in numpy, against the CPU engine's encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.builder.encoder_network import EncoderNetwork
from gpu_service.builder.network_layers import NetworkError
from gpu_service.builder.network_weights import network_weights
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.trt_compat import TrtPrecision, dialect_of
from gpu_service.gpu.trt_inputs import (
    FEATURES,
    FRAME_MASK,
    HALF_MASK,
    KEY_MASK,
    MASKED,
    PROJECTED,
    QUARTER_MASK,
    shapes,
    tables,
)
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint, random_features

from .fake_tensorrt import FakeTensorRt, Network

Array = NDArray[np.float32]
MAX_FRAMES = 40
TINY = "tests/fixtures/parakeet/tiny"


@pytest.fixture(scope="module")
def small() -> ParakeetWeights:
    return prepare(random_checkpoint(SMALL), MAX_FRAMES)


@pytest.fixture(scope="module")
def tiny() -> ParakeetWeights:
    return prepare(load_checkpoint(TINY), MAX_FRAMES)


def built(
    weights: ParakeetWeights,
    precision: TrtPrecision = "fp32",
    *,
    version: str = "11.4.0",
) -> Network:
    """The network of a model."""
    trt = FakeTensorRt(version)
    dialect = dialect_of(trt)
    network = dialect.create_network(trt)
    EncoderNetwork(
        trt, dialect, network, weights.config, network_weights(weights, precision), precision
    ).build()
    assert isinstance(network, Network)
    return network


def inputs_of(utterances: list[Array], frames: int) -> dict[str, NDArray[Any]]:
    """What the kernel gather_features makes, by the definition of the masks."""
    bucket = Bucket(len(utterances), frames)
    shape = shapes(bucket, 128)
    inputs: dict[str, NDArray[Any]] = {
        name: np.zeros(sizes, np.float32) for name, sizes in shape.items()
    }
    inputs |= tables(frames, MAX_FRAMES)
    for row, features in enumerate(utterances):
        inputs[FEATURES][row, 0, : len(features)] = features
        for name, step in ((HALF_MASK, 2), (QUARTER_MASK, 4), (FRAME_MASK, 8)):
            real = np.arange(0, 8 * frames, step) < len(features)
            inputs[name][row] = real.reshape(inputs[name][row].shape)
        inputs[KEY_MASK][row, 0, 0] = np.where(np.arange(frames) * 8 < len(features), 0.0, MASKED)
    return inputs


def run(network: Network, inputs: dict[str, NDArray[Any]]) -> Array:
    return network._run(inputs)[PROJECTED]


def relative_error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("version", ["8.6.0", "10.1.0", "11.4.0"])
@pytest.mark.parametrize("model", ["small", "tiny"])
def test_it_equals_the_cpu_encoder(
    version: str, model: str, request: pytest.FixtureRequest
) -> None:
    weights: ParakeetWeights = request.getfixturevalue(model)
    utterances = [random_features(rows, seed=rows) for rows in (93, 57, 8, 1)]
    expected, num_frames = ParakeetEncoder(weights, 1).encode(
        np.stack([np.pad(u, ((0, 93 - len(u)), (0, 0))) for u in utterances]),
        np.array([len(u) for u in utterances]),
    )
    found = run(built(weights, version=version), inputs_of(utterances, 12))
    for row, frames in enumerate(num_frames):
        assert relative_error(found[row, :frames], expected[row, :frames]) < 1e-5


def test_padding_and_neighbours_change_nothing(small: ParakeetWeights) -> None:
    network = built(small)
    features = random_features(70)
    alone = run(network, inputs_of([features], 9))[0, :9]
    company = run(network, inputs_of([random_features(160, 1), features], 20))[1, :9]
    np.testing.assert_allclose(company, alone, atol=2e-5)


def test_a_row_without_an_utterance_is_finite(small: ParakeetWeights) -> None:
    found = run(built(small, "fp16"), inputs_of([random_features(24), random_features(0)], 3))
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_half_precisions_stay_close(
    tiny: ParakeetWeights, precision: TrtPrecision, limit: float
) -> None:
    inputs = inputs_of([random_features(160)], 20)
    exact = run(built(tiny), inputs)
    error = relative_error(run(built(tiny, precision), inputs), exact)
    assert limit / 1000 < error < limit


def test_sizes_of_buckets_are_named_and_open(small: ParakeetWeights) -> None:
    network = built(small)
    sizes = {name: shape for name, (_, shape) in network._inputs.items()}
    assert sizes[FEATURES] == (-1, 1, -1, 128)
    names = {name: tensor._dimension_names for name, (tensor, _) in network._inputs.items()}
    assert names[FEATURES] == {0: "batch", 2: "rows"}
    assert names[KEY_MASK] == {0: "batch", 3: "frames"}


@pytest.mark.parametrize("version", ["8.6.0", "11.4.0"])
def test_every_layer_has_a_name_of_its_own(small: ParakeetWeights, version: str) -> None:
    names = [layer._name_now() for layer in built(small, "fp16", version=version)._layers]
    assert "" not in names
    assert len(set(names)) == len(names)


def test_a_layer_that_tensorrt_refuses_is_an_error(small: ParakeetWeights) -> None:
    trt = FakeTensorRt("8.6.0")
    dialect = dialect_of(trt)
    network = dialect.create_network(trt)
    network.add_input(FEATURES, trt.float32, (1,))  # the name is taken
    with pytest.raises(NetworkError, match="refused features"):
        EncoderNetwork(trt, dialect, network, SMALL, network_weights(small, "fp32"), "fp32").build()


def test_tables_gather_what_a_shift_would() -> None:
    """Row i of the scores by position, seen from column N - 1 - i on."""
    frames = 5
    made = tables(frames, MAX_FRAMES)
    raw = np.arange(frames * (2 * frames - 1)).reshape(frames, -1)
    shifted = np.stack([raw[i, frames - 1 - i :][:frames] for i in range(frames)])
    np.testing.assert_array_equal(raw.reshape(-1)[made["shift_index"]], shifted)
    assert made["position_rows"].tolist() == list(range(35, 44))
    with pytest.raises(ValueError, match="41 frames"):
        tables(MAX_FRAMES + 1, MAX_FRAMES)
