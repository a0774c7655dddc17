"""LayerStack: FastConformer's layers over (B, N) frames, whatever their attention is.

Products by cuBLASLt and elementwise kernels (kernels/layers.cu) between them. Residuals are added
by the products themselves. Attention and the convolution in time are called: the encoder of whole
utterances and the one of increments each bring their own. All of it is launches and products on
buffers that are made once, so it can be captured.

Knows layers, no audio and no lengths. Shapes: B batch rows of N frames one behind the other, D
width, FFN, C channels of the subsampling, J width of the projected output; T is the storage type.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from .device import Device, DeviceArray
from .encoder_weights import VECTOR, EncoderWeights, FeedForward, Layer, Norm
from .gemm import Gemms, Product

SOURCE = "layers.cu"
NORM_THREADS = 128
NORM_ROWS = NORM_THREADS // 32  # a warp a row
THREADS = 256
FLOAT = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sizes of one graph."""

    batch: int  # B
    frames: int  # N

    @property
    def rows(self) -> int:
        """B * N."""
        return self.batch * self.frames

    def groups(self, max_batch: int) -> list[tuple[int, int]]:
        """Batch rows [start, stop) in groups of at most `max_batch`, of nearly the same size."""
        count = -(-self.batch // max_batch)
        return list(pairwise(self.batch * i // count for i in range(count + 1)))


class Attention(Protocol):
    """Attends: qkv (B*N, 3 D) T -> heard (B*N, D) T. May use buffers.normed too."""

    def __call__(self, layer: int, qkv: DeviceArray, heard: DeviceArray) -> None: ...


class Convolution(Protocol):
    """Gates and convolves: wide (B*N, 2 D) T -> out (B*N, D) T. May use buffers.normed too."""

    def __call__(self, layer: int, wide: DeviceArray, out: DeviceArray) -> None: ...


@dataclass(frozen=True, slots=True)
class LayerBuffers:
    """Of R rows, the most there may be. Every bucket uses their beginnings."""

    x: DeviceArray  # (R, D) T: the residual stream
    normed: DeviceArray  # (R, D) T: what the products read
    hidden: DeviceArray  # (R, widest) T, flat: inside of a layer; widest is FFN, 3 D or 16 C
    heard: DeviceArray  # (R, D) T: what attention and convolution say
    projected: DeviceArray  # (R, J) float32

    @classmethod
    def make(cls, device: Device, weights: EncoderWeights, max_rows: int) -> LayerBuffers:
        """Raises DeviceMemoryError."""
        config, storage = weights.config, weights.storage
        widest = max(config.ffn_width, 3 * config.width, config.subsampled_width)
        rows = (max_rows, config.width)
        return cls(
            x=device.empty(rows, storage),
            normed=device.empty(rows, storage),
            hidden=device.empty((max_rows, widest), storage),
            heard=device.empty(rows, storage),
            projected=device.empty((max_rows, config.decoder_width), FLOAT),
        )


class LayerStack:
    """The layers and the projector, for buckets of at most `max_rows` rows.

    The feed forward takes all rows at once. In groups small enough for what is between its two
    products to stay in the L2 cache it was slower on an H100 (128 x 200 rows: 698 us a layer whole,
    708 to 797 in groups of 3,200 to 12,800).
    """

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        weights: EncoderWeights,
        max_rows: int,
    ) -> None:
        """Raises DeviceError."""
        self.weights = weights
        self.max_rows = max_rows
        self.buffers = LayerBuffers.make(device, weights, max_rows)
        self._device, self._gemms = device, gemms
        names = ("normalise", "normalise_twice", "silu")
        self._kernels = {name: device.kernel(SOURCE, name, weights.defines) for name in names}

    def run(self, bucket: Bucket, attention: Attention, convolution: Convolution) -> DeviceArray:
        """Enqueue everything from buffers.x to buffers.projected; returns that as (B, N, J).

        Raises ValueError for more than max_rows.
        """
        rows = bucket.rows
        if rows > self.max_rows:
            raise ValueError(f"{bucket} has more than {self.max_rows} rows")
        layers = self.weights.layers
        self._normalise(layers[0].feed_forward1.norm, rows)
        for index, layer in enumerate(layers):
            self._feed_forward(layer.feed_forward1, rows)
            self._attend(index, attention, rows)
            self._convolve(index, convolution, rows)
            self._normalise(layer.feed_forward2.norm, rows)
            self._feed_forward(layer.feed_forward2, rows)
            self._end(layer, layers[index + 1] if index + 1 < len(layers) else None, rows)
        return self._project(bucket)

    def _normalise(self, norm: Norm, rows: int) -> None:
        """normed = norm of x."""
        self._device.launch(
            self._kernels["normalise"], -(-rows // NORM_ROWS), NORM_THREADS,
            self.buffers.x, norm.weight, norm.bias, self.buffers.normed, np.int32(rows),
        )  # fmt: skip

    def _end(self, layer: Layer, following: Layer | None, rows: int) -> None:
        """x = norm_out of x, and normed = the next layer's first norm of that."""
        if following is None:
            self._normalise(layer.norm_out, rows)
            return
        norm, following_norm = layer.norm_out, following.feed_forward1.norm
        self._device.launch(
            self._kernels["normalise_twice"], -(-rows // NORM_ROWS), NORM_THREADS,
            self.buffers.x, norm.weight, norm.bias, following_norm.weight, following_norm.bias,
            self.buffers.normed, np.int32(rows),
        )  # fmt: skip

    def _feed_forward(self, weights: FeedForward, rows: int) -> None:
        """x += SiLU(normed linear1^T) linear2^T."""
        hidden = self.buffers.hidden.first(rows, self.weights.config.ffn_width)
        self._linear(self.buffers.normed, weights.linear1, hidden)
        self._silu(hidden)
        self._add_linear(hidden, weights.linear2, self.buffers.x)

    def _silu(self, hidden: DeviceArray) -> None:
        """In place."""
        self._device.launch(
            self._kernels["silu"], -(-hidden.size // (VECTOR * THREADS)), THREADS,
            hidden, np.int64(hidden.size),
        )  # fmt: skip

    def _attend(self, index: int, attention: Attention, rows: int) -> None:
        """x += attention(norm of x) o_proj^T."""
        layer, width = self.weights.layers[index], self.weights.config.width
        self._normalise(layer.norm_self_att, rows)
        qkv = self.buffers.hidden.first(rows, 3 * width)
        heard = self.buffers.heard.first(rows, width)
        self._linear(self.buffers.normed, layer.qkv, qkv)
        attention(index, qkv, heard)
        self._add_linear(heard, layer.o_proj, self.buffers.x)

    def _convolve(self, index: int, convolution: Convolution, rows: int) -> None:
        """x += convolution(norm of x pointwise1^T) pointwise2^T."""
        layer, width = self.weights.layers[index], self.weights.config.width
        self._normalise(layer.norm_conv, rows)
        wide = self.buffers.hidden.first(rows, 2 * width)
        out = self.buffers.heard.first(rows, width)
        self._linear(self.buffers.normed, layer.pointwise1, wide)
        convolution(index, wide, out)
        self._add_linear(out, layer.pointwise2, self.buffers.x)

    def _linear(self, a: DeviceArray, weight: DeviceArray, out: DeviceArray) -> None:
        """out (rows, n) = a weight^T."""
        n, k = weight.shape
        storage = self.weights.storage
        product = Product(out.shape[0], n, k, dtype=storage, out_dtype=storage)
        self._gemms.plan(product).run(a, weight, out)

    def _add_linear(self, a: DeviceArray, weight: DeviceArray, x: DeviceArray) -> None:
        """x += a (rows, k) weight^T."""
        n, k = weight.shape
        storage = self.weights.storage
        product = Product(a.shape[0], n, k, dtype=storage, out_dtype=storage, accumulate=True)
        self._gemms.plan(product).run(a, weight, x)

    def _project(self, bucket: Bucket) -> DeviceArray:
        """projected = normed projector^T + bias, in float32."""
        projector = self.weights.projector
        n, k = projector.weight.shape
        product = Product(
            bucket.rows, n, k, dtype=self.weights.storage, out_dtype="float32", bias=True
        )
        projected = self.buffers.projected.first(bucket.batch, bucket.frames, n)
        plan = self._gemms.plan(product)
        plan.run(self.buffers.normed, projector.weight, projected, projector.bias)
        return projected
