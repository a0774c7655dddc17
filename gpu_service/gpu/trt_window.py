"""TensorRtTrunk: the convolutions and layers of Whisper's encoder by a TensorRT plan.

From log-mel rows of whole windows to the residual stream behind the last layer; the final norm and
the decoder's keys and values stay whisper_encoder.py's, which calls it. Every batch size is a
profile of the plan. Knows a plan and device memory, no file. Shapes: B windows, N positions, R =
2 N rows, M mel bands, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .device import Device, DeviceArray
from .trt_plan import TensorRtPlan

FEATURES, RESIDUAL = "features", "residual"


def window_shapes(batch: int, positions: int, num_mels: int) -> dict[str, tuple[int, ...]]:
    """Each input's shape for a batch."""
    return {FEATURES: (batch, 2 * positions, num_mels)}


class TensorRtTrunk:
    """See the module text."""

    def __init__(
        self,
        trt: Any,
        device: Device,
        plan: bytes,
        batches: Sequence[int],
        *,
        positions: int,
        num_mels: int,
    ) -> None:
        """Batch i of `batches` runs on the plan's profile i. Raises as TensorRtPlan does."""
        self._plan = TensorRtPlan(trt, device, plan, len(batches))
        self.batches = tuple(batches)
        self._shapes = {batch: window_shapes(batch, positions, num_mels) for batch in batches}
        size = max(int(np.prod(shapes[FEATURES])) for shapes in self._shapes.values())
        self._features = device.empty(size, np.float32)
        self._contexts: dict[int, Any] = {}

    def features(self, batch: int) -> DeviceArray:
        """(B, R, M) float32: where the plan reads a batch's features."""
        return self._features.first(*self._shapes[batch][FEATURES])

    def prepare(self, batch: int, residual: DeviceArray) -> None:
        """Have a batch's answer written to (B N, D) float32. Raises DeviceError."""
        context = self._plan.context(self.batches.index(batch))
        self._plan.bind(context, {FEATURES: self.features(batch)}, {RESIDUAL: residual})
        self._contexts[batch] = context

    def enqueue(self, batch: int) -> None:
        """Run a batch that was prepared. Raises DeviceError."""
        self._plan.run(self._contexts[batch], f"{batch} windows")
