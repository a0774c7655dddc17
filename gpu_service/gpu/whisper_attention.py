"""Attention of Whisper's encoder: every position of a window hears all of it.

In half one kernel does it all (kernels/whisper_attention.cu). In float, and for widths of a head
that the kernel is not made for, matrix products do it, one window at a time.

Knows positions, no audio. Shapes: B windows of N positions, D width, H heads, E = D / H.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .device import Device, DeviceArray
from .encoder_weights import VECTOR
from .gemm import Gemms, Product
from .whisper_weights import WhisperEncoderWeights

FUSED_THREADS = 128
TILE = 128  # queries of a block
HEAD_STEP = 32  # elements of a head that the kernel takes at once
MOST_HEAD = 64  # elements of a head: of more, keys and values have no room in shared memory twice
SOFTMAX_THREADS = 128
SOFTMAX_ROWS = SOFTMAX_THREADS // 32  # a warp a row


class WindowAttention(Protocol):
    """Attention without positions and without a mask."""

    def attend(self, batch: int, qkv: DeviceArray, heard: DeviceArray) -> None:
        """qkv (B N, 3 D) T -> heard (B N, D) T."""
        ...


def make_attention(
    device: Device, gemms: Gemms, weights: WhisperEncoderWeights, positions: int
) -> WindowAttention:
    """The one kernel where it can, products where not. Raises DeviceError."""
    head_width = weights.config.head_width
    is_made_for = head_width % HEAD_STEP == 0 and head_width <= MOST_HEAD
    if weights.storage == "float16" and is_made_for:
        return FusedWindowAttention(device, weights, positions)
    return ProductWindowAttention(device, gemms, weights, positions)


class FusedWindowAttention:
    """Scores are never in memory."""

    def __init__(self, device: Device, weights: WhisperEncoderWeights, positions: int) -> None:
        self._device, self._positions = device, positions
        self._num_heads = weights.config.num_heads
        self._kernel = device.kernel("whisper_attention.cu", "hear_window", weights.defines)

    def attend(self, batch: int, qkv: DeviceArray, heard: DeviceArray) -> None:
        """See WindowAttention."""
        grid = -(-self._positions // TILE), self._num_heads, batch
        self._device.launch(
            self._kernel, grid, FUSED_THREADS, qkv, heard, np.int32(self._positions)
        )


class ProductWindowAttention:
    """Scores of one window lie in memory, for all heads."""

    def __init__(
        self, device: Device, gemms: Gemms, weights: WhisperEncoderWeights, positions: int
    ) -> None:
        config = weights.config
        self._device, self._gemms, self._config = device, gemms, config
        self._positions, self._storage = positions, weights.storage
        self._stride = -(-positions // VECTOR) * VECTOR  # of a row of scores
        shape = (config.num_heads, positions, self._stride)
        self._scores = device.zeros(shape, weights.storage)
        self._softmax = device.kernel("whisper_encoder.cu", "softmax_window", weights.defines)

    def attend(self, batch: int, qkv: DeviceArray, heard: DeviceArray) -> None:
        """See WindowAttention."""
        for window in range(batch):
            first, last = window * self._positions, (window + 1) * self._positions
            self._attend_one(qkv.rows(first, last), heard.rows(first, last))

    def _attend_one(self, qkv: DeviceArray, heard: DeviceArray) -> None:
        config, n = self._config, self._positions
        width, head = config.width, config.head_width
        flat = qkv.reshape(qkv.size)
        keys, values = flat.rows(width, flat.size), flat.rows(2 * width, flat.size)
        scored = Product(
            n, n, head, batch=config.num_heads,
            lda=3 * width, ldw=3 * width, ldc=self._stride,
            stride_a=head, stride_w=head, stride_c=n * self._stride,
            dtype=self._storage, out_dtype=self._storage,
        )  # fmt: skip
        self._gemms.plan(scored).run(flat, keys, self._scores)
        rows = config.num_heads * n
        self._device.launch(
            self._softmax, -(-rows // SOFTMAX_ROWS), SOFTMAX_THREADS,
            self._scores, np.int32(rows), np.int32(n), np.int32(self._stride),
            np.float32(head**-0.5),
        )  # fmt: skip
        summed = Product(
            n, head, n, batch=config.num_heads,
            lda=self._stride, ldw=3 * width, ldc=width,
            stride_a=n * self._stride, stride_w=head, stride_c=head, w_is_kn=True,
            dtype=self._storage, out_dtype=self._storage,
        )  # fmt: skip
        self._gemms.plan(summed).run(self._scores, values, heard)
