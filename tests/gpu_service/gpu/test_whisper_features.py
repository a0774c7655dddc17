"""Whisper's features on the device against cpu/log_mel.py: values, pieces, slots, both ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.log_mel import WINDOW_SAMPLES, log_mel
from gpu_service.gpu.device import Device, PinnedArray
from gpu_service.gpu.slot_audio import NewAudio
from gpu_service.gpu.whisper_features import WhisperFeatures
from tests.fixtures.whisper.signals import signal

from ..speech import two_cities

Samples = NDArray[np.int16]
Array = NDArray[np.float32]

NUM_SLOTS = 3
# Of values about one. Both sides are in single precision, in another order; 3e-5 was the most seen,
# just above the floor beside a loud tone.
TOLERANCE = 1e-4
AUDIO = signal(2.0, 3)
EDGES = [1, 39, 40, 41, 160, 199, 200, 201, 359, 360, 361, 1_480, 5_000]


@dataclass
class Rig:
    """A store, and page-locked memory to feed it from."""

    device: Device
    store: WhisperFeatures
    arena: PinnedArray

    @classmethod
    def of(cls, device: Device, num_mels: int = 80) -> Rig:
        arena = device.pinned(WINDOW_SAMPLES, np.int16)
        return cls(device, WhisperFeatures(device, NUM_SLOTS, num_mels, 4), arena)

    def append(self, slot: int, samples: Samples) -> None:
        self.device.synchronize()  # the arena is free
        self.arena.array[: len(samples)] = samples
        self.store.append([NewAudio(slot, [(self.arena.address, len(samples))])])

    def rows(self, slot: int) -> Array:
        return self.device.download(self.store.mel.at(slot))[: self.store.num_rows(slot)]

    def floor(self, slot: int) -> float:
        return float(self.device.download(self.store.floor)[slot])

    def check(self, slot: int, samples: Samples) -> None:
        """What the encoder would read, against the oracle."""
        expected = log_mel(samples, self.store.mel.shape[2])
        floor = self.floor(slot)
        clamped = (np.maximum(self.rows(slot), np.float32(floor)) + 4.0) / 4.0
        assert clamped.shape == expected.frames.T.shape
        np.testing.assert_allclose(clamped, expected.frames.T, atol=TOLERANCE, rtol=0)
        assert (max(floor, -10.0) + 4.0) / 4.0 == pytest.approx(expected.pad_value, abs=TOLERANCE)


@pytest.fixture
def rig(device: Device) -> Rig:
    return Rig.of(device)


@pytest.mark.parametrize("num_samples", EDGES)
def test_audio_of_any_length_equals_the_oracle(rig: Rig, num_samples: int) -> None:
    samples = AUDIO[3_000 : 3_000 + num_samples]
    rig.append(1, samples)
    rig.check(1, samples)


def test_128_bands_equal_the_oracle(device: Device) -> None:
    rig = Rig.of(device, num_mels=128)
    samples = two_cities()[16_000:22_000]
    rig.append(0, samples)
    rig.check(0, samples)


def test_pieces_of_any_length_give_the_same_bits(rig: Rig) -> None:
    random = np.random.default_rng(0)
    audio, start = AUDIO[:6_000], 0
    while start < len(audio):
        stop = min(len(audio), start + int(random.integers(1, 901)))
        rig.append(0, audio[start:stop])
        rig.check(0, audio[:stop])
        start = stop
    rig.append(1, audio)
    np.testing.assert_array_equal(rig.rows(0), rig.rows(1))
    assert rig.floor(0) == rig.floor(1)


def test_the_floor_follows_the_loudest_and_is_forgotten_with_the_utterance(rig: Rig) -> None:
    loud, quiet = AUDIO[:2_000], (AUDIO[2_000:6_000] // 100).astype(np.int16)
    rig.append(2, loud)
    rig.append(2, quiet)
    rig.check(2, np.concatenate([loud, quiet]))
    rig.store.reset(2)
    rig.append(2, quiet)
    rig.check(2, quiet)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(3_000, np.int16),
        np.concatenate([np.zeros(2_000, np.int16), AUDIO[:1_500]]),
        np.rint(32_000 * np.sin(np.arange(4_000) * 0.17)).astype(np.int16),
        np.where(np.arange(3_000) == 1_111, 32_767, 0).astype(np.int16),
    ],
    ids=["silence", "silence, then sound", "a loud tone", "a click"],
)
def test_hard_signals_equal_the_oracle(rig: Rig, samples: Samples) -> None:
    rig.append(0, samples)
    rig.check(0, samples)


def test_a_whole_window_is_reflected_at_its_end(rig: Rig) -> None:
    """Only the last rows are of interest: what is before them is silence."""
    samples = np.zeros(WINDOW_SAMPLES, np.int16)
    samples[-2_000:] = AUDIO[:2_000]
    rig.append(0, samples)
    rig.check(0, samples)
    assert rig.store.num_rows(0) == 3_000
    with pytest.raises(ValueError, match="room for 480000"):
        rig.append(0, AUDIO[:1])
