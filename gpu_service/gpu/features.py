"""FeatureStore: each slot's audio on the device, its log-mel rows, and what normalises them.

append() brings new samples of any number of slots from the host's memory, which the device reads by
itself, and computes the new rows and each band's running mean and deviation. It waits for nothing.
The arithmetic is that of gpu_service/cpu/parakeet_features.py, of which MelStream is the oracle:
the same audio gives the same rows in whatever pieces it comes.

Knows samples and rows; no model, no utterance. Kernels: kernels/features.cu. Shapes: S slots,
n samples at 16 kHz, R rows of 10 ms, F = 128 bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cpu.mel_bank import slaney_bank
from ..cpu.parakeet_features import FFT_SAMPLES, HOP_SAMPLES, NUM_MELS, WINDOW_SAMPLES, window
from .device import Device, DeviceArray
from .upload_ring import UploadRing

SOURCE = "features.cu"
UNCERTAIN_SAMPLES = WINDOW_SAMPLES // 2 - HOP_SAMPLES  # a row's window reaches so far beyond it
# As in the source.
GATHER_THREADS = 256
TILE_SAMPLES = 4096
MAX_HEAD_SAMPLES = 7  # of a segment's first 16 bytes that may not be its own
BLOCK_ROWS = 8
ROW_BLOCK_THREADS = 128
PAIRED_SAMPLES = 416  # the window, and zeros up to whole turns of 16 threads with 2 samples each
DESCRIPTOR_FIELDS = 5  # int64: (address, target, count) of a segment; five of a slot with new audio

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NewAudio:
    """The next samples of a slot, in pieces: (address for the device, samples of int16) each.

    The memory must stay as it is until the device has come past the append().
    """

    slot: int
    segments: Sequence[tuple[int, int]]


class FeatureStore:
    """Audio, rows and statistics of S slots. num_samples is the only thing that says how many."""

    def __init__(
        self, device: Device, num_slots: int, max_samples: int, max_batch: int = 256
    ) -> None:
        """`max_samples` of a slot, rounded up to whole rows; `max_batch` slots in one launch."""
        max_rows = -(-max_samples // HOP_SAMPLES)
        self.max_samples = max_rows * HOP_SAMPLES
        self.num_samples = np.zeros(num_slots, np.int64)
        self.mel: DeviceArray = device.empty((num_slots, max_rows, NUM_MELS), np.float32)
        self.mean: DeviceArray = device.zeros((num_slots, NUM_MELS), np.float32)
        self.scale: DeviceArray = device.zeros((num_slots, NUM_MELS), np.float32)
        self._audio = device.empty((num_slots, self.max_samples), np.int16)
        self._sums = device.empty((num_slots, 2, NUM_MELS), np.float64)
        self._device = device
        self._max_segments = 2 * max_batch  # a ring gives two where it wraps
        shape = (2, self._max_segments, DESCRIPTOR_FIELDS)
        self._descriptors = UploadRing(device, shape, np.int64)
        self._tables = _tables(device)
        self._gather = device.kernel(SOURCE, "gather_audio")
        self._log_mel = device.kernel(SOURCE, "log_mel_rows")
        self._statistics = device.kernel(SOURCE, "running_statistics")

    def num_rows(self, slot: int) -> int:
        """T: certain rows, and one more where its window reaches past the audio so far."""
        return int(self.num_samples[slot]) // HOP_SAMPLES

    def num_certain(self, slot: int) -> int:
        """Rows that no later sample can change."""
        return int(_num_certain(self.num_samples[slot]))

    def reset(self, slot: int) -> None:
        """The slot's next samples begin an utterance. The device need not know."""
        self.num_samples[slot] = 0

    def append(self, items: Sequence[NewAudio]) -> None:
        """Enqueue new samples, and the rows and statistics they make.

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
        fields = (own_slots, _num_certain(before), _num_certain(after), after // HOP_SAMPLES, after)
        for index, field in enumerate(fields):
            block[1, : len(own_slots), index] = field
        self._descriptors.publish()
        self.num_samples[own_slots] = after
        max_new_rows = int((fields[3] - fields[1]).max())
        self._launch(len(segments), int(counts.max()), len(own_slots), max_new_rows)

    def _launch(
        self, num_segments: int, max_samples: int, num_items: int, max_new_rows: int
    ) -> None:
        segments, items = (self._descriptors.array.at(i) for i in range(2))
        num_tiles = -(-(max_samples + MAX_HEAD_SAMPLES) // TILE_SAMPLES)
        self._device.launch(
            self._gather, (num_tiles, num_segments, 1), GATHER_THREADS, segments, self._audio
        )
        if max_new_rows == 0:
            return
        max_rows = np.int32(self.mel.shape[1])
        self._device.launch(
            self._log_mel,
            (-(-max_new_rows // BLOCK_ROWS), num_items, 1),
            ROW_BLOCK_THREADS,
            items,
            self._audio,
            *self._tables,
            self.mel,
            np.int32(self.max_samples),
            max_rows,
        )
        self._device.launch(
            self._statistics,
            num_items,
            NUM_MELS,
            items,
            self.mel,
            self._sums,
            self.mean,
            self.scale,
            max_rows,
        )


def _num_certain(num_samples: Integers) -> Integers:
    """Row i is certain when its window, up to sample 160 i + 200, is full."""
    certain: Integers = np.maximum(num_samples - UNCERTAIN_SAMPLES, 0) // HOP_SAMPLES
    return certain


def _tables(device: Device) -> list[DeviceArray]:
    """What log_mel_rows reads: the window, the turns of the FFT, the bank without its zeros."""
    padded = np.zeros(PAIRED_SAMPLES)
    padded[:WINDOW_SAMPLES] = window()
    num_points = FFT_SAMPLES // 2
    k, thread = np.divmod(np.arange(num_points), 16)
    angle = -2.0 * math.pi * (k * thread) / num_points
    half_angle = 2.0 * math.pi * np.arange(num_points) / FFT_SAMPLES
    bank = slaney_bank(NUM_MELS, FFT_SAMPLES)
    bands, _ = np.nonzero(bank)
    first_bins = (bank > 0).argmax(axis=1)
    entries = np.searchsorted(bands, np.arange(NUM_MELS + 1))
    arrays = [
        padded,
        np.stack([np.cos(angle), np.sin(angle)], axis=1),
        np.stack([np.cos(half_angle), np.sin(half_angle)], axis=1),
        first_bins.astype(np.int32),
        entries.astype(np.int32),
        bank[bank > 0],
    ]
    return [device.upload(array) for array in arrays]
