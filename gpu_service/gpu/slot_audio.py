"""SlotAudio: each slot's audio on the device, brought there piece by piece.

append() brings new samples of any number of slots from the host's memory, which the device reads by
itself, and has a kind of features computed of them: those of features.py for Parakeet, those of
whisper_features.py for Whisper. It waits for nothing. A row of features comes each 10 ms; in both,
the window of row i is 400 samples centred on sample 160 i.

Knows samples, pieces and numbers of rows, and no arithmetic. Kernel: gather_audio in
kernels/features.cu. Shapes: S slots, n samples at 16 kHz.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .device import Device, DeviceArray
from .upload_ring import UploadRing

SOURCE = "features.cu"
HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
UNCERTAIN_SAMPLES = WINDOW_SAMPLES // 2 - HOP_SAMPLES  # a row's window reaches so far beyond it
# As in the source.
GATHER_THREADS = 256
TILE_SAMPLES = 4096
MAX_HEAD_SAMPLES = 7  # of a segment's first 16 bytes that may not be its own
DESCRIPTOR_FIELDS = 5  # int64: (address, target, count) of a segment; five of a slot with new audio

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NewAudio:
    """The next samples of a slot, in pieces: (address for the device, samples of int16) each.

    The memory must stay as it is until the device has come past the append().
    """

    slot: int
    segments: Sequence[tuple[int, int]]


class SlotAudio(ABC):
    """Audio of S slots. num_samples is the only thing that says how much."""

    def __init__(self, device: Device, num_slots: int, max_rows: int, max_batch: int) -> None:
        """`max_batch` slots in one launch."""
        self.max_samples = max_rows * HOP_SAMPLES
        self.num_samples = np.zeros(num_slots, np.int64)
        self._audio: DeviceArray = device.empty((num_slots, self.max_samples), np.int16)
        self._device = device
        self._max_segments = 2 * max_batch  # a ring gives two where it wraps
        shape = (2, self._max_segments, DESCRIPTOR_FIELDS)
        self._descriptors = UploadRing(device, shape, np.int64)
        self._gather = device.kernel(SOURCE, "gather_audio")

    @abstractmethod
    def rows_of(self, num_samples: Integers) -> Integers:
        """Rows that so many samples make: certain ones, and what the audio reaches into."""

    @abstractmethod
    def _compute(self, items: DeviceArray, num_items: int, max_new_rows: int) -> None:
        """Enqueue the new rows. `items` as kernels/audio_items.cuh has them."""

    def num_rows(self, slot: int) -> int:
        """Certain rows, and those whose windows reach past the audio so far."""
        return int(self.rows_of(self.num_samples[slot : slot + 1])[0])

    def num_certain(self, slot: int) -> int:
        """Rows that no later sample can change."""
        return int(_num_certain(self.num_samples[slot]))

    def reset(self, slot: int) -> None:
        """The slot's next samples begin an utterance. The device need not know."""
        self.num_samples[slot] = 0

    def append(self, items: Sequence[NewAudio]) -> None:
        """Enqueue new samples, and the rows they make.

        A slot may come more than once; its samples are taken in that order.
        Raises ValueError for more samples than a slot has room for; then nothing has changed.
        """
        pieces = [(item.slot, *piece) for item in items for piece in item.segments if piece[1]]
        if not pieces:
            return
        segments = np.array(pieces, np.int64)
        slots, counts = segments[:, 0], segments[:, 2]
        ends = self.num_samples + np.bincount(slots, counts, len(self.num_samples)).astype(np.int64)
        if ends.max() > self.max_samples:
            slot = int(ends.argmax())
            raise ValueError(f"{ends[slot]} samples for slot {slot}: room for {self.max_samples}")
        for start in range(0, len(segments), self._max_segments):
            self._append(segments[start : start + self._max_segments])

    def _append(self, segments: Integers) -> None:
        """One launch of each kernel. Segments (M, 3): slot, address, samples."""
        segments = segments[np.argsort(segments[:, 0], kind="stable")]
        slots, counts = segments[:, 0], segments[:, 2]
        is_first = np.append(True, slots[1:] != slots[:-1])
        own_slots = slots[is_first]
        starts = np.flatnonzero(is_first)
        before = self.num_samples[own_slots]
        after = before + np.add.reduceat(counts, starts)
        # Where a segment goes: behind those of its slot that come before it.
        offsets = np.cumsum(counts) - counts
        offsets += (before - offsets[starts])[np.cumsum(is_first) - 1]

        block = self._descriptors.block()
        block[0, : len(segments), 0] = segments[:, 1]
        block[0, : len(segments), 1] = slots * self.max_samples + offsets
        block[0, : len(segments), 2] = counts
        fields = (own_slots, _num_certain(before), _num_certain(after), self.rows_of(after), after)
        for index, field in enumerate(fields):
            block[1, : len(own_slots), index] = field
        self._descriptors.publish()
        self.num_samples[own_slots] = after
        max_new_rows = int((fields[3] - fields[1]).max())
        self._bring(len(segments), int(counts.max()))
        if max_new_rows > 0:
            self._compute(self._descriptors.array.at(1), len(own_slots), max_new_rows)

    def _bring(self, num_segments: int, max_samples: int) -> None:
        num_tiles = -(-(max_samples + MAX_HEAD_SAMPLES) // TILE_SAMPLES)
        segments = self._descriptors.array.at(0)
        self._device.launch(
            self._gather, (num_tiles, num_segments, 1), GATHER_THREADS, segments, self._audio
        )


def _num_certain(num_samples: Integers) -> Integers:
    """Row i is certain when its window, up to sample 160 i + 200, is full."""
    certain: Integers = np.maximum(num_samples - UNCERTAIN_SAMPLES, 0) // HOP_SAMPLES
    return certain
