"""FeatureStore: each slot's log-mel rows as Parakeet hears them, and what normalises them.

Of new audio (slot_audio.py) come new rows, and each band's running mean and deviation.
The arithmetic is that of gpu_service/cpu/parakeet_features.py, of which MelStream is the oracle:
the same audio gives the same rows in whatever pieces it comes.

Knows samples and rows; no model, no utterance. Kernels: kernels/features.cu. Shapes: S slots,
n samples at 16 kHz, R rows of 10 ms, F = 128 bands.
"""

from __future__ import annotations

import math

import numpy as np

from ..cpu.mel_bank import slaney_bank
from ..cpu.parakeet_features import FFT_SAMPLES, HOP_SAMPLES, NUM_MELS, WINDOW_SAMPLES, window
from .device import Device, DeviceArray
from .slot_audio import SOURCE, Integers, SlotAudio

# As in the source.
BLOCK_ROWS = 8
ROW_BLOCK_THREADS = 128
PAIRED_SAMPLES = 416  # the window, and zeros up to whole turns of 16 threads with 2 samples each


class FeatureStore(SlotAudio):
    """Audio, rows and statistics of S slots."""

    def __init__(
        self, device: Device, num_slots: int, max_samples: int, max_batch: int = 256
    ) -> None:
        """`max_samples` of a slot, rounded up to whole rows; `max_batch` slots in one launch."""
        max_rows = -(-max_samples // HOP_SAMPLES)
        super().__init__(device, num_slots, max_rows, max_batch)
        self.mel: DeviceArray = device.empty((num_slots, max_rows, NUM_MELS), np.float32)
        self.mean: DeviceArray = device.zeros((num_slots, NUM_MELS), np.float32)
        self.scale: DeviceArray = device.zeros((num_slots, NUM_MELS), np.float32)
        self._sums = device.empty((num_slots, 2, NUM_MELS), np.float64)
        self._tables = _tables(device)
        self._log_mel = device.kernel(SOURCE, "log_mel_rows")
        self._statistics = device.kernel(SOURCE, "running_statistics")

    def rows_of(self, num_samples: Integers) -> Integers:
        """T: certain rows, and one more where its window reaches past the audio so far."""
        return num_samples // HOP_SAMPLES

    def _compute(self, items: DeviceArray, num_items: int, max_new_rows: int) -> None:
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
