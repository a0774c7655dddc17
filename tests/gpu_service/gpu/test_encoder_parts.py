"""Parts of the GPU encoder that the encoder of increments uses in its own way."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.gpu.descriptors import DescriptorRing
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_layers import Bucket, LayerStack
from gpu_service.gpu.encoder_subsampling import Subsampling
from gpu_service.gpu.encoder_weights import Precision, load_encoder
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.upload_ring import NUM_BLOCKS
from tests.gpu_service.cpu.parakeet_random import random_features

from . import emulator
from .encoder_rig import MAX_FRAMES, MAX_ROWS, NARROW, Store, prepared

WIDTH = NARROW.width


def make_layers(device: Device, gemms: Gemms, precision: Precision = "fp32") -> LayerStack:
    return LayerStack(device, gemms, load_encoder(device, prepared(), precision), MAX_ROWS)


def test_increments_continue_the_rows_before_them(device: Device, gemms: Gemms) -> None:
    """A frame of an increment that has its 7 rows of look-ahead is the utterance's own frame."""
    features = random_features(200)
    layers = make_layers(device, gemms)
    store = Store.of(device, [features])
    subsampling = Subsampling(device, gemms, layers.weights, store, MAX_ROWS, MAX_FRAMES)

    def frames(bucket: Bucket, rows: list[tuple[int, int, int, int]]) -> NDArray[np.float32]:
        descriptors = device.upload(np.array(rows, np.int32))
        subsampling.run(descriptors, bucket, layers.buffers)
        return device.download(layers.buffers.x.first(bucket.batch, bucket.frames, WIDTH))

    whole = frames(Bucket(1, 25), [(1, 0, 0, 200)])[0]
    starts = [0, 1, 5, 17, 22]
    parts = frames(Bucket(5, 3), [(1, 8 * start, 0, 200) for start in starts])
    for start, part in zip(starts, parts, strict=True):
        np.testing.assert_array_equal(part, whole[start : start + 3])
    (ended,) = frames(Bucket(1, 3), [(1, 40, 0, 57)])
    (alone,) = frames(Bucket(1, 8), [(1, 0, 0, 57)])
    np.testing.assert_array_equal(ended, alone[5:8])


def test_too_many_rows_are_refused(device: Device, gemms: Gemms) -> None:
    layers = make_layers(device, gemms)
    with pytest.raises(ValueError, match=f"more than {MAX_ROWS} rows"):
        layers.run(Bucket(1, MAX_ROWS + 1), _never, _never)
    subsampling = Subsampling(
        device, gemms, layers.weights, Store.of(device, [random_features(8)]), 8, 2
    )
    descriptors = device.zeros((2, 4), np.int32)
    with pytest.raises(ValueError, match="more frames than there is room for"):
        subsampling.run(descriptors, Bucket(1, 24), layers.buffers)


def test_descriptors_survive_until_they_are_copied() -> None:
    if reason := emulator.why_unavailable():
        pytest.skip(reason)
    device = emulator.EmulatedDevice(deferred=True)
    ring = DescriptorRing(device, 3)
    kept = []
    for turn in range(NUM_BLOCKS + 5):
        ring.write([(turn, 1, 2, 3)], batch=2)
        copy = device.empty((2, 4), np.int32)
        device.copy(copy, ring.descriptors.rows(0, 2))
        kept.append(copy)
    for turn, copy in enumerate(kept):
        assert device.download(copy).tolist() == [[turn, 1, 2, 3], [0, 0, 0, 0]]


def _never(*_: object) -> None:
    raise AssertionError("not called")
