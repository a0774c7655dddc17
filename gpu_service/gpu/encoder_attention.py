"""Attention of whole utterances: every real frame hears every other one.

Relative positions as in Transformer-XL, section 3.3:

    score(i, j) = ((q_i + u) k_j + (q_i + v) p_{i-j}) / sqrt(E)

In half one kernel does it all (FusedAttention). In float, and for widths of a head that the kernel
is not made for, matrix products do it (ProductAttention).

Knows frames and descriptors (encoder_subsampling.py). Shapes: B utterances of N frames, G of them
in a group, D width, H heads, E = D / H, T the storage type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .device import Device, DeviceArray
from .encoder_layers import Bucket, LayerBuffers
from .encoder_weights import VECTOR, EncoderWeights
from .gemm import Gemms, Product

THREADS = 256
SOFTMAX_THREADS = 128
SOFTMAX_ROWS = SOFTMAX_THREADS // 32  # a warp a row
SCORE_ELEMENTS = 1 << 28  # of one group: 512 MB in half
FUSED_THREADS = 128
TILE = 64  # queries of a block, and keys that it takes at once
HEAD_STEP = 32  # elements of a head that it takes at once


class WholeAttention(Protocol):
    """Attention, given which frames are real."""

    def attend(
        self,
        bucket: Bucket,
        descriptors: DeviceArray,
        layer: int,
        qkv: DeviceArray,
        heard: DeviceArray,
    ) -> None:
        """qkv (B*N, 3 D) -> heard (B*N, D), finite everywhere. See Attention."""
        ...


def is_fusable(weights: EncoderWeights) -> bool:
    """Whether FusedAttention is for this model and precision."""
    return weights.storage == "float16" and weights.config.head_width % HEAD_STEP == 0


class FusedAttention:
    """One kernel: scores are never in memory."""

    def __init__(self, device: Device, weights: EncoderWeights) -> None:
        """Raises DeviceError."""
        self._device, self._weights = device, weights
        self._kernel = device.kernel("fused_attention.cu", "attend", weights.defines)

    def attend(
        self,
        bucket: Bucket,
        descriptors: DeviceArray,
        layer: int,
        qkv: DeviceArray,
        heard: DeviceArray,
    ) -> None:
        """See WholeAttention."""
        weights = self._weights.layers[layer]
        grid = -(-bucket.frames // TILE), self._weights.config.num_heads, bucket.batch
        self._device.launch(
            self._kernel, grid, FUSED_THREADS,
            qkv, weights.positions, weights.bias_u, weights.bias_v, descriptors, heard,
            np.int32(bucket.frames), np.int32(self._weights.max_frames),
            shared_bytes=_fused_bytes(self._weights.config.head_width),
        )  # fmt: skip


def _fused_bytes(head_width: int) -> int:
    """Shared memory of a block of FusedAttention's kernel; its constants stand there."""
    key_rows, position_rows = TILE, 2 * TILE
    value_words = TILE // 2 * (head_width + 8)
    band_words = FUSED_THREADS // 32 * 16 * 88
    return 2 * (key_rows + position_rows) * head_width + 4 * (value_words + band_words)


@dataclass(frozen=True, slots=True)
class _Operand:
    """A matrix for each head of each utterance: where the first is, and the steps to others."""

    array: DeviceArray
    head: int
    utterance: int
    offset: int = 0

    def at(self, elements: int) -> DeviceArray:
        flat = self.array.reshape(self.array.size)
        return flat.rows(self.offset + elements, flat.size)


class ProductAttention:
    """By products: of queries and keys, of queries and positions, of weights and values.

    For buckets whose frames are multiples of 8, up to max_frames. It goes by groups of utterances,
    so that the scores of long ones stay bounded. q, k and v are read where the layer left them, in
    rows of 3 D: a product for each head or for each utterance, whichever are fewer, with the others
    as its batch.
    """

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        weights: EncoderWeights,
        buffers: LayerBuffers,
        max_frames: int,
    ) -> None:
        """Raises DeviceError."""
        config = weights.config
        self._device, self._gemms, self._weights = device, gemms, weights
        self._buffers = buffers
        self._heads, self._width, self._head_width = (
            config.num_heads, config.width, config.head_width,
        )  # fmt: skip
        max_rows = buffers.x.shape[0]
        one = self._score_elements(max_frames)
        size = min(max(SCORE_ELEMENTS, one), self._heads * 3 * max_rows * max_frames)
        self._scores = device.empty(max(one, size), weights.storage)
        self._biases = device.kernel("attention.cu", "add_position_biases", weights.defines)
        self._softmax = device.kernel("attention.cu", "softmax_scores", weights.defines)

    def attend(
        self,
        bucket: Bucket,
        descriptors: DeviceArray,
        layer: int,
        qkv: DeviceArray,
        heard: DeviceArray,
    ) -> None:
        """See WholeAttention. `heard` holds q + v until the end."""
        with_u = self._buffers.normed.first(bucket.rows, self._width)
        self._add_biases(layer, qkv, with_u, heard)
        max_batch = self._scores.size // self._score_elements(bucket.frames)
        for start, stop in bucket.groups(max_batch):
            group = Bucket(stop - start, bucket.frames)
            rows = (start * bucket.frames, stop * bucket.frames)
            parts = (array.rows(*rows) for array in (qkv, with_u, heard))
            self._attend_group(layer, group, descriptors.rows(start, stop), *parts)

    def _score_elements(self, num_frames: int) -> int:
        """Of one utterance: by key and by position."""
        return self._heads * 3 * num_frames**2

    def _add_biases(
        self, layer: int, qkv: DeviceArray, with_u: DeviceArray, with_v: DeviceArray
    ) -> None:
        weights, rows = self._weights.layers[layer], qkv.shape[0]
        self._device.launch(
            self._biases, -(-rows * self._width // (VECTOR * THREADS)), THREADS,
            qkv, weights.bias_u, weights.bias_v, with_u, with_v, np.int64(rows),
        )  # fmt: skip

    def _attend_group(
        self,
        layer: int,
        group: Bucket,
        descriptors: DeviceArray,
        qkv: DeviceArray,
        with_u: DeviceArray,
        heard: DeviceArray,
    ) -> None:
        """One group; `heard` comes with q + v in it."""
        n, width, e = group.frames, self._width, self._head_width
        rows = group.rows
        by_key = self._scores.first(self._heads, group.batch, n, n)
        by_position = self._scores.rows(by_key.size, self._scores.size)
        scores = _Operand(by_key, rows * n, n * n)
        self._each(
            group, Product(n, n, e, lda=width, ldw=3 * width),
            _Operand(with_u, e, n * width), _Operand(qkv, e, n * 3 * width, width), scores,
        )  # fmt: skip
        self._score_positions(layer, group, heard, by_position)
        self._device.launch(
            self._softmax, (-(-n // SOFTMAX_ROWS), group.batch, self._heads), SOFTMAX_THREADS,
            by_key, by_position, descriptors, np.int32(n),
        )  # fmt: skip
        self._each(
            group, Product(n, e, n, ldw=3 * width, ldc=width, w_is_kn=True),
            scores, _Operand(qkv, e, n * 3 * width, 2 * width), _Operand(heard, e, n * width),
        )  # fmt: skip

    def _score_positions(
        self, layer: int, group: Bucket, with_v: DeviceArray, out: DeviceArray
    ) -> None:
        """out (H, G, N, 2 N) = (q + v) p^T for relative positions N - 1 ... -N."""
        n, width, e = group.frames, self._width, self._head_width
        middle = self._weights.max_frames
        positions = self._weights.layers[layer].positions.rows(middle - n, middle + n)
        product = Product(
            group.rows, 2 * n, e, batch=self._heads, lda=width, ldw=width,
            stride_a=e, stride_w=e, stride_c=group.rows * 2 * n,
        )  # fmt: skip
        self._plan(product, with_v, positions, out)

    def _each(self, group: Bucket, product: Product, a: _Operand, w: _Operand, c: _Operand) -> None:
        """A product for each head of each utterance, in min(H, G) batches."""
        by_head = group.batch > self._heads
        count, batch = (self._heads, group.batch) if by_head else (group.batch, self._heads)
        operands = (a, w, c)
        steps = [x.head if by_head else x.utterance for x in operands]
        strides = [x.utterance if by_head else x.head for x in operands]
        product = replace(
            product, batch=batch, stride_a=strides[0], stride_w=strides[1], stride_c=strides[2]
        )
        for i in range(count):
            views = [x.at(i * step) for x, step in zip(operands, steps, strict=True)]
            self._plan(product, *views)

    def _plan(self, product: Product, a: DeviceArray, w: DeviceArray, c: DeviceArray) -> None:
        storage = self._weights.storage
        typed = replace(product, dtype=storage, out_dtype=storage)
        self._gemms.plan(typed).run(a, w, c)
