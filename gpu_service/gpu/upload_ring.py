"""UploadRing: an array on the device that the host writes again and again, without waiting.

The device has it at one address, so graphs may bake that. The host writes into page-locked blocks,
a new one each time, and enqueues a copy; only when all blocks are under way does it wait for the
oldest ones, a quarter of them at a time. Knows nothing of what the array says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .device import Device, DeviceArray, Event, PinnedArray

NUM_BLOCKS = 64  # copies under way at most
NUM_EVENTS = 4  # an event costs the host more than what it guards
BLOCKS_PER_EVENT = NUM_BLOCKS // NUM_EVENTS


class UploadRing:
    """The array, and the blocks that its next contents are written in."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Raises DeviceError."""
        self.array: DeviceArray = device.zeros(shape, dtype)
        self._device = device
        self._blocks: PinnedArray = device.pinned((NUM_BLOCKS, *shape), dtype)
        self._sources = [self._blocks.at(index) for index in range(NUM_BLOCKS)]
        self._copied: list[Event | None] = [None] * NUM_EVENTS  # behind the last of some blocks
        self._next = 0

    def block(self) -> NDArray[Any]:
        """What to write before publish(). It holds what it held NUM_BLOCKS turns ago."""
        which, place = divmod(self._next, BLOCKS_PER_EVENT)
        copied = self._copied[which]
        if place == 0 and copied is not None:
            self._device.wait(copied)
        block: NDArray[np.generic] = self._blocks.array[self._next]
        return block

    def publish(self) -> None:
        """Enqueue the copy of the block into `array`."""
        self._device.copy(self.array, self._sources[self._next])
        which, place = divmod(self._next, BLOCKS_PER_EVENT)
        if place == BLOCKS_PER_EVENT - 1:
            self._copied[which] = self._device.record()
        self._next = (self._next + 1) % NUM_BLOCKS
