"""TdtBuffers: everything that the TDT decoder keeps on the device, made once.

The fields are those of kernels/tdt.cuh, where what they are for is told. Knows sizes, no kernel.
Shapes: S states, B rows of a launch at most, V tokens, J width, L layers, R durations, M tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..decoding.tdt_weights import DecoderWeights
from .device import Device, DeviceArray, PinnedArray
from .encoder_weights import Precision
from .tdt_weights import GATES, pack

# As in kernels/tdt.cuh.
THREADS = 512
COLUMNS = 16  # rows of the batch in a pass
STAGED_BYTES = 4 * COLUMNS  # of a pass, times J
PARTIAL_BYTES = 2 * 4 * THREADS * 4
TOTALS_BYTES = 4 * THREADS // 32
COUNTS_INTS = 8
BARRIER_WORDS = 64
ROW_INTS = 9 + 1  # of a row's progress: the row, and its place in two lists
REQUEST_INTS = 8  # of the request's header, and of each row


@dataclass(frozen=True, slots=True)
class TdtBuffers:
    """See kernels/tdt.cuh. T is float16 or float32."""

    tiles: DeviceArray  # (M, 16 J) T
    bias: DeviceArray  # (M, 16) float32
    table: DeviceArray  # (V + 1, J, 4) float32
    durations: DeviceArray  # (R,) int32
    values: DeviceArray  # (S, 2 L + 1, J) float32: hidden, cell of each layer, predicted
    marks: DeviceArray  # (S, 4) int32: label, overshoot, node of the hotwords' trie, unused
    gates: DeviceArray  # (L + 1, B, J, 4) float32
    cells: DeviceArray  # (2, B, J) float32
    keys: DeviceArray  # (3, B) uint64
    duration_logits: DeviceArray  # (2, B, R) float32
    logits: DeviceArray  # (2, B, V + 1) float32; empty without hotwords
    sums: DeviceArray  # (B, M, 2) float32, of chunks of labels
    columns: DeviceArray  # (L + 1, B, J) of four bytes, what products multiply
    tokens: DeviceArray  # (max_tokens, 4) int32
    progress: DeviceArray  # int32, of the kernels that are one step each
    barrier: DeviceArray  # uint32, of the one kernel; and clocks (kernels/tdt_stamps.cuh)
    flags: PinnedArray  # (2,) int32: rows that are not done, whether states advance

    @property
    def num_tiles(self) -> int:
        """M."""
        return self.tiles.shape[0]

    @property
    def width(self) -> int:
        """J."""
        return self.values.shape[2]

    @property
    def max_rows(self) -> int:
        """B."""
        return self.keys.shape[1]


def make_buffers(
    device: Device,
    weights: DecoderWeights,
    precision: Precision,
    num_states: int,
    max_rows: int,
    max_tokens: int,
    *,
    has_hotwords: bool,
) -> TdtBuffers:
    """Buffers, and weights that are rounded() uploaded. Raises DeviceError, ValueError."""
    packed = pack(weights, precision)
    width, layers, num_labels = weights.width, weights.num_layers, weights.blank_id + 1

    def floats(*shape: int) -> DeviceArray:
        return device.zeros(shape, np.float32)

    return TdtBuffers(
        tiles=device.upload(packed.tiles),
        bias=device.upload(packed.bias),
        table=device.upload(packed.table),
        durations=device.upload(packed.durations),
        values=floats(num_states, 2 * layers + 1, width),
        marks=device.zeros((num_states, 4), np.int32),
        gates=floats(layers + 1, max_rows, width, GATES),
        cells=floats(2, max_rows, width),
        keys=device.zeros((3, max_rows), np.uint64),
        duration_logits=floats(2, max_rows, len(weights.durations)),
        logits=floats(2, max_rows if has_hotwords else 0, num_labels),
        sums=floats(max_rows, len(packed.tiles), 2),
        columns=floats(layers + 1, max_rows, width),
        tokens=device.zeros((max_tokens, 4), np.int32),
        progress=device.zeros(COUNTS_INTS + max_rows * ROW_INTS, np.int32),
        barrier=device.zeros(BARRIER_WORDS, np.uint32),
        flags=device.pinned(2, np.int32),
    )


def step_shared_bytes(width: int) -> int:
    """Dynamic shared memory of a kernel that is one step."""
    return TOTALS_BYTES + 2 * _pass_bytes(width)


def persistent_shared_bytes(buffers: TdtBuffers, num_resident: int) -> int:
    """Dynamic shared memory of the kernel that is all steps, for its first tiles to stay there."""
    # The second pass of many rows takes the room of tiles.
    flexible = max(num_resident * _tile_bytes(buffers), _pass_bytes(buffers.width))
    return _fixed_bytes(buffers) + flexible


def most_resident(buffers: TdtBuffers, num_blocks: int, shared_bytes: int) -> int:
    """How many tiles a block can keep there. Raises ValueError where not even the rest fits."""
    least = persistent_shared_bytes(buffers, 0)
    if shared_bytes < least:
        raise ValueError(
            f"{buffers.max_rows} rows need {least} bytes of shared memory a block, "
            f"and there are {shared_bytes}"
        )
    room = shared_bytes - _fixed_bytes(buffers)
    return min(-(-buffers.num_tiles // num_blocks), room // _tile_bytes(buffers))


def _fixed_bytes(buffers: TdtBuffers) -> int:
    progress_bytes = -(-4 * (COUNTS_INTS + buffers.max_rows * ROW_INTS) // 16) * 16
    return TOTALS_BYTES + progress_bytes + _pass_bytes(buffers.width)


def _pass_bytes(width: int) -> int:
    return STAGED_BYTES * width + PARTIAL_BYTES


def _tile_bytes(buffers: TdtBuffers) -> int:
    return buffers.tiles.nbytes // buffers.num_tiles
