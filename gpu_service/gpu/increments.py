"""IncrementEncoder: the new frames of many sessions at once, with what is cached of those before.

A step encodes the frames from the first one that is not committed up to the last mel row, for a
batch of sessions, and commits the first num_commit of them: their keys, values and convolution rows
go into the slot's caches, and they are never encoded again. The others are look-ahead and leave
nothing behind. It is gpu_service/cpu/parakeet_encoder.py, encode_chunks(), on the device; only that
the rows before an increment are normalised with the statistics of now, as the new ones are.

A session's result depends on its own rows and caches, and on the bucket by way of the products; not
on the sessions beside it. One graph for each bucket; nothing waits.

Knows frames and slots, no audio and no tokens. Shapes: B sessions of N frames of 80 ms, L cached
frames, J width for the joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from .device import Device, DeviceArray, Graph
from .encoder_layers import Bucket, LayerStack
from .encoder_subsampling import Subsampling
from .increment_attention import IncrementCaches, IncrementLayer
from .upload_ring import UploadRing

DESCRIPTOR_FIELDS = 4

Table = NDArray[np.int32]  # (n, 4): rows of an Increment's fields


class Increment(NamedTuple):
    """What to encode of one session."""

    slot: int  # of the feature store and of the caches
    next_frame: int  # committed so far
    num_rows_end: int  # mel rows up to here: all of the slot's, or fewer
    num_commit: int  # whole frames

    @property
    def num_frames(self) -> int:
        """N of this session: the last one may be a part."""
        return -(-self.num_rows_end // SUBSAMPLING_FACTOR) - self.next_frame


NOBODY: Table = np.zeros((0, len(Increment._fields)), np.int32)


class IncrementEncoder:
    """Increments, on layers and a subsampling that others may use too."""

    def __init__(
        self,
        device: Device,
        layers: LayerStack,
        subsampling: Subsampling,
        num_slots: int,
        left_frames: int,
        max_batch: int,
    ) -> None:
        """Caches for `num_slots`, of `left_frames` each. Raises ValueError, DeviceError."""
        if not 1 <= left_frames < layers.weights.max_frames:
            raise ValueError(
                f"{left_frames} cached frames, and room for {layers.weights.max_frames} in all"
            )
        self.left_frames, self.max_batch = left_frames, max_batch
        self.caches = IncrementCaches.make(device, layers.weights, num_slots, left_frames)
        self._device, self._layers, self._subsampling = device, layers, subsampling
        # Descriptors of the subsampling, and steps (increments.cu).
        self._descriptors = UploadRing(device, (2, max_batch, DESCRIPTOR_FIELDS), np.int32)
        self._layer = IncrementLayer(
            device, layers.weights, self.caches, self._descriptors.array.at(1)
        )
        self._graphs: dict[Bucket, tuple[Graph, DeviceArray]] = {}

    def prepare(self, bucket: Bucket) -> None:
        """Record a bucket's graph. Raises ValueError for a bucket that can not be, DeviceError.

        It runs once before, with nobody in it: plans are made and the driver loads what is new to
        it, neither of which a recording may do.
        """
        if bucket in self._graphs:
            return
        self._check(bucket)
        self._describe(NOBODY)
        self._enqueue(bucket)
        with self._device.capture() as capture:
            projected = self._enqueue(bucket)
        self._graphs[bucket] = capture.graph, projected

    def encode(self, bucket: Bucket, increments: Sequence[Increment]) -> DeviceArray:
        """Enqueue the increments of at most B different slots, of at most N frames each.

        Returns (B, N, J) float32, a buffer that the next encode() overwrites: of each session, the
        frames from next_frame on. The last one is as if the utterance ended there, and so are those
        before it as far as they look ahead. Raises ValueError, and then nothing has changed.
        """
        if len(increments) > bucket.batch:
            raise ValueError(f"{len(increments)} increments in {bucket}")
        table = np.array(increments, np.int32).reshape(-1, len(Increment._fields))
        _check_fit(table, bucket)
        self.prepare(bucket)
        self._describe(table)
        graph, projected = self._graphs[bucket]
        graph.launch()
        return projected

    def _describe(self, table: Table) -> None:
        """Enqueue who is in the batch, rows of an Increment's fields; the rest of it is nobody."""
        slot, next_frame, num_rows_end, num_commit = table.T
        first_row, num_frames = _extents(table)
        block, count = self._descriptors.block(), len(table)
        block[:] = 0
        block[0, :count] = np.stack([slot, first_row, 0 * slot, num_rows_end], axis=1)
        block[1, :count] = np.stack([slot, next_frame, num_frames, num_commit], axis=1)
        self._descriptors.publish()

    def _enqueue(self, bucket: Bucket) -> DeviceArray:
        """The encoder over a bucket, from descriptors to projected frames."""
        rows = self._descriptors.array.at(0).rows(0, bucket.batch)
        self._subsampling.run(rows, bucket, self._layers.buffers)
        return self._layers.run(
            bucket,
            partial(self._layer.attend, bucket),
            partial(self._layer.convolve, bucket),
        )

    def _check(self, bucket: Bucket) -> None:
        max_frames = self._layers.weights.max_frames - self.left_frames
        if not 1 <= bucket.batch <= self.max_batch:
            raise ValueError(f"{bucket}: a batch has 1 to {self.max_batch} sessions")
        if not 1 <= bucket.frames <= max_frames:
            raise ValueError(f"{bucket}: {self.left_frames} cached frames leave {max_frames}")


def _extents(table: Table) -> tuple[Table, Table]:
    """(n,) each: the first new mel row, and how many frames are real."""
    _, next_frame, num_rows_end, _ = table.T
    return SUBSAMPLING_FACTOR * next_frame, -(-num_rows_end // SUBSAMPLING_FACTOR) - next_frame


def _check_fit(table: Table, bucket: Bucket) -> None:
    """Raises ValueError for what can not be committed, and for more frames than the bucket's."""
    _, _, num_rows_end, num_commit = table.T
    first_row, num_frames = _extents(table)
    num_rows = num_rows_end - first_row
    is_wrong = (num_commit < 0) | (SUBSAMPLING_FACTOR * num_commit > num_rows)
    if is_wrong.any():
        index = int(is_wrong.argmax())
        raise ValueError(f"{num_commit[index]} frames of {num_rows[index]} mel rows")
    if (num_frames > bucket.frames).any():
        raise ValueError(f"{num_frames.max()} frames in {bucket}")
