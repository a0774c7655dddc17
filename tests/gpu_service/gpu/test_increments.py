"""The streaming encoder against the CPU's: hops, commits, rings that wrap, company, precisions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_cache import EncoderCache
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.cpu.parakeet_features import MelStream
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_layers import Bucket, LayerStack
from gpu_service.gpu.encoder_subsampling import MelStore, Subsampling
from gpu_service.gpu.encoder_weights import Precision, load_encoder
from gpu_service.gpu.features import FeatureStore
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.increments import Increment, IncrementEncoder
from gpu_service.gpu.slot_audio import NewAudio
from gpu_service.weights.parakeet_config import ParakeetConfig
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.fixtures.parakeet.signals import signal
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint, random_features

from .encoder_rig import HALF_TOLERANCE, TOLERANCE, Store, relative_error

Array = NDArray[np.float32]

MAX_FRAMES = 96
MAX_ROWS = 128
NARROW = replace(SMALL, subsampling_channels=8, decoder_width=16)  # heads of 8: the plain kernel
WIDE = replace(NARROW, width=256, num_heads=2, num_layers=2, conv_kernel=9)  # heads of 128
HEADS_OF_64 = replace(WIDE, width=128)
UTTERANCES = [random_features(400, seed=seed) for seed in range(4)]
SMALL_BUCKET = Bucket(4, 10)


@functools.cache
def weights(config: ParakeetConfig) -> ParakeetWeights:
    return prepare(random_checkpoint(config), MAX_FRAMES)


@functools.cache
def cpu_encoder(config: ParakeetConfig) -> ParakeetEncoder:
    return ParakeetEncoder(weights(config), 1)


def make_encoder(
    device: Device,
    gemms: Gemms,
    store: MelStore,
    left_frames: int,
    config: ParakeetConfig = NARROW,
    precision: Precision = "fp32",
) -> IncrementEncoder:
    loaded = load_encoder(device, weights(config), precision)
    layers = LayerStack(device, gemms, loaded, MAX_ROWS)
    subsampling = Subsampling(device, gemms, loaded, store, MAX_ROWS, MAX_FRAMES)
    num_slots = store.mel.shape[0]
    return IncrementEncoder(device, layers, subsampling, num_slots, left_frames, max_batch=8)


@dataclass(frozen=True, slots=True)
class Turn:
    """One session's part of a step."""

    session: int
    num_rows_end: int
    num_commit: int


@dataclass
class Rig:
    """Sessions 0 .. 3 in slots 1 .. 4, and the CPU's caches of the same sessions."""

    device: Device
    encoder: IncrementEncoder
    cpu: ParakeetEncoder
    caches: list[EncoderCache]

    @classmethod
    def of(
        cls,
        device: Device,
        gemms: Gemms,
        left_frames: int,
        config: ParakeetConfig = NARROW,
        precision: Precision = "fp32",
    ) -> Rig:
        store = Store.of(device, UTTERANCES)
        cpu = cpu_encoder(config)
        return cls(
            device,
            make_encoder(device, gemms, store, left_frames, config, precision),
            cpu,
            [cpu.new_cache(left_frames) for _ in UTTERANCES],
        )

    def increments(self, turns: Sequence[Turn]) -> list[Increment]:
        return [
            Increment(
                t.session + 1, self.caches[t.session].next_frame, t.num_rows_end, t.num_commit
            )
            for t in turns
        ]

    def answers(self, bucket: Bucket, increments: Sequence[Increment]) -> list[Array]:
        frames = self.device.download(self.encoder.encode(bucket, increments))
        assert frames.shape[:2] == (bucket.batch, bucket.frames)
        return [frames[i, : one.num_frames] for i, one in enumerate(increments)]

    def expected(self, turns: Sequence[Turn]) -> list[Array]:
        """Goes on: the caches then have the commits."""
        caches = [self.caches[turn.session] for turn in turns]
        features = [
            UTTERANCES[turn.session][8 * cache.next_frame : turn.num_rows_end]
            for turn, cache in zip(turns, caches, strict=True)
        ]
        return self.cpu.encode_chunks(caches, features, [turn.num_commit for turn in turns])

    def step(self, bucket: Bucket, *turns: Turn) -> list[tuple[Array, Array]]:
        """(answer, expected) of each session."""
        answers = self.answers(bucket, self.increments(turns))
        return list(zip(answers, self.expected(turns), strict=True))

    def check(self, bucket: Bucket, *turns: Turn) -> None:
        for answer, expected in self.step(bucket, *turns):
            assert answer.shape == expected.shape
            np.testing.assert_allclose(answer, expected, atol=TOLERANCE)


def random_turn(
    random: np.random.Generator, rig: Rig, session: int, max_frames: int, max_commit: int
) -> Turn:
    """Any number of rows that fit, and any commit of them."""
    next_frame = rig.caches[session].next_frame
    num_rows = int(random.integers(0, 8 * max_frames + 1))
    end = min(8 * next_frame + num_rows, len(UTTERANCES[session]))
    return Turn(session, end, int(random.integers(0, min((end // 8 - next_frame), max_commit) + 1)))


@pytest.mark.parametrize("left_frames", [1, 3, 16, 40])
def test_increments_equal_the_cpu(device: Device, gemms: Gemms, left_frames: int) -> None:
    """Long enough for the rings to wrap, and to be there only in part at first."""
    rig = Rig.of(device, gemms, left_frames)
    random = np.random.default_rng(left_frames)
    while rig.caches[0].next_frame < 40:
        rig.check(Bucket(1, 10), random_turn(random, rig, 0, 10, 8))


def test_sessions_side_by_side_equal_the_cpu(device: Device, gemms: Gemms) -> None:
    """Some at their start, some with full rings, in any order, not all of them each time."""
    rig = Rig.of(device, gemms, left_frames=7)
    random = np.random.default_rng(0)
    for turn in range(16):
        sessions = random.permutation(4)[: turn % 4 + 1]
        rig.check(SMALL_BUCKET, *[random_turn(random, rig, s, 10, 2 * s) for s in sessions])
    assert max(cache.next_frame for cache in rig.caches) > 20


@pytest.mark.parametrize("config", [NARROW, WIDE, HEADS_OF_64], ids=["8", "128", "64"])
def test_half_precision(device: Device, gemms: Gemms, config: ParakeetConfig) -> None:
    """Tensor cores for heads of 64 and 128. Buckets of one tile of queries and of several."""
    rig = Rig.of(device, gemms, 19, config, "fp16")
    random = np.random.default_rng(1)
    for bucket in (Bucket(4, 8), Bucket(4, 10), Bucket(2, 35), Bucket(4, 10), Bucket(2, 16)):
        for _ in range(2):
            turns = [
                random_turn(random, rig, session, bucket.frames, 6)
                for session in range(bucket.batch)
            ]
            for answer, expected in rig.step(bucket, *turns):
                if len(expected):
                    assert relative_error(answer, expected) < HALF_TOLERANCE
    assert max(cache.next_frame for cache in rig.caches) > 19


@pytest.mark.parametrize("config", [NARROW, WIDE], ids=["plain", "tensor cores"])
def test_the_company_changes_no_bit(device: Device, gemms: Gemms, config: ParakeetConfig) -> None:
    alone, together = (Rig.of(device, gemms, 6, config, "fp16") for _ in range(2))
    random = np.random.default_rng(2)
    for _ in range(8):
        turns = [random_turn(random, together, session, 10, 6) for session in (3, 1, 0)]
        answers = together.answers(SMALL_BUCKET, together.increments(turns))
        for turn, answer in zip(turns, answers, strict=True):
            [by_itself] = alone.answers(SMALL_BUCKET, alone.increments([turn]))
            np.testing.assert_array_equal(answer, by_itself)
        for rig in (alone, together):
            rig.expected(turns)
    assert together.caches[3].next_frame > 6


def test_more_is_committed_at_once_than_is_kept(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, left_frames=5)
    bucket = Bucket(2, 32)
    rig.check(bucket, Turn(0, 165, 13), Turn(1, 250, 31))
    rig.check(bucket, Turn(0, 300, 0), Turn(1, 260, 1))
    rig.check(bucket, Turn(0, 110, 0), Turn(1, 400, 18))


def test_one_increment_of_everything_equals_the_whole_utterance(
    device: Device, gemms: Gemms
) -> None:
    rig = Rig.of(device, gemms, left_frames=40)
    features = UTTERANCES[0]
    [frames] = rig.answers(Bucket(1, 50), [Increment(1, 0, len(features), 0)])
    np.testing.assert_allclose(frames, rig.cpu.encode_exact(features), atol=TOLERANCE)


def test_look_ahead_leaves_nothing_behind(device: Device, gemms: Gemms) -> None:
    looked, plain = (Rig.of(device, gemms, left_frames=6) for _ in range(2))
    for start in range(0, 20, 5):
        looked.answers(Bucket(1, 16), [Increment(1, start, 8 * start + 90, 0)])
        step = [Increment(1, start, 8 * start + 64, 5)]
        np.testing.assert_array_equal(
            *(rig.answers(Bucket(1, 16), step)[0] for rig in (looked, plain))
        )


def test_a_slot_is_used_again(device: Device, gemms: Gemms) -> None:
    """Nothing of the utterance before is heard, or felt by the convolution."""
    used, new = (Rig.of(device, gemms, left_frames=8) for _ in range(2))
    used.answers(Bucket(1, 32), [Increment(1, 0, 256, 30)])
    for step in (Increment(1, 0, 50, 1), Increment(1, 1, 60, 3), Increment(1, 4, 110, 2)):
        np.testing.assert_array_equal(
            *(rig.answers(Bucket(1, 16), [step])[0] for rig in (used, new))
        )


def test_a_session_without_new_rows_stays_as_it_is(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, left_frames=4)
    rig.check(SMALL_BUCKET, Turn(0, 80, 5), Turn(1, 70, 4))
    rig.check(SMALL_BUCKET, Turn(1, 32, 0), Turn(0, 100, 2))
    rig.check(SMALL_BUCKET, Turn(1, 100, 2), Turn(0, 56, 0))
    assert rig.answers(SMALL_BUCKET, []) == []


def test_several_steps_are_under_way_at_once(device: Device, gemms: Gemms) -> None:
    """The host goes on while the device has come to none of them."""
    rig = Rig.of(device, gemms, left_frames=6)
    kept, expected = [], []
    for end in range(40, 200, 16):
        turns = [Turn(0, end, 2)]
        out = rig.encoder.encode(SMALL_BUCKET, rig.increments(turns))
        copy = device.empty(out.shape, np.float32)
        device.copy(copy, out)
        kept.append(copy)
        expected += rig.expected(turns)
    for frames, right in zip(kept, expected, strict=True):
        answer = device.download(frames)[0, : len(right)]
        np.testing.assert_allclose(answer, right, atol=TOLERANCE)


def test_with_the_feature_store(device: Device, gemms: Gemms) -> None:
    """Statistics change from step to step; the rows before an increment have those of now."""
    store = FeatureStore(device, 2, 32_000, 4)
    encoder = make_encoder(device, gemms, store, left_frames=9)
    cpu, mel = cpu_encoder(NARROW), MelStream()
    cache = cpu.new_cache(9)
    arena = device.pinned(32_000, np.int16)
    arena.array[:] = np.rint(32768.0 * signal(2.0, 3)).astype(np.int16)
    for start in range(0, 32_000, 2_560):
        stop = min(start + 2_560, 32_000)
        store.append([NewAudio(1, [(arena.address + 2 * start, stop - start)])])
        mel.append(arena.array[start:stop])
        num_commit = max(0, mel.num_certain // 8 - 6 - cache.next_frame)
        increment = Increment(1, cache.next_frame, store.num_rows(1), num_commit)
        frames = device.download(encoder.encode(Bucket(2, 12), [increment]))
        features, first = mel.features(), 8 * cache.next_frame
        if first:
            cache.mel_tail = features[first - 8 : first]
        expected = cpu.encode_chunk(cache, features[first:], num_commit)
        np.testing.assert_allclose(frames[0, : len(expected)], expected, atol=TOLERANCE)
    assert cache.next_frame == 18


@pytest.mark.parametrize(
    ("increments", "message"),
    [
        ([Increment(1, 0, 23, 3)], "3 frames of 23 mel rows"),
        ([Increment(1, 0, 24, -1)], "-1 frames of 24 mel rows"),
        ([Increment(1, 2, 15, 0)], "0 frames of -1 mel rows"),
        ([Increment(1, 0, 81, 0)], "11 frames in Bucket"),
        ([Increment(1, 0, 8, 0)] * 5, "5 increments in Bucket"),
    ],
)
def test_what_does_not_fit_is_refused(
    device: Device, gemms: Gemms, increments: list[Increment], message: str
) -> None:
    rig = Rig.of(device, gemms, left_frames=4)
    with pytest.raises(ValueError, match=message):
        rig.encoder.encode(SMALL_BUCKET, increments)


@pytest.mark.parametrize("bucket", [Bucket(0, 8), Bucket(9, 8), Bucket(1, 0), Bucket(1, 93)])
def test_buckets_have_limits(device: Device, gemms: Gemms, bucket: Bucket) -> None:
    rig = Rig.of(device, gemms, left_frames=4)
    with pytest.raises(ValueError, match="Bucket"):
        rig.encoder.prepare(bucket)


@pytest.mark.parametrize("left_frames", [0, MAX_FRAMES])
def test_caches_have_limits(device: Device, gemms: Gemms, left_frames: int) -> None:
    with pytest.raises(ValueError, match="room for 96"):
        make_encoder(device, gemms, Store.of(device, UTTERANCES), left_frames)


def test_caches_say_what_they_cost(device: Device, gemms: Gemms) -> None:
    caches = make_encoder(device, gemms, Store.of(device, UTTERANCES), 7).caches
    slots, layers, width = 5, NARROW.num_layers, NARROW.width
    assert caches.num_bytes == slots * layers * width * (2 * 7 + NARROW.conv_kernel // 2) * 4
