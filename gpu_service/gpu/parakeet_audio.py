"""HostAudio: where the device reads new samples from.

Samples in memory that was registered, the arenas of the gateway's workers, are read where they lie.
Others go through page-locked memory. Knows addresses and slots; the feature store reads.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from .device import Device, DeviceError, Event
from .slot_audio import NewAudio, SlotAudio

log = logging.getLogger("earwire.service")

Samples = NDArray[np.int16]
SAMPLE_BYTES = 2
DENSE = (SAMPLE_BYTES,)  # strides


class HostAudio:
    """Collects what a step brings; send() gives it to the store."""

    def __init__(self, device: Device, store: SlotAudio, staging_samples: int) -> None:
        """Raises DeviceError."""
        self._device = device
        self._store = store
        self._staging = device.pinned(staging_samples, np.int16)
        self._num_staged = 0
        self._arenas: list[tuple[int, int, int]] = []  # begin, end on the host; on the device
        self._new: list[NewAudio] = []

    def register(self, buffer: memoryview) -> None:
        """Let the device read there. Where it can not, samples go the other way."""
        try:
            address = self._device.register(buffer)
        except DeviceError as error:
            if error.is_sticky:
                raise
            log.warning("the device can not read the audio in place: %s", error)
            return
        begin = _address(np.frombuffer(buffer, np.uint8))
        self._arenas.append((begin, begin + buffer.nbytes, address))

    def unregister(self, buffer: memoryview) -> None:
        """No step that reads there is under way."""
        begin = _address(np.frombuffer(buffer, np.uint8))
        kept = [arena for arena in self._arenas if arena[0] != begin]
        if len(kept) < len(self._arenas):
            self._device.unregister(buffer)
        self._arenas = kept

    def begin(self) -> None:
        """A step begins, and the one before it was waited for: what it had staged was read."""
        self._num_staged = 0

    def add(self, slot: int, samples: Samples) -> None:
        """The next samples of a slot, at least one. They stay as they are until the step's end."""
        address = _address(samples)
        address_end = address + samples.nbytes if samples.strides == DENSE else -1
        for begin, end, on_device in self._arenas:
            if begin <= address < address_end <= end:
                self._new.append(NewAudio(slot, [(on_device + address - begin, len(samples))]))
                return
        self._stage(slot, samples)

    def send(self) -> None:
        """Enqueue what was added since."""
        if self._new:
            self._store.append(self._new)
            self._new = []

    def _stage(self, slot: int, samples: Samples) -> None:
        capacity = len(self._staging.array)
        while len(samples):
            if self._num_staged == capacity:
                self._drain()
            start = self._num_staged
            piece, samples = samples[: capacity - start], samples[capacity - start :]
            self._num_staged += len(piece)
            self._staging.array[start : self._num_staged] = piece
            address = self._staging.address + SAMPLE_BYTES * start
            self._new.append(NewAudio(slot, [(address, len(piece))]))

    def _drain(self) -> None:
        """Wait until everything staged was read: a step brought more than is usual."""
        self.send()
        event: Event = self._device.record()
        self._device.wait(event)
        self._num_staged = 0


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
