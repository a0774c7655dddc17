"""GpuEncoder: mel rows of whole utterances to what the token-and-duration decoder reads.

One graph for each bucket, (batch, frames): the utterances of a batch are padded to the bucket, and
masks keep the padding out of every real frame. encode() writes descriptors, launches and returns;
nothing waits. Utterances of a batch do not influence each other.

Knows slots and mel rows, no audio and no tokens; parakeet_*.py call it. Shapes: B batch rows, N
frames of 80 ms, J width for the joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from .descriptors import DescriptorRing, Row
from .device import Device, DeviceArray, Graph
from .encoder_attention import FusedAttention, ProductAttention, WholeAttention, is_fusable
from .encoder_layers import Bucket, LayerStack
from .encoder_subsampling import Subsampling
from .encoder_weights import VECTOR
from .gemm import Gemms

TILE_FRAMES, TILE_CHANNELS, THREADS = 32, 64, 256  # of a block of gate_depthwise


class Utterance(NamedTuple):
    """What to encode: mel rows [first_row, num_rows) of a slot, with zeros around them."""

    slot: int
    num_rows: int
    first_row: int = 0

    @property
    def num_frames(self) -> int:
        """How many frames of the answer are real."""
        return -(-(self.num_rows - self.first_row) // SUBSAMPLING_FACTOR)


def descriptor_rows(bucket: Bucket, utterances: Sequence[Utterance]) -> list[Row]:
    """What the device is told of them. Raises ValueError for what does not fit the bucket."""
    if len(utterances) > bucket.batch:
        raise ValueError(f"{len(utterances)} utterances in {bucket}")
    for utterance in utterances:
        if not 0 <= utterance.num_frames <= bucket.frames:
            raise ValueError(f"{utterance} in {bucket}")
    return [(u.slot, u.first_row, u.first_row, u.num_rows) for u in utterances]


class GpuEncoder:
    """Whole utterances, on layers and a subsampling that others may use too."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        layers: LayerStack,
        subsampling: Subsampling,
        max_batch: int,
        max_frames: int,
    ) -> None:
        """Raises ValueError for frames that the weights have no positions for, DeviceError."""
        if max_frames > layers.weights.max_frames:
            raise ValueError(f"{max_frames} frames, but positions for {layers.weights.max_frames}")
        self.max_batch, self.max_frames = max_batch, max_frames
        self._device, self._layers, self._subsampling = device, layers, subsampling
        self._ring = DescriptorRing(device, max_batch)
        weights = layers.weights
        self._attention: WholeAttention = (
            FusedAttention(device, weights)
            if is_fusable(weights)
            else ProductAttention(device, gemms, weights, layers.buffers, max_frames)
        )
        self._depthwise = device.kernel("layers.cu", "gate_depthwise", weights.defines)
        self._graphs: dict[Bucket, Graph] = {}

    def prepare(self, bucket: Bucket) -> None:
        """Record a bucket's graph. Raises ValueError for a bucket that can not be, DeviceError.

        It runs once before, with nobody in it: plans are made and the driver loads what is new to
        it, neither of which a recording may do.
        """
        if bucket in self._graphs:
            return
        self._check(bucket)
        self._ring.write((), bucket.batch)
        self._enqueue(bucket)
        with self._device.capture() as capture:
            self._enqueue(bucket)
        self._graphs[bucket] = capture.graph

    def encode(self, bucket: Bucket, utterances: Sequence[Utterance]) -> DeviceArray:
        """Enqueue at most B utterances of at most N frames each.

        Returns (B, N, J) float32, a buffer that the next encode() overwrites: frames beyond an
        utterance's own are of no meaning. Raises ValueError for what does not fit the bucket.
        """
        rows = descriptor_rows(bucket, utterances)
        self.prepare(bucket)
        self._ring.write(rows, bucket.batch)
        self._graphs[bucket].launch()
        width = self._layers.weights.config.decoder_width
        return self._layers.buffers.projected.first(bucket.batch, bucket.frames, width)

    def _enqueue(self, bucket: Bucket) -> None:
        """The encoder over a bucket, from descriptors to projected frames."""
        descriptors = self._ring.descriptors.rows(0, bucket.batch)
        self._subsampling.run(descriptors, bucket, self._layers.buffers)
        self._layers.run(
            bucket,
            partial(self._attention.attend, bucket, descriptors),
            partial(self._convolve, bucket, descriptors),
        )

    def _convolve(
        self,
        bucket: Bucket,
        descriptors: DeviceArray,
        layer: int,
        wide: DeviceArray,
        out: DeviceArray,
    ) -> None:
        """wide (B*N, 2 D) -> out (B*N, D): gate, depthwise, SiLU. See Convolution."""
        weights, width = self._layers.weights.layers[layer], self._layers.weights.config.width
        grid = -(-width // TILE_CHANNELS), -(-bucket.frames // TILE_FRAMES), bucket.batch
        self._device.launch(
            self._depthwise, grid, THREADS,
            wide, descriptors, weights.depthwise_weight, weights.depthwise_bias, out,
            np.int32(bucket.frames),
        )  # fmt: skip

    def _check(self, bucket: Bucket) -> None:
        if not 1 <= bucket.batch <= self.max_batch:
            raise ValueError(f"{bucket}: a batch has 1 to {self.max_batch} rows")
        if not VECTOR <= bucket.frames <= self.max_frames or bucket.frames % VECTOR:
            raise ValueError(
                f"{bucket}: frames are a multiple of {VECTOR}, up to {self.max_frames}"
            )
        if bucket.rows > self._layers.max_rows:
            raise ValueError(f"{bucket} has more than {self._layers.max_rows} rows")
