"""TdtSteps: the launches of the TDT decoder's kernels, one method each.

Steps and what they share are told in kernels/tdt.cuh. What changes from launch to launch lies in
the request, so all of these may be captured. Knows arguments and grids, no order of steps.
"""

from __future__ import annotations

import numpy as np

from .device import Condition, Device, DeviceArray, Kernel
from .tdt_buffers import (
    THREADS,
    TdtBuffers,
    most_resident,
    persistent_shared_bytes,
    step_shared_bytes,
)

STEPS = "tdt_graph.cu"
PERSISTENT = "tdt_persistent.cu"


class TdtSteps:
    """The kernels of one decoder on its buffers."""

    def __init__(
        self,
        device: Device,
        buffers: TdtBuffers,
        request: DeviceArray,
        tries: DeviceArray,
        max_symbols: int,
        num_blocks: int,
        shared_bytes: int,
    ) -> None:
        """Compile. Raises DeviceError, ValueError.

        Args:
            request: (1 + B, 8) int32.
            num_blocks: of the steps that multiply, one on each multiprocessor.
            shared_bytes: dynamic shared memory that a block may have.
        """
        self._device = device
        self._buffers = buffers
        self._request = request
        self._tries = tries
        self._max_symbols = np.int32(max_symbols)
        self._max_rows = np.int32(buffers.max_rows)
        self._num_blocks = num_blocks
        self._num_resident = most_resident(buffers, num_blocks, shared_bytes)
        self._shared_bytes = step_shared_bytes(buffers.values.shape[2])
        self._defines = _defines(buffers)
        self.num_layers = buffers.gates.shape[0] - 1

    def persistent(self) -> None:
        """All steps in one kernel."""
        b = self._buffers
        self._device.launch(
            self._kernel("tdt_persistent", PERSISTENT), self._num_blocks, THREADS,
            b.tiles, b.bias, b.table, b.durations, b.values, b.marks, b.gates, b.cells, b.keys,
            b.duration_logits, b.logits, b.sums, b.columns, b.tokens, self._tries, self._request,
            b.barrier,
            self._max_symbols, self._max_rows, np.int32(self._num_resident),
            shared_bytes=persistent_shared_bytes(b, self._num_resident), cooperative=True,
        )  # fmt: skip

    def begin(self, loop: Condition | None = None) -> None:
        """States and rows; sets the loop's condition, or the flags."""
        b = self._buffers
        self._launch(
            "tdt_begin" if loop is None else "tdt_begin_loop", self._num_blocks,
            b.values, b.marks, b.cells, b.columns, b.keys, self._request, b.progress,
            self._max_rows, b.flags if loop is None else loop,
        )  # fmt: skip

    def recurrent(self) -> None:
        """The recurrent products of the states."""
        b = self._buffers
        self._launch(
            "tdt_recurrent", self._num_blocks,
            b.tiles, b.bias, b.values, b.gates, b.columns, self._request, b.progress,
            self._max_rows,
        )  # fmt: skip

    def joint(self) -> None:
        """Logits, and the best of each row."""
        b = self._buffers
        self._launch(
            "tdt_joint", self._num_blocks,
            b.tiles, b.bias, b.values, b.columns, b.keys, b.duration_logits, b.logits, b.sums,
            self._request, b.progress, self._max_rows,
        )  # fmt: skip

    def pick(self, loop: Condition | None = None, said: Condition | None = None) -> None:
        """Tokens and blanks; sets the conditions, or the flags."""
        b = self._buffers
        told = (b.flags,) if loop is None or said is None else (loop, said)
        self._launch(
            "tdt_pick" if loop is None else "tdt_pick_loop", 1,
            b.durations, b.keys, b.duration_logits, b.logits, self._tries, b.tokens,
            self._request, b.progress, self._max_symbols, self._max_rows, *told,
        )  # fmt: skip

    def lowest(self) -> None:
        """LSTM layer 0 of rows with a token, and the tokens' confidences; joins many rows."""
        b = self._buffers
        self._launch(
            "tdt_lowest", self._num_blocks,
            b.table, b.values, b.gates, b.cells, b.columns, b.keys, b.logits, b.sums, b.tokens,
            self._request, b.progress, self._max_rows,
        )  # fmt: skip

    def layer(self, step: int) -> None:
        """LSTM layer `step`, or what is predicted for step L."""
        b = self._buffers
        self._launch(
            "tdt_layer", self._num_blocks,
            b.tiles, b.bias, b.values, b.gates, b.columns, self._request, b.progress,
            self._max_rows, np.int32(step),
        )  # fmt: skip

    def end(self) -> None:
        """States and results."""
        b = self._buffers
        self._launch(
            "tdt_end", self._num_blocks,
            b.values, b.marks, b.cells, b.tokens, self._request, b.progress, self._max_rows,
        )  # fmt: skip

    def _kernel(self, name: str, source: str = STEPS) -> Kernel:
        return self._device.kernel(source, name, self._defines)

    def _launch(self, name: str, grid: int, *arguments: DeviceArray | Condition | np.int32) -> None:
        self._device.launch(
            self._kernel(name), grid, THREADS, *arguments, shared_bytes=self._shared_bytes
        )


def _defines(buffers: TdtBuffers) -> dict[str, str]:
    sizes = {
        "STORAGE_HALF": int(buffers.tiles.dtype == np.float16),
        "WIDTH": buffers.values.shape[2],
        "NUM_LAYERS": buffers.gates.shape[0] - 1,
        "NUM_LABELS": buffers.table.shape[0],
        "NUM_DURATIONS": buffers.durations.shape[0],
    }
    return {name: str(size) for name, size in sizes.items()}
