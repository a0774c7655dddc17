"""WhisperFeatures: each slot's log-mel rows as Whisper hears them, in a window of 30 s.

Of new audio (slot_audio.py) come new rows, not clamped yet, and the slot's floor: 8 below the
loudest so far, whose maximum is carried on. Who reads rows clamps them to the floor, and takes the
floor (or silence, if that is louder) for rows behind the audio. cpu/log_mel.py is the oracle: the
same audio gives the same rows in whatever pieces it comes.

Knows samples and rows; no model, no utterance. Kernels: kernels/whisper_features.cu. Shapes: S
slots, R = 3000 rows of 10 ms, M bands.
"""

from __future__ import annotations

import math

import numpy as np

from ..cpu.log_mel import FFT_SAMPLES, HOP_SAMPLES, WINDOW_FRAMES, WINDOW_SAMPLES
from ..cpu.mel_bank import slaney_bank
from .device import Device, DeviceArray
from .slot_audio import Integers, SlotAudio

SOURCE = "whisper_features.cu"
# As in the source.
BLOCK_ROWS = 16
THREADS = 256
FOLDED = FFT_SAMPLES // 4 + 1
HALF_WINDOW = FFT_SAMPLES // 2


class WhisperFeatures(SlotAudio):
    """Audio, rows and floors of S slots."""

    def __init__(self, device: Device, num_slots: int, num_mels: int, max_batch: int = 256) -> None:
        """`max_batch` slots in one launch. Raises DeviceError."""
        super().__init__(device, num_slots, WINDOW_FRAMES, max_batch)
        self.mel: DeviceArray = device.empty((num_slots, WINDOW_FRAMES, num_mels), np.float32)
        self.floor: DeviceArray = device.zeros(num_slots, np.float32)
        self._top = device.zeros(num_slots, np.float32)
        self._tables = _tables(device, num_mels)
        defines = {"MEL_BANDS": str(num_mels)}
        self._rows = device.kernel(SOURCE, "window_rows", defines)
        self._floor = device.kernel(SOURCE, "window_floor", defines)

    def rows_of(self, num_samples: Integers) -> Integers:
        """Those whose windows touch the audio."""
        touched = -(-(num_samples + HALF_WINDOW) // HOP_SAMPLES)
        rows: Integers = np.where(num_samples > 0, np.minimum(touched, WINDOW_FRAMES), 0)
        return rows

    def _compute(self, items: DeviceArray, num_items: int, max_new_rows: int) -> None:
        grid = -(-max_new_rows // BLOCK_ROWS), num_items, 1
        self._device.launch(
            self._rows, grid, THREADS,
            items, self._audio, *self._tables, self.mel, np.int32(WINDOW_SAMPLES),
        )  # fmt: skip
        self._device.launch(self._floor, num_items, THREADS, items, self.mel, self._top, self.floor)


def _tables(device: Device, num_mels: int) -> list[DeviceArray]:
    """What window_rows reads: half of the window, the turns of each thread's bin, the bank."""
    window = np.hanning(FFT_SAMPLES + 1)[: HALF_WINDOW + 1].astype(np.float32)
    parity, index = np.divmod(np.arange(THREADS), THREADS // 2)
    turn = np.outer(np.arange(FOLDED), 2 * index + parity) % FFT_SAMPLES
    angle = 2.0 * math.pi * turn / FFT_SAMPLES
    bank = slaney_bank(num_mels, FFT_SAMPLES)
    bands, _ = np.nonzero(bank)
    arrays = [
        window,
        np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32),
        (bank > 0).argmax(axis=1).astype(np.int32),
        np.searchsorted(bands, np.arange(num_mels + 1)).astype(np.int32),
        bank[bank > 0],
    ]
    return [device.upload(np.ascontiguousarray(array)) for array in arrays]
