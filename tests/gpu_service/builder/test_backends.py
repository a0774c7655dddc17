"""The two encoders that a build makes, as the gate drives them, on the emulated device."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.builder.accuracy import LIMITS
from gpu_service.builder.backends import make_cublas, make_tensorrt
from gpu_service.builder.build import Job
from gpu_service.builder.engine_folder import as_stored
from gpu_service.builder.gate import examine
from gpu_service.builder.manifest import Bucket
from gpu_service.builder.reference import Reference, make_reference
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.gpu.trt_compat import TrtPrecision
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms

from .fake_engine import FakeTensorRtRuntime
from .fakes import Told

BUCKETS = (Bucket(1, 8), Bucket(3, 16))


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(load_checkpoint("tests/fixtures/parakeet/tiny"), 16)


@pytest.fixture(scope="module")
def reference(weights: ParakeetWeights) -> Reference:
    return make_reference([8, 16], ParakeetEncoder(weights, 1).encode_exact)


@pytest.fixture
def device() -> EmulatedDevice:
    return EmulatedDevice()


def job_of(weights: ParakeetWeights, precision: TrtPrecision = "fp16") -> Job:
    return Job(as_stored(weights, precision), precision, BUCKETS, 3, b"before")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_our_kernels_pass(
    precision: TrtPrecision, weights: ParakeetWeights, reference: Reference, device: EmulatedDevice
) -> None:
    made = make_cublas(device, EmulatedGemms(device), job_of(weights, precision))
    candidate = examine(made.backend, reference, weights.decoder, LIMITS[precision])
    assert candidate.problem == ""
    assert candidate.encoder == "cublas"
    assert (made.files, made.plan_buckets) == ({}, ())


@pytest.mark.parametrize(
    ("version", "precision"),
    [("8.6.0", "fp16"), ("11.4.0", "fp16"), ("11.4.0", "bf16")],
)
def test_tensorrt_passes(
    version: str,
    precision: TrtPrecision,
    weights: ParakeetWeights,
    reference: Reference,
    device: EmulatedDevice,
) -> None:
    trt = FakeTensorRtRuntime(version, device)
    told = Told()
    made = make_tensorrt(trt, device, job_of(weights, precision), told)
    candidate = examine(made.backend, reference, weights.decoder, LIMITS[precision])
    assert candidate.problem == ""
    assert trt.num_builds == 1
    assert set(made.files) == {"encoder.plan", "timing.cache"}
    assert made.files["timing.cache"].startswith(b"before")
    assert made.plan_buckets == BUCKETS
    assert all(result.is_graph for result in candidate.results)
    assert bool(told.steps) == (version != "8.6.0"), "which builds in silence"


def test_what_can_not_be_captured_is_said(
    weights: ParakeetWeights, reference: Reference, device: EmulatedDevice
) -> None:
    trt = FakeTensorRtRuntime("8.6.0", device, can_capture=False)
    made = make_tensorrt(trt, device, job_of(weights), Told())
    candidate = examine(made.backend, reference, weights.decoder, LIMITS["fp16"])
    assert candidate.problem == ""
    assert not any(result.is_graph for result in candidate.results)


def test_a_wrong_engine_is_caught(
    weights: ParakeetWeights, reference: Reference, device: EmulatedDevice
) -> None:
    trt = FakeTensorRtRuntime("11.4.0", device, spoil=lambda values: np.flip(values, axis=1))
    made = make_tensorrt(trt, device, job_of(weights), Told())
    candidate = examine(made.backend, reference, weights.decoder, LIMITS["fp16"])
    assert "relative error" in candidate.problem
