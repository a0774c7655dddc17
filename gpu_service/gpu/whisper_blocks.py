"""WhisperBlocks: what Whisper's encoder and decoder are made of, over rows of any number.

Layer norms, GELU and linear layers, enqueued on arrays of the caller. Knows no layer and no audio.
Shapes: D width, n outputs of k inputs; T is the storage type.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .device import Device, DeviceArray
from .encoder_weights import VECTOR, Linear, Norm
from .gemm import Gemms, Product

THREADS = 256
NORM_THREADS = 128
NORM_ROWS = NORM_THREADS // 32  # a warp a row


class WhisperBlocks:
    """Bound to a precision: the storage type, and that of the residual stream."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        storage: str,
        residual: str,
        defines: Mapping[str, str],
    ) -> None:
        """Raises DeviceError."""
        self._device, self._gemms = device, gemms
        self._storage, self._residual = storage, residual
        self._gelu = device.kernel("whisper_encoder.cu", "gelu", defines)
        self._norm = device.kernel("layers.cu", "normalise", defines)

    def normalise(self, x: DeviceArray, norm: Norm, out: DeviceArray) -> None:
        """out (rows, D) T = norm of x (rows, D)."""
        rows = out.shape[0]
        self._device.launch(
            self._norm, -(-rows // NORM_ROWS), NORM_THREADS,
            x, norm.weight, norm.bias, out, np.int32(rows),
        )  # fmt: skip

    def gelu(self, values: DeviceArray) -> None:
        """In place. cuBLASLt has one as a product's epilogue, by tanh: not what was trained."""
        self._device.launch(
            self._gelu, -(-values.size // (VECTOR * THREADS)), THREADS,
            values, np.int64(values.size),
        )  # fmt: skip

    def linear(self, a: DeviceArray, linear: Linear, out: DeviceArray) -> None:
        """out (rows, n) T = a weight^T + bias."""
        n, k = linear.weight.shape
        product = Product(a.shape[0], n, k, dtype=self._storage, out_dtype=self._storage, bias=True)
        self._gemms.plan(product).run(a, linear.weight, out, linear.bias)

    def add_linear(self, a: DeviceArray, linear: Linear, x: DeviceArray) -> None:
        """x (rows, n) += a weight^T + bias."""
        n, k = linear.weight.shape
        product = Product(
            a.shape[0], n, k,
            dtype=self._storage, out_dtype=self._residual, accumulate=True, bias=True,
        )  # fmt: skip
        self._gemms.plan(product).run(a, linear.weight, x, linear.bias)
