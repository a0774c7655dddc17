"""An engine folder that was built with TensorRT, opened again: the same encoder comes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gpu_service.builder.backends import make_tensorrt
from gpu_service.builder.build import BuildOptions, Job, MadeEncoder, Progress, build
from gpu_service.builder.manifest import PLAN, EncoderKind, Machine, read_manifest
from gpu_service.builder.reference import load_reference
from gpu_service.errors import ModelFileError
from gpu_service.gpu.gate_backend import DeviceBackend, FixedStore
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.trt_compat import TensorRtMissingError, TrtPrecision
from gpu_service.gpu.trt_engine import open_tensorrt
from gpu_service.weights.parakeet_weights import ParakeetWeights
from tests.gpu_service.builder.fake_engine import FakeTensorRtRuntime
from tests.gpu_service.builder.fakes import H100, Told

from .emulator import EmulatedDevice

TINY = "tests/fixtures/parakeet/tiny"


class EmulatedToolchain:
    """TensorRT is faked, everything around it is not."""

    machine: Machine = H100

    def __init__(self, trt: FakeTensorRtRuntime) -> None:
        self.trt = trt

    def obstacles(self, precision: TrtPrecision) -> Mapping[EncoderKind, str]:
        return {"tensorrt": ""}

    def make(self, kind: EncoderKind, job: Job, progress: Progress) -> MadeEncoder:
        assert self.trt.device is not None
        return make_tensorrt(self.trt, self.trt.device, job, progress)

    def tune(
        self, weights: ParakeetWeights, settings: GpuParakeetSettings, progress: Progress
    ) -> Mapping[str, bytes]:
        return {}


@pytest.fixture(scope="module", params=["8.6.0", "11.4.0"])
def trt(request: pytest.FixtureRequest) -> FakeTensorRtRuntime:
    return FakeTensorRtRuntime(request.param, EmulatedDevice())


@pytest.fixture(scope="module")
def folder(trt: FakeTensorRtRuntime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engines") / "tiny"
    options = BuildOptions(TINY, out, encoder="tensorrt", max_batch=1, max_utterance_ms=1_000)
    build(options, EmulatedToolchain(trt), Told())
    return out


def test_it_answers_as_it_did_in_the_gate(
    folder: Path, trt: FakeTensorRtRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    manifest = read_manifest(folder)
    device = trt.device
    assert device is not None
    reference = load_reference(folder / "reference.safetensors")
    store = FixedStore(device, manifest.max_frames)
    encoder = open_tensorrt(folder, manifest, device, store)
    assert encoder.buckets == tuple(result.bucket for result in manifest.chosen.results)
    result = manifest.chosen.results[0]
    backend = DeviceBackend("tensorrt", device, store, encoder, encoder.buckets)
    utterance = reference.of(result.bucket.frames)[0]
    found = backend.encode(result.bucket, [utterance.features])[0, : len(utterance.projected)]
    difference = np.linalg.norm(found - utterance.projected)
    error = float(difference / np.linalg.norm(utterance.projected))
    assert error == pytest.approx(result.relative_error, rel=1e-5)


def test_a_plan_that_is_another_one_is_not_run(
    folder: Path, trt: FakeTensorRtRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    manifest = read_manifest(folder)
    device = trt.device
    assert device is not None
    plan = folder / PLAN
    data = plan.read_bytes()
    try:
        plan.write_bytes(data[::-1])
        with pytest.raises(ModelFileError, match="not the file that was checked"):
            open_tensorrt(folder, manifest, device, FixedStore(device, 1))
    finally:
        plan.write_bytes(data)


def test_without_tensorrt_it_says_what_to_install(
    folder: Path, trt: FakeTensorRtRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    manifest = read_manifest(folder)
    device = trt.device
    assert device is not None
    with pytest.raises(TensorRtMissingError, match="extra-index-url"):
        open_tensorrt(folder, manifest, device, FixedStore(device, 1))
