"""DescriptorRing: what the host says about a batch of utterances, on its way to the device.

Four integers for each batch row; encoder_subsampling.py says what they mean. Graphs read them from
one array, and the host writes the next ones without waiting (UploadRing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .device import Device, DeviceArray
from .upload_ring import UploadRing

NOBODY = (0, 0, 0, 0)

Row = tuple[int, int, int, int]


class DescriptorRing:
    """For batches of at most `max_batch` rows."""

    def __init__(self, device: Device, max_batch: int) -> None:
        """Raises DeviceError."""
        self._ring = UploadRing(device, (max_batch, 4), np.int32)

    @property
    def descriptors(self) -> DeviceArray:
        """(max_batch, 4) int32: what write() said last, for what is enqueued behind it."""
        return self._ring.array

    def write(self, rows: Sequence[Row], batch: int) -> None:
        """Enqueue `rows` as the first of `batch` descriptors; the rest of them is nobody."""
        block = self._ring.block()
        block[:batch] = NOBODY
        if rows:
            block[: len(rows)] = rows
        self._ring.publish()
