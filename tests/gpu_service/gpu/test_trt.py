"""TensorRtEncoder on the emulated device: our kernel and our bindings are real, TensorRT is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.builder.network_weights import network_weights
from gpu_service.builder.tensorrt_plan import build_plan
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.gpu.device import Device, DeviceArray, DeviceError
from gpu_service.gpu.encoder import Utterance
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.trt import TensorRtEncoder
from gpu_service.gpu.trt_compat import TrtPrecision
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.builder.fake_engine import FakeTensorRtRuntime
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint, random_features

from .emulator import EmulatedDevice

Array = NDArray[np.float32]
MAX_FRAMES = 24
MAX_ROWS = 8 * MAX_FRAMES + 5
BUCKETS = (Bucket(1, 3), Bucket(2, 8), Bucket(3, 16))


@dataclass(frozen=True, slots=True)
class Store:
    """Slots with rows that still have to be normalised."""

    mel: DeviceArray
    mean: DeviceArray
    scale: DeviceArray


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(random_checkpoint(SMALL), MAX_FRAMES)


@pytest.fixture(scope="module")
def utterances() -> list[Array]:
    return [random_features(rows, seed=rows) for rows in (64, 17, 121, 1)]


@pytest.fixture
def device() -> EmulatedDevice:
    return EmulatedDevice()


def store_of(device: Device, utterances: Sequence[Array]) -> Store:
    random = np.random.default_rng(5)
    count = len(utterances)
    mean = random.standard_normal((count, 128)).astype(np.float32)
    scale = random.uniform(0.5, 2.0, (count, 128)).astype(np.float32)
    mel = np.full((count, MAX_ROWS, 128), np.nan, np.float32)
    for slot, features in enumerate(utterances):
        mel[slot, : len(features)] = features * scale[slot] + mean[slot]
    return Store(device.upload(mel), device.upload(mean), device.upload(scale))


def plan_of(trt: Any, weights: ParakeetWeights, precision: TrtPrecision = "fp32") -> bytes:
    arrays = network_weights(weights, precision)
    return build_plan(trt, weights.config, arrays, BUCKETS, precision, level=0).data


def encoder_of(
    trt: Any, device: Any, weights: ParakeetWeights, store: Store, precision: TrtPrecision = "fp32"
) -> TensorRtEncoder:
    return TensorRtEncoder(
        trt, device, plan_of(trt, weights, precision), BUCKETS, store, max_frames=MAX_FRAMES,
        output_width=SMALL.decoder_width,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["8.6.0", "11.4.0"])
@pytest.mark.parametrize("can_capture", [False, True])
@pytest.mark.parametrize("deferred", [False, True])
def test_it_equals_the_cpu_encoder(
    version: str,
    can_capture: bool,
    deferred: bool,
    weights: ParakeetWeights,
    utterances: list[Array],
) -> None:
    device = EmulatedDevice(deferred=deferred)
    trt = FakeTensorRtRuntime(version, device, can_capture=can_capture)
    store = store_of(device, utterances)
    encoder = encoder_of(trt, device, weights, store)
    oracle = ParakeetEncoder(weights, 1)
    for bucket, slots in ((BUCKETS[2], (2, 0, 3)), (BUCKETS[1], (1,)), (BUCKETS[0], (3,))):
        batch = [Utterance(slot, len(utterances[slot])) for slot in slots]
        found = device.download(encoder.encode(bucket, batch))
        assert encoder.is_captured(bucket) == can_capture
        assert found.shape == (bucket.batch, bucket.frames, SMALL.decoder_width)
        assert np.isfinite(found).all()
        for row, slot in enumerate(slots):
            expected = oracle.encode_exact(utterances[slot])
            np.testing.assert_allclose(found[row, : len(expected)], expected, atol=3e-5)


def test_an_utterance_may_begin_behind_its_first_row(
    device: EmulatedDevice, weights: ParakeetWeights, utterances: list[Array]
) -> None:
    trt = FakeTensorRtRuntime("11.4.0", device)
    encoder = encoder_of(trt, device, weights, store_of(device, utterances))
    found = device.download(encoder.encode(BUCKETS[1], [Utterance(2, 60, first_row=24)]))
    expected = ParakeetEncoder(weights, 1).encode_exact(utterances[2][24:60])
    np.testing.assert_allclose(found[0, : len(expected)], expected, atol=3e-5)


def test_what_does_not_fit_is_refused(
    device: EmulatedDevice, weights: ParakeetWeights, utterances: list[Array]
) -> None:
    trt = FakeTensorRtRuntime("11.4.0", device)
    encoder = encoder_of(trt, device, weights, store_of(device, utterances))
    with pytest.raises(ValueError, match="2 utterances"):
        encoder.encode(BUCKETS[0], [Utterance(0, 8), Utterance(1, 8)])
    with pytest.raises(ValueError, match="num_rows=25"):
        encoder.encode(BUCKETS[0], [Utterance(0, 25)])
    with pytest.raises(ValueError, match="the plan has it not"):
        encoder.prepare(Bucket(7, 7))


def test_a_plan_that_does_not_load_says_why(
    device: EmulatedDevice, weights: ParakeetWeights, utterances: list[Array]
) -> None:
    trt = FakeTensorRtRuntime("11.4.0", device)
    store = store_of(device, utterances)

    def load(plan: bytes, buckets: Sequence[Bucket]) -> None:
        TensorRtEncoder(
            trt, device, plan, buckets, store, max_frames=MAX_FRAMES,
            output_width=SMALL.decoder_width,
        )  # fmt: skip

    with pytest.raises(DeviceError, match="can not load the plan: the plan is of another version"):
        load(b"old", BUCKETS)
    with pytest.raises(DeviceError, match="a plan of 3 profiles for 1 buckets"):
        load(plan_of(trt, weights), BUCKETS[:1])


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_a_real_engine_equals_the_cpu_encoder(
    precision: TrtPrecision, limit: float, weights: ParakeetWeights, utterances: list[Array]
) -> None:
    trt = pytest.importorskip("tensorrt")
    from gpu_service.gpu.cuda import CudaDevice

    device = CudaDevice()
    encoder = encoder_of(trt, device, weights, store_of(device, utterances), precision)
    batch = [Utterance(slot, len(utterances[slot])) for slot in (2, 0, 3)]
    found = device.download(encoder.encode(BUCKETS[2], batch))
    assert encoder.is_captured(BUCKETS[2])
    for row, utterance in enumerate(batch):
        expected = ParakeetEncoder(weights, 1).encode_exact(utterances[utterance.slot])
        difference = np.linalg.norm(found[row, : len(expected)] - expected)
        assert difference < limit * np.linalg.norm(expected)
