"""The feature store against MelStream: values, pieces of any length, slots beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_features import MelStream
from gpu_service.gpu.device import Device, PinnedArray
from gpu_service.gpu.features import FeatureStore
from gpu_service.gpu.slot_audio import NewAudio
from tests.fixtures.parakeet.signals import signal

from ..speech import two_cities

Samples = NDArray[np.int16]
Array = NDArray[np.float32]

MAX_SAMPLES = 24_000
NUM_SLOTS = 3
# A last bit of the power may differ, where the double sums are in another order.
RAW_TOLERANCE = 2e-6
FEATURE_TOLERANCE = 2e-5
# Lengths around the edges of frames and windows.
EDGES = [1, 39, 40, 159, 160, 161, 199, 200, 201, 319, 320, 359, 360, 361, 400, 1319, 1320, 1480]


def pcm(seconds: float, seed: int) -> Samples:
    return np.rint(32768.0 * signal(seconds, seed)).astype(np.int16)


AUDIO = pcm(1.5, 7)


@dataclass
class Rig:
    """A store, page-locked memory to feed it from, and an oracle for each slot."""

    device: Device
    store: FeatureStore
    arena: PinnedArray
    oracles: list[MelStream] = field(
        default_factory=lambda: [MelStream() for _ in range(NUM_SLOTS)]
    )

    @classmethod
    def of(cls, device: Device, max_batch: int = 4) -> Rig:
        store = FeatureStore(device, NUM_SLOTS, MAX_SAMPLES, max_batch)
        return cls(device, store, device.pinned(4 * MAX_SAMPLES, np.int16))

    def append(self, *pieces: tuple[int, Samples], gap: int = 0) -> None:
        """(slot, samples) each, `gap` samples apart in the arena."""
        self.device.synchronize()  # the arena is free
        items, at = [], gap
        for slot, samples in pieces:
            self.arena.array[at : at + len(samples)] = samples
            items.append(NewAudio(slot, [(self.arena.address + 2 * at, len(samples))]))
            at += len(samples) + gap
            self.oracles[slot].append(samples)
        self.store.append(items)

    def reset(self, slot: int) -> None:
        self.store.reset(slot)
        self.oracles[slot] = MelStream()

    def raw(self, slot: int) -> Array:
        return self.device.download(self.store.mel)[slot, : self.store.num_rows(slot)]

    def features(self, slot: int) -> Array:
        mean, scale = (self.device.download(a)[slot] for a in (self.store.mean, self.store.scale))
        normalised: Array = (self.raw(slot) - mean) / scale
        return normalised

    def check(self, slot: int) -> None:
        """Everything that the slot has, against its oracle."""
        oracle = self.oracles[slot]
        assert self.store.num_samples[slot] == oracle.num_samples
        assert self.store.num_certain(slot) == oracle.num_certain
        assert self.store.num_rows(slot) == oracle.num_frames
        if oracle.num_frames == 0:
            return
        np.testing.assert_allclose(self.raw(slot), oracle.raw(), atol=RAW_TOLERANCE, rtol=1e-6)
        np.testing.assert_allclose(
            self.features(slot), oracle.features(), atol=FEATURE_TOLERANCE, rtol=1e-5
        )


@pytest.fixture
def rig(device: Device) -> Rig:
    return Rig.of(device)


@pytest.mark.parametrize("num_samples", EDGES)
def test_audio_of_any_length_equals_the_oracle(rig: Rig, num_samples: int) -> None:
    rig.append((1, AUDIO[5_000 : 5_000 + num_samples]))
    rig.check(1)


def test_one_sample_at_a_time(rig: Rig) -> None:
    for start in range(0, 420):
        rig.append((0, AUDIO[4_000 + start : 4_001 + start]))
        if start % 40 == 39:
            rig.check(0)


def test_pieces_of_any_length_give_the_same_bits(rig: Rig) -> None:
    random = np.random.default_rng(0)
    audio, start = AUDIO[:9_000], 0
    while start < len(audio):
        stop = start + int(random.integers(0, 1_001))
        rig.append((0, audio[start:stop]), gap=int(random.integers(0, 9)))
        rig.check(0)
        start = stop
    rig.append((1, audio))
    np.testing.assert_array_equal(rig.raw(0), rig.raw(1))
    np.testing.assert_array_equal(rig.features(0), rig.features(1))


def test_slots_are_apart_and_are_used_again(rig: Rig) -> None:
    random = np.random.default_rng(1)
    starts = [0, 3_000, 9_000]
    for turn in range(12):
        lengths = random.integers(0, 1_500, NUM_SLOTS)
        slots = random.permutation(NUM_SLOTS)[: 1 + turn % NUM_SLOTS]
        pieces = [(slot, AUDIO[starts[slot] : starts[slot] + lengths[slot]]) for slot in slots]
        rig.append(*pieces)
        for slot in slots:
            starts[slot] += lengths[slot]
        if turn % 4 == 3:
            rig.reset(turn % NUM_SLOTS)
        for slot in range(NUM_SLOTS):
            rig.check(slot)


def test_more_pieces_than_one_launch_takes(rig: Rig) -> None:
    """Eight segments a launch here, and the same slots again and again."""
    rig.append(*[(i % NUM_SLOTS, AUDIO[500 * i : 500 * i + 97 * i]) for i in range(21)], gap=3)
    for slot in range(NUM_SLOTS):
        rig.check(slot)


def test_an_item_in_two_segments_is_one_piece(rig: Rig) -> None:
    """As a ring gives it, where it wraps."""
    samples = AUDIO[:3_001]
    rig.arena.array[100:1_101] = samples[2_000:]
    rig.arena.array[3_333:5_333] = samples[:2_000]
    address = rig.arena.address
    rig.store.append([NewAudio(2, [(address + 2 * 3_333, 2_000), (address + 200, 1_001)])])
    rig.oracles[2].append(samples)
    rig.check(2)


def test_nothing_new_changes_nothing(rig: Rig) -> None:
    rig.append((0, AUDIO[:2_000]))
    before = rig.features(0)
    rig.store.append([])
    rig.store.append([NewAudio(0, []), NewAudio(1, [(rig.arena.address, 0)])])
    np.testing.assert_array_equal(rig.features(0), before)
    rig.check(0)
    rig.check(1)


def test_a_full_slot_takes_no_more(rig: Rig) -> None:
    rig.append((0, AUDIO))
    rig.append((1, AUDIO[:100]))
    assert rig.store.num_rows(0) == MAX_SAMPLES // 160
    items = [NewAudio(1, [(rig.arena.address, 5)]), NewAudio(0, [(rig.arena.address, 1)])]
    with pytest.raises(ValueError, match="24001 samples for slot 0: room for 24000"):
        rig.store.append(items)
    rig.check(0)
    rig.check(1)


def test_room_is_rounded_up_to_rows(device: Device) -> None:
    store = FeatureStore(device, 1, 1_601)
    assert store.max_samples == 1_760
    assert store.mel.shape == (1, 11, 128)


def test_enough_appends_to_use_every_block_of_the_ring_again(rig: Rig) -> None:
    for i in range(70):
        rig.append((i % NUM_SLOTS, AUDIO[200 * i : 200 * i + 200]))
    for slot in range(NUM_SLOTS):
        rig.check(slot)


def hard_signals() -> Sequence[tuple[str, Samples]]:
    """Where single precision would lose digits, or divide by nothing."""
    time_s = np.arange(8_000) / 16_000.0
    tone = np.rint(32_000 * np.sin(2 * np.pi * 440.0 * time_s)).astype(np.int16)
    return [
        ("silence", np.zeros(8_000, np.int16)),
        ("silence, then sound", np.concatenate([np.zeros(4_000, np.int16), AUDIO[:4_000]])),
        ("a loud tone", tone),
        ("clipping", np.where(np.arange(8_000) % 2 == 0, 32_767, -32_768).astype(np.int16)),
        ("a single click", np.where(np.arange(8_000) == 3_333, 32_767, 0).astype(np.int16)),
        ("speech", np.rint(two_cities()[16_000:32_000] * 32_767.0).astype(np.int16)),
    ]


@pytest.mark.parametrize(
    ("name", "samples"), hard_signals(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_hard_signals_equal_the_oracle(rig: Rig, name: str, samples: Samples) -> None:
    rig.append((1, samples))
    rig.check(1)
