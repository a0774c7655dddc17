"""The TDT decoder's weights as its kernels read them (kernels/tdt.cuh, tdt_product.cuh).

All matrices become one list of tiles of 16 rows, each in the order in which the lanes of a warp
load it. Gates are interleaved, so that a tile has all four of four units. Layer 0's input side is a
table over labels. With fp16 the matrices are rounded to half first: rounded() is what the oracle
must be given to say the same.

Knows layouts, no device. Shapes: V tokens, J width, L layers, R durations, M tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.tdt_weights import Array, DecoderWeights, LstmLayer
from .encoder_weights import Precision

TILE_ROWS = 16
GATES = 4


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """What goes to the device."""

    tiles: NDArray[Any]  # (M, 16 J) float16 or float32: the head, then each step's two matrices
    bias: Array  # (M, 16) of the tiles' rows
    table: Array  # (V + 1, J, 4) gates of layer 0 from each label
    durations: NDArray[np.int32]  # (R,) frames


def rounded(weights: DecoderWeights, precision: Precision) -> DecoderWeights:
    """The weights that the kernels really compute with. Biases stay as they are."""
    if precision == "fp32":
        return weights

    def half(matrix: Array) -> Array:
        return matrix.astype(np.float16).astype(np.float32)

    return replace(
        weights,
        embedding=half(weights.embedding),
        lstm=tuple(
            LstmLayer(half(layer.w_input), half(layer.w_hidden), layer.bias)
            for layer in weights.lstm
        ),
        projector_weight=half(weights.projector_weight),
        head_weight=half(weights.head_weight),
    )


def pack(weights: DecoderWeights, precision: Precision) -> PackedWeights:
    """Lay out weights that are rounded() already. Raises ValueError for a width without tiles."""
    if weights.width % TILE_ROWS:
        raise ValueError(f"decoder width {weights.width} is not a multiple of {TILE_ROWS}")
    matrices, biases = _parts(weights)
    lowest = weights.lstm[0]
    table = weights.embedding @ lowest.w_input.T + lowest.bias
    return PackedWeights(
        tiles=np.concatenate([_tiles(matrix, precision) for matrix in matrices]),
        bias=np.concatenate([_padded(bias).reshape(-1, TILE_ROWS) for bias in biases]),
        table=np.ascontiguousarray(table.reshape(-1, GATES, weights.width).transpose(0, 2, 1)),
        durations=np.array(weights.durations, np.int32),
    )


def _parts(weights: DecoderWeights) -> tuple[list[Array], list[Array]]:
    """The matrices in the order of their tiles, and their biases."""
    matrices, biases = [weights.head_weight], [weights.head_bias]
    for number, layer in enumerate(weights.lstm):
        if number + 1 < weights.num_layers:
            above = weights.lstm[number + 1]
            matrices.append(_interleaved(above.w_input))
            biases.append(_interleaved(above.bias[:, None])[:, 0])
        else:
            matrices.append(weights.projector_weight)
            biases.append(weights.projector_bias)
        matrices.append(_interleaved(layer.w_hidden))
        biases.append(np.zeros(GATES * weights.width, np.float32))
    return matrices, biases


def _interleaved(gates: Array) -> Array:
    """Rows (4 J, K), gate by gate, as tiles of four units: row 4 * gate + unit of each."""
    width = gates.shape[0] // GATES
    units = gates.reshape(GATES, width // GATES, GATES, -1)
    interleaved: Array = units.transpose(1, 0, 2, 3).reshape(gates.shape)
    return interleaved


def _padded(rows: Array) -> Array:
    """Zeros behind the rows, up to whole tiles. The kernels look at none of their results."""
    missing = -len(rows) % TILE_ROWS
    return np.pad(rows, [(0, missing), *[(0, 0)] * (rows.ndim - 1)])


def _tiles(matrix: Array, precision: Precision) -> NDArray[Any]:
    """(K, J) as (tiles, 16 J).

    fp32: (steps, 16 rows, 16 columns). fp16: the A fragments of mma.m16n8k16 (see common.cuh), with
    the columns of a step so ordered that lane 4 * group + quad has rows group and group + 8 of
    columns 4 quad .. 4 quad + 3.
    """
    padded = _padded(matrix)
    num_tiles, num_steps = len(padded) // TILE_ROWS, matrix.shape[1] // TILE_ROWS
    if precision == "fp32":
        steps = padded.reshape(num_tiles, TILE_ROWS, num_steps, TILE_ROWS).transpose(0, 2, 1, 3)
    else:
        split = padded.astype(np.float16).reshape(num_tiles, 2, 8, num_steps, 4, 2, 2)
        # tile, high row, group, step, quad, high column, element -> as the lanes load
        steps = split.transpose(0, 3, 2, 4, 5, 1, 6)
    return np.ascontiguousarray(steps).reshape(num_tiles, -1)
