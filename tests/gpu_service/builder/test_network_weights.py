"""What the TensorRT network computes with: the prepared weights, arranged and rounded."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.builder.network_weights import network_weights, stored
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(random_checkpoint(SMALL), 8)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, 1.00390637, -3.1415927, 65504.0], np.float32)
    widened = (stored(values, "bf16").astype(np.uint32) << 16).view(np.float32)
    expected = [1.0, 1.0, 1.015625, 1.0078125, -3.140625, 65536.0]
    np.testing.assert_array_equal(widened, np.array(expected, np.float32))


def test_queries_carry_the_scale_and_matrices_are_split(weights: ParakeetWeights) -> None:
    made = network_weights(weights, "fp32")
    qkv = weights.encoder["layers.1.self_attn.qkv.weight"]
    scale = np.float32(SMALL.head_width**-0.5)
    np.testing.assert_array_equal(
        made["layers.1.self_attn.query.weight"].values[0], scale * qkv[:24]
    )
    np.testing.assert_array_equal(made["layers.1.self_attn.value.weight"].values[0], qkv[48:])
    gate = weights.encoder["layers.0.conv.pointwise1.weight"][24:]
    np.testing.assert_array_equal(made["layers.0.conv.gate.weight"].values[0], gate)
    positions = made["layers.2.self_attn.positions"]
    assert positions.shape == (1, SMALL.num_heads, 15, SMALL.head_width)
    table = weights.encoder["layers.2.self_attn.positions"]
    np.testing.assert_array_equal(positions.values[0, 1, 4], table[4, 8:16])


def test_layer_norms_stay_float32(weights: ParakeetWeights) -> None:
    made = network_weights(weights, "fp16")
    kinds = {name: weight.precision for name, weight in made.items()}
    assert {kind for name, kind in kinds.items() if ".norm_" in name} == {"fp32"}
    assert {kind for name, kind in kinds.items() if ".norm_" not in name} == {"fp16"}
    assert all(weight.values.flags.c_contiguous for weight in made.values())
