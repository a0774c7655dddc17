"""What bench/gpu.py lets the engine hear: the demo's speech, shifted and scaled, no two rows equal.

Read with the standard library alone: a GPU machine need not have what decodes other files. Rows lie
in page-locked memory, from where the device takes them by itself, as it takes a gateway's arena.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_features import HOP_SAMPLES
from gpu_service.gpu.device import Device, PinnedArray
from gpu_service.weights.parakeet_config import SUBSAMPLING_FACTOR
from gpu_service.words import SAMPLE_RATE_HZ

CLIP = Path(__file__).resolve().parent.parent / "clients" / "demo" / "clip.wav"
SHIFT_SAMPLES = 7_919  # from one row to the next; prime, so that rows come back to a place late
QUIETEST, LOUDEST, NUM_GAINS = 0.4, 1.0, 13

Samples = NDArray[np.int16]


class Clip(NamedTuple):
    """Samples where the device reads them."""

    address: int
    num_samples: int

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.num_samples / SAMPLE_RATE_HZ

    @property
    def num_rows(self) -> int:
        """Mel rows."""
        return self.num_samples // HOP_SAMPLES

    @property
    def num_frames(self) -> int:
        """Encoder frames."""
        return -(-self.num_rows // SUBSAMPLING_FACTOR)


class Clips(NamedTuple):
    """Some clips, and the memory they lie in, which is to be kept as long as they are."""

    clips: list[Clip]
    memory: PinnedArray

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(clip.seconds for clip in self.clips)


def read_clip(path: Path = CLIP) -> Samples:
    """(n,) samples of a WAV file. Raises ValueError for anything but 16 kHz mono s16le."""
    with wave.open(str(path)) as reader:
        form = reader.getnchannels(), reader.getsampwidth(), reader.getframerate()
        if form != (1, 2, SAMPLE_RATE_HZ):
            raise ValueError(f"{path.name} has (channels, bytes, Hz) {form}, not (1, 2, 16000)")
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.int16)


def speech(base: Samples, row: int, num_samples: int) -> Samples:
    """(num_samples,) of the recording from a place of the row's own on, again and again, scaled."""
    start = row * SHIFT_SAMPLES % len(base)
    turns = -(-(start + num_samples) // len(base))
    piece = np.tile(base, turns)[start : start + num_samples]
    gain = QUIETEST + (LOUDEST - QUIETEST) * (row % NUM_GAINS) / (NUM_GAINS - 1)
    return (piece * np.float32(gain)).astype(np.int16)


def pinned_samples(device: Device, rows: Sequence[Samples]) -> Clips:
    """Rows of samples where the device reads them."""
    memory = device.pinned(sum(map(len, rows)), np.int16)
    clips = []
    start = 0
    for row in rows:
        memory.array[start : start + len(row)] = row
        clips.append(Clip(memory.address + memory.itemsize * start, len(row)))
        start += len(row)
    return Clips(clips, memory)


def pinned_speech(device: Device, base: Samples, lengths: Sequence[int], first: int = 0) -> Clips:
    """A row of speech() for each number of samples, from row `first` on."""
    return pinned_samples(device, [speech(base, row, n) for row, n in enumerate(lengths, first)])


def spread_lengths(count: int, shortest_s: float, longest_s: float) -> list[int]:
    """`count` numbers of samples, evenly between the two, in no order."""
    seconds = np.linspace(shortest_s, longest_s, count)
    np.random.default_rng(0).shuffle(seconds)
    return [round(float(s) * SAMPLE_RATE_HZ) for s in seconds]
