"""Encoders on a device as the gate sees them: features in, frames and times out.

DeviceBackend drives any encoder with the interface of encoder.py, over a store whose rows are set
rather than computed. `earwire build` examines what it has made by it (builder/backends.py), and a
service that finds its engine on another GPU does so again (parakeet_open.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..builder.manifest import EncoderKind
from ..weights.parakeet_config import NUM_MELS, SUBSAMPLING_FACTOR
from ..weights.parakeet_weights import ParakeetWeights
from .device import Device, DeviceArray
from .encoder import GpuEncoder, Utterance
from .encoder_layers import Bucket, LayerStack
from .encoder_subsampling import MelStore, Subsampling
from .encoder_weights import Precision, load_encoder
from .gemm import Gemms
from .trt import TensorRtEncoder

NUM_SLOTS = 8  # different utterances of one batch

Array = NDArray[np.float32]


class Encoder(Protocol):
    """What GpuEncoder and TensorRtEncoder have in common."""

    def encode(self, bucket: Bucket, utterances: Sequence[Utterance]) -> DeviceArray: ...


class FixedStore:
    """A MelStore for the gate alone."""

    def __init__(self, device: Device, max_frames: int) -> None:
        """For utterances of up to so many encoder frames. Raises DeviceMemoryError."""
        max_rows = SUBSAMPLING_FACTOR * max_frames
        self.mel = device.zeros((NUM_SLOTS, max_rows, NUM_MELS), np.float32)
        self.mean = device.zeros((NUM_SLOTS, NUM_MELS), np.float32)
        self.scale = device.zeros((NUM_SLOTS, NUM_MELS), np.float32)


class FeatureWriter:
    """Puts features into the first slots of a store, as rows that are normalised already.

    The store may be a service's own, as long as no slot of it is in use.
    """

    def __init__(self, device: Device, store: MelStore) -> None:
        self._device, self._store = device, store
        self._zeros = device.zeros(NUM_MELS, np.float32)
        self._ones = device.upload(np.ones(NUM_MELS, np.float32))

    def put(self, features: Sequence[Array]) -> list[Utterance]:
        """Each (T, F) into a slot; equal objects share one. Raises ValueError for too many."""
        slots: dict[int, Utterance] = {}
        for each in features:
            if id(each) not in slots:
                slots[id(each)] = self._put(len(slots), each)
        return [slots[id(each)] for each in features]

    def _put(self, slot: int, features: Array) -> Utterance:
        num_slots, max_rows, _ = self._store.mel.shape
        if slot == num_slots or len(features) > max_rows:
            raise ValueError(f"{num_slots} slots of {max_rows} rows are too few")
        source = self._device.upload(features)
        self._device.copy(self._store.mel.at(slot).rows(0, len(features)), source)
        self._device.copy(self._store.mean.at(slot), self._zeros)
        self._device.copy(self._store.scale.at(slot), self._ones)
        self._device.synchronize()  # before `source` is freed
        return Utterance(slot, len(features))


class DeviceBackend:
    """See Backend."""

    def __init__(
        self,
        name: EncoderKind,
        device: Device,
        store: MelStore,
        encoder: Encoder,
        buckets: Sequence[Bucket],
    ) -> None:
        """`store`: the one that the encoder reads."""
        self.name = name
        self.buckets = tuple(buckets)
        self._device, self._encoder = device, encoder
        self._writer = FeatureWriter(device, store)

    def encode(self, bucket: Bucket, features: Sequence[Array]) -> Array:
        """See Backend.encode."""
        frames = self._encoder.encode(bucket, self._writer.put(features))
        answer: Array = self._device.download(frames)
        return answer

    def time_ms(self, bucket: Bucket, features: Sequence[Array], num_runs: int) -> float:
        """See Backend.time_ms. The first run is not counted."""
        utterances = self._writer.put(features)
        times = []
        for _ in range(num_runs + 1):
            start = self._device.record()
            self._encoder.encode(bucket, utterances)
            end = self._device.record()
            self._device.wait(end)
            times.append(self._device.elapsed_ms(start, end))
        return statistics.median(times[1:])

    def is_graph(self, bucket: Bucket) -> bool:
        """See Backend.is_graph."""
        if isinstance(self._encoder, TensorRtEncoder):
            return self._encoder.is_captured(bucket)
        return True


def cublas_backend(
    device: Device,
    gemms: Gemms,
    weights: ParakeetWeights,
    precision: Precision,
    buckets: Sequence[Bucket],
) -> DeviceBackend:
    """The encoder of our own kernels, for some buckets. Raises DeviceError."""
    max_batch = max(bucket.batch for bucket in buckets)
    max_frames = max(bucket.frames for bucket in buckets)
    max_rows = max(bucket.rows for bucket in buckets)
    store = FixedStore(device, max_frames)
    on_device = load_encoder(device, weights, precision)
    layers = LayerStack(device, gemms, on_device, max_rows)
    subsampling = Subsampling(device, gemms, on_device, store, max_rows, max_frames)
    encoder = GpuEncoder(device, gemms, layers, subsampling, max_batch, max_frames)
    return DeviceBackend("cublas", device, store, encoder, buckets)
