"""The upload ring: what was published is what is read, however far the host is ahead."""

from __future__ import annotations

import numpy as np

from gpu_service.gpu.device import Device
from gpu_service.gpu.upload_ring import NUM_BLOCKS, UploadRing


def test_every_table_is_read_before_the_next(device: Device) -> None:
    ring = UploadRing(device, (2, 3), np.int32)
    address, kept = ring.array.address, []
    for turn in range(3 * NUM_BLOCKS):
        ring.block()[:] = turn
        ring.publish()
        copy = device.empty((2, 3), np.int32)
        device.copy(copy, ring.array)
        kept.append(copy)
    for turn, copy in enumerate(kept):
        assert (device.download(copy) == turn).all()
    assert ring.array.address == address


def test_it_begins_with_zeros(device: Device) -> None:
    ring = UploadRing(device, (4,), np.int64)
    assert (device.download(ring.array) == 0).all()
