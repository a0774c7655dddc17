"""Packed decoder weights: every number is where a lane or a gate is expected to find it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.tdt_weights import pack, rounded

from ..decoding.networks import Array, random_weights
from .tdt_pair import PRECISIONS, small_weights

WIDTH = 48


def unpacked(tiles: Array, precision: Precision) -> Array:
    """Tiles as (rows, J), by the places that kernels/tdt_product.cuh names."""
    matrix = np.zeros((16 * len(tiles), tiles.shape[1] // 16), np.float32)
    for tile, numbers in enumerate(tiles):
        for place, number in enumerate(numbers.tolist()):
            step, within = divmod(place, 256)
            if precision == "fp32":
                row, column = divmod(within, 16)
            else:
                lane, element = divmod(within, 8)
                group, quad = divmod(lane, 4)
                word, low = divmod(element, 2)  # words are a[0] .. a[3]
                row, column = group + 8 * (word % 2), 4 * quad + 2 * (word // 2) + low
            matrix[16 * tile + row, 16 * step + column] = number
    return matrix


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tiles_hold_the_head_then_each_layer(precision: Precision) -> None:
    weights = rounded(small_weights(1), precision)
    packed = pack(weights, precision)
    matrix = unpacked(packed.tiles, precision)
    num_rows = len(weights.head_weight)
    np.testing.assert_array_equal(matrix[:num_rows], weights.head_weight)
    np.testing.assert_array_equal(packed.bias.ravel()[:num_rows], weights.head_bias)
    assert not matrix[num_rows:48].any()
    assert not packed.bias.ravel()[num_rows:48].any()
    first = 48
    lower, upper = weights.lstm
    for gates, bias in (
        (upper.w_input, upper.bias),
        (lower.w_hidden, np.zeros(4 * WIDTH, np.float32)),
    ):
        for tile in range(4 * WIDTH // 16):
            for row in range(16):
                gate, unit = row // 4, 4 * tile + row % 4
                at = first + 16 * tile + row
                np.testing.assert_array_equal(matrix[at], gates[gate * WIDTH + unit])
                assert packed.bias.ravel()[at] == bias[gate * WIDTH + unit]
        first += 4 * WIDTH
    np.testing.assert_array_equal(matrix[first : first + WIDTH], weights.projector_weight)
    np.testing.assert_array_equal(packed.bias.ravel()[first:][:WIDTH], weights.projector_bias)
    assert len(matrix) == first + WIDTH + 4 * WIDTH


def test_the_table_is_what_the_lowest_layer_gets_from_a_label() -> None:
    weights = small_weights(2)
    table = pack(weights, "fp32").table
    assert table.shape == (41, WIDTH, 4)
    lowest = weights.lstm[0]
    gates = lowest.w_input @ weights.embedding[7] + lowest.bias
    np.testing.assert_allclose(table[7, 5], gates[[5, 53, 101, 149]], atol=1e-5)


def test_rounding_is_to_half_and_spares_biases() -> None:
    weights = small_weights(3)
    assert rounded(weights, "fp32") is weights
    half = rounded(weights, "fp16")
    for name in ("embedding", "projector_weight", "head_weight"):
        before, after = getattr(weights, name), getattr(half, name)
        assert (after != before).any()
        np.testing.assert_allclose(after, before, rtol=2**-11, atol=1e-7)
        np.testing.assert_array_equal(after.astype(np.float16).astype(np.float32), after)
    assert half.head_bias is weights.head_bias
    assert half.lstm[1].bias is weights.lstm[1].bias
    again = rounded(half, "fp16")
    assert TdtDecoder(again).start().to_bytes() == TdtDecoder(half).start().to_bytes()


def test_a_width_without_whole_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="width 24 is not a multiple of 16"):
        pack(random_weights(1, width=24), "fp16")


def test_durations_are_in_frames() -> None:
    weights = dataclasses.replace(small_weights(1), durations=(0, 2, 4, 8, 16))
    assert pack(weights, "fp16").durations.tolist() == [0, 2, 4, 8, 16]
