"""Subsampling: raw log-mel rows of the feature store to frames of 80 ms in the residual stream.

Three convolutions with stride 2 in their own kernels (kernels/subsampling.cu), products between
them. It normalises on reading, with the store's statistics of now. A batch is done in groups of
batch rows, so that what lies between the kernels stays bounded.

Knows descriptors and mel rows, no audio. Shapes: B batch rows of N frames, C channels, D width, S
slots of R mel rows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .device import Device, DeviceArray
from .encoder_layers import Bucket, LayerBuffers
from .encoder_weights import NUM_BANDS, EncoderWeights, Linear
from .gemm import Gemms, Product

SOURCE = "subsampling.cu"
THREADS = 128  # a pair of channels each
GROUP_FRAMES = 8192  # of one group at full size: two buffers of 268 MB in half
WIDE_BANDS = 2 * NUM_BANDS  # behind the second convolution


class MelStore(Protocol):
    """Where mel rows lie. See FeatureStore."""

    mel: DeviceArray  # (S, R, 128) float32, not normalised
    mean: DeviceArray  # (S, 128) float32
    scale: DeviceArray  # (S, 128) float32


class Subsampling:
    """For buckets of at most `max_rows` rows, none with more than `max_frames` frames.

    Descriptors (B, 4) int32: {slot, first_row, begin_row, end_row}. Frame f of a batch row is
    centred on mel row first_row + 8 f, and depends on the 7 rows before and behind; rows outside of
    [begin_row, end_row) are zeros. Frames with first_row + 8 f >= end_row are not real. So a whole
    utterance is {slot, 0, 0, num_rows}, an increment {slot, 8 * next_frame, 0, num_rows}, and
    {0, 0, 0, 0} is nobody.
    """

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        weights: EncoderWeights,
        store: MelStore,
        max_rows: int,
        max_frames: int,
    ) -> None:
        """Raises DeviceError."""
        self._device, self._gemms, self._weights, self._store = device, gemms, weights, store
        self._channels = weights.config.subsampling_channels
        longest = max(1, min(max_frames, max_rows))
        # A bucket of single frames has three rows for each.
        most = max(_wide_rows(longest), min(2 * GROUP_FRAMES, 3 * max_rows))
        self._max_wide_rows = most
        size = most * WIDE_BANDS * self._channels
        self._convolved = device.empty(size, weights.storage)
        self._mixed = device.empty(size, weights.storage)
        self._first = device.kernel(SOURCE, "subsample_first", weights.defines)
        self._second = device.kernel(SOURCE, "subsample_second", weights.defines)

    def run(self, descriptors: DeviceArray, bucket: Bucket, buffers: LayerBuffers) -> None:
        """Enqueue everything from the store to buffers.x (B*N, D). Raises ValueError."""
        flat = buffers.hidden.first(bucket.rows, NUM_BANDS * self._channels)
        max_batch = self._max_wide_rows // _wide_rows(bucket.frames)
        if max_batch == 0:
            raise ValueError(f"{bucket} has more frames than there is room for")
        for start, stop in bucket.groups(max_batch):
            group = Bucket(stop - start, bucket.frames)
            frames = flat.rows(start * bucket.frames, stop * bucket.frames)
            self._convolve(descriptors.rows(start, stop), group, frames)
        self._product(
            self._weights.subsampling.linear, flat, buffers.x, bucket.rows,
            out_dtype=self._weights.storage, relu=False,
        )  # fmt: skip

    def _convolve(self, descriptors: DeviceArray, group: Bucket, flat: DeviceArray) -> None:
        """Everything before the linear layer -> flat (B*N, 16 C)."""
        weights, storage = self._weights.subsampling, self._weights.storage
        num_rows = group.batch * _wide_rows(group.frames) * WIDE_BANDS
        self._run_first(descriptors, group)
        self._product(weights.mix2, self._convolved, self._mixed, num_rows, storage)
        self._run_second(descriptors, group)
        num_rows = group.rows * NUM_BANDS
        self._product(weights.mix3, self._convolved, flat, num_rows, storage)

    def _run_first(self, descriptors: DeviceArray, group: Bucket) -> None:
        """Mel rows -> convolved (B, 2 N + 1, 32, C)."""
        store, weights = self._store, self._weights.subsampling
        self._device.launch(
            self._first, (_wide_rows(group.frames), group.batch, self._blocks), THREADS,
            store.mel, store.mean, store.scale, descriptors,
            weights.first.weight, weights.first.bias, weights.second.weight, weights.second.bias,
            self._convolved, np.int32(store.mel.shape[1]),
        )  # fmt: skip

    def _run_second(self, descriptors: DeviceArray, group: Bucket) -> None:
        """Mixed (B, 2 N + 1, 32, C) -> convolved (B, N, 16, C)."""
        third = self._weights.subsampling.third
        self._device.launch(
            self._second, (group.frames, group.batch, self._blocks), THREADS,
            self._mixed, descriptors, third.weight, third.bias, self._convolved,
        )  # fmt: skip

    @property
    def _blocks(self) -> int:
        """Of channels."""
        return -(-self._channels // (2 * THREADS))

    def _product(
        self,
        linear: Linear,
        a: DeviceArray,
        out: DeviceArray,
        num_rows: int,
        out_dtype: str,
        *,
        relu: bool = True,
    ) -> None:
        n, k = linear.weight.shape
        product = Product(
            num_rows, n, k,
            dtype=self._weights.storage, out_dtype=out_dtype, bias=True, relu=relu,
        )  # fmt: skip
        self._gemms.plan(product).run(a, linear.weight, out, linear.bias)


def _wide_rows(num_frames: int) -> int:
    """Rows of a batch row behind the second convolution: one more before the first frame."""
    return 2 * num_frames + 1
