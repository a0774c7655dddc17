"""The GPU encoder against the CPU encoder: lengths, buckets, precisions, company."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder import GpuEncoder, Utterance
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_config import ParakeetConfig
from gpu_service.weights.parakeet_weights import prepare
from tests.gpu_service.cpu.parakeet_random import random_features

from . import emulator
from .encoder_rig import (
    EVEN,
    HALF_TOLERANCE,
    MAX_FRAMES,
    MAX_ROWS,
    NARROW,
    TOLERANCE,
    WIDE,
    Store,
    make_encoder,
    prepared,
    relative_error,
)

Array = NDArray[np.float32]

TINY = Path(__file__).parents[2] / "fixtures" / "parakeet" / "tiny"
LENGTHS = [60, 1, 8, 9, 33, 64, 2]  # mel rows: up to 8 frames
UTTERANCES = [random_features(length, seed=length) for length in LENGTHS]


@functools.cache
def oracle(config: ParakeetConfig = NARROW) -> ParakeetEncoder:
    return ParakeetEncoder(prepared(config), 1)


def expected(utterances: Sequence[Array], config: ParakeetConfig = NARROW) -> list[Array]:
    return [oracle(config).encode_exact(features) for features in utterances]


def answers(
    encoder: GpuEncoder, device: Device, bucket: Bucket, items: Sequence[Utterance]
) -> list[Array]:
    frames = device.download(encoder.encode(bucket, items))
    assert frames.shape[:2] == (bucket.batch, bucket.frames)
    return [frames[index, : item.num_frames] for index, item in enumerate(items)]


def items_of(utterances: Sequence[Array]) -> list[Utterance]:
    return [Utterance(slot, len(features)) for slot, features in enumerate(utterances, 1)]


@pytest.mark.parametrize("bucket", [Bucket(7, 8), Bucket(10, 8), Bucket(6, 16)])
def test_utterances_of_mixed_lengths_equal_the_cpu(
    device: Device, gemms: Gemms, bucket: Bucket
) -> None:
    encoder = make_encoder(device, gemms, prepared(), Store.of(device, UTTERANCES))
    items = items_of(UTTERANCES)[: bucket.batch]
    frames = answers(encoder, device, bucket, items)
    for answer, wanted in zip(frames, expected(UTTERANCES[: bucket.batch]), strict=True):
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 127, 128])
def test_an_utterance_alone_equals_the_cpu(device: Device, gemms: Gemms, num_rows: int) -> None:
    features = [random_features(num_rows, seed=num_rows)]
    encoder = make_encoder(device, gemms, prepared(), Store.of(device, features))
    (answer,) = answers(encoder, device, Bucket(1, 16), items_of(features))
    np.testing.assert_allclose(answer, expected(features)[0], atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("config", [NARROW, EVEN], ids=["products", "fused"])
def test_each_precision_is_as_near_as_it_can_be(
    device: Device, gemms: Gemms, config: ParakeetConfig, precision: Precision
) -> None:
    store = Store.of(device, UTTERANCES)
    encoder = make_encoder(device, gemms, prepared(config), store, precision)
    frames = answers(encoder, device, Bucket(7, 8), items_of(UTTERANCES))
    error = relative_error(np.concatenate(frames), np.concatenate(expected(UTTERANCES, config)))
    assert error < (HALF_TOLERANCE if precision == "fp16" else TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_sizes_beyond_one_block_and_one_vector(
    device: Device, gemms: Gemms, precision: Precision
) -> None:
    """Rows of more than 32 vectors, channels of more than one block, a kernel of 9 taps."""
    utterances = [random_features(length, seed=length) for length in (41, 64)]
    store = Store.of(device, utterances)
    encoder = make_encoder(device, gemms, prepared(WIDE), store, precision)
    frames = answers(encoder, device, Bucket(2, 8), items_of(utterances))
    error = relative_error(np.concatenate(frames), np.concatenate(expected(utterances, WIDE)))
    assert error < (HALF_TOLERANCE if precision == "fp16" else TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_golden_checkpoint(device: Device, gemms: Gemms, precision: Precision) -> None:
    weights = prepare(load_checkpoint(str(TINY)), MAX_FRAMES)
    utterances = [random_features(length, seed=length) for length in (200, 73)]
    encoder = make_encoder(device, gemms, weights, Store.of(device, utterances), precision)
    frames = answers(encoder, device, Bucket(2, 32), items_of(utterances))
    cpu = ParakeetEncoder(weights, 1)
    for answer, features in zip(frames, utterances, strict=True):
        error = relative_error(answer, cpu.encode_exact(features))
        assert error < (HALF_TOLERANCE if precision == "fp16" else TOLERANCE)


def test_a_window_of_a_slot_is_an_utterance_of_its_own(device: Device, gemms: Gemms) -> None:
    features = random_features(100)
    encoder = make_encoder(device, gemms, prepared(), Store.of(device, [features]))
    items = [Utterance(1, 100, 37), Utterance(1, 64, 0), Utterance(1, 90, 89)]
    frames = answers(encoder, device, Bucket(4, 8), items)
    windows = [features[item.first_row : item.num_rows] for item in items]
    for answer, wanted in zip(frames, expected(windows), strict=True):
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("precision", "config"), [("fp32", NARROW), ("fp16", NARROW), ("fp16", EVEN)]
)
def test_company_changes_no_bit(
    device: Device, gemms: Gemms, precision: Precision, config: ParakeetConfig
) -> None:
    """In the same bucket at the same place: with others, with nobody, with hostile ones."""
    loud = [np.float32(1e4) * features for features in UTTERANCES]
    store = Store.of(device, [*UTTERANCES, *loud])
    encoder = make_encoder(device, gemms, prepared(config), store, precision)
    bucket, items = Bucket(7, 8), items_of(UTTERANCES)
    together = answers(encoder, device, bucket, items)
    for index, item in enumerate(items):
        alone = [Utterance(0, 0)] * index + [item]
        noisy = [item if i == index else Utterance(8 + i, len(loud[i])) for i in range(7)]
        for company in (alone, noisy):
            answer = answers(encoder, device, bucket, company)[index]
            np.testing.assert_array_equal(answer, together[index])


def test_an_utterance_of_no_rows_leaves_the_others_alone(device: Device, gemms: Gemms) -> None:
    encoder = make_encoder(device, gemms, prepared(), Store.of(device, UTTERANCES))
    items = [Utterance(1, 0), Utterance(1, 60), Utterance(2, 0)]
    empty, answer, _ = answers(encoder, device, Bucket(3, 8), items)
    assert empty.shape == (0, NARROW.decoder_width)
    np.testing.assert_allclose(answer, expected(UTTERANCES[:1])[0], atol=TOLERANCE)


def test_groups_of_a_batch_add_up(
    device: Device, gemms: Gemms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for the scores of two utterances, and for the subsampling of three."""
    store = Store.of(device, UTTERANCES)
    bucket, items = Bucket(11, 8), items_of(UTTERANCES)
    whole = answers(make_encoder(device, gemms, prepared(), store), device, bucket, items)
    monkeypatch.setattr("gpu_service.gpu.encoder_attention.SCORE_ELEMENTS", 1)
    monkeypatch.setattr("gpu_service.gpu.encoder_subsampling.GROUP_FRAMES", 1)
    encoder = make_encoder(device, gemms, prepared(), store)
    for answer, wanted in zip(answers(encoder, device, bucket, items), whole, strict=True):
        np.testing.assert_allclose(answer, wanted, atol=TOLERANCE)


def test_many_batches_without_a_wait() -> None:
    """The device may read descriptors long after encode() returned: more than there is room for."""
    if reason := emulator.why_unavailable():
        pytest.skip(reason)
    device = emulator.EmulatedDevice(deferred=True)
    store = Store.of(device, UTTERANCES)
    encoder = make_encoder(device, emulator.EmulatedGemms(device), prepared(), store)
    bucket, wanted = Bucket(1, 8), expected(UTTERANCES)
    kept = []
    for turn in range(70):
        index = turn % len(UTTERANCES)
        frames = encoder.encode(bucket, [items_of(UTTERANCES)[index]])
        copy = device.empty(frames.shape, frames.dtype)
        device.copy(copy, frames)
        kept.append((index, copy))
    for index, copy in kept:
        answer = device.download(copy)[0, : len(wanted[index])]
        np.testing.assert_allclose(answer, wanted[index], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("bucket", "items", "message"),
    [
        (Bucket(1, 8), [Utterance(1, 60)] * 2, "2 utterances in"),
        (Bucket(1, 8), [Utterance(1, 65)], "num_rows=65"),
        (Bucket(1, 8), [Utterance(1, 8, 24)], "first_row=24"),
        (Bucket(0, 8), [], "1 to 12 rows"),
        (Bucket(13, 8), [], "1 to 12 rows"),
        (Bucket(1, 12), [], "multiple of 8, up to 32"),
        (Bucket(1, 0), [], "multiple of 8, up to 32"),
        (Bucket(1, MAX_FRAMES + 8), [], "multiple of 8, up to 32"),
        (Bucket(12, 16), [], f"more than {MAX_ROWS} rows"),
    ],
)
def test_what_does_not_fit_is_refused(
    device: Device, gemms: Gemms, bucket: Bucket, items: list[Utterance], message: str
) -> None:
    encoder = make_encoder(device, gemms, prepared(), Store.of(device, UTTERANCES))
    with pytest.raises(ValueError, match=message):
        encoder.encode(bucket, items)


def test_frames_without_positions_are_refused(device: Device, gemms: Gemms) -> None:
    weights = prepared(max_frames=MAX_FRAMES - 1)
    with pytest.raises(ValueError, match="32 frames, but positions for 31"):
        make_encoder(device, gemms, weights, Store.of(device, UTTERANCES))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(NARROW, width=36), "width is 36"),
        (replace(NARROW, num_heads=2), "head width is 12"),
        (replace(NARROW, ffn_width=44), "feed forward width is 44"),
        (replace(NARROW, subsampling_channels=4), "channels is 4"),
        (replace(NARROW, decoder_width=10), "decoder width is 10"),
    ],
)
def test_sizes_that_are_no_whole_vectors_are_refused(
    device: Device, gemms: Gemms, config: ParakeetConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_encoder(device, gemms, prepared(config), Store.of(device, UTTERANCES))
