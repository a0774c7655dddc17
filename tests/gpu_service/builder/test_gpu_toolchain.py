"""`earwire build` with what a machine has installed: here a GPU (the emulator) and no TensorRT."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gpu_service.builder import build as build_module
from gpu_service.builder import gpu_toolchain
from gpu_service.builder.__main__ import main
from gpu_service.builder.buckets import service_settings
from gpu_service.builder.manifest import read_manifest
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.trt_compat import TrtPrecision

from . import fake_cuda
from .fakes import Told

TINY = "tests/fixtures/parakeet/tiny"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, and a service of few streams, for the emulator's sake."""
    fake_cuda.install(monkeypatch)

    def few(max_utterance_ms: int, precision: TrtPrecision) -> GpuParakeetSettings:
        settings = service_settings(max_utterance_ms, precision)
        return replace(settings, max_streams=2, max_drafts=2, draft_rows=64, final_batch=1)

    monkeypatch.setattr(build_module, "service_settings", few)


@pytest.mark.usefixtures("machine")
def test_without_tensorrt_our_own_kernels_are_built_and_a_service_opens_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "engine"
    arguments = [TINY, "--out", str(out), "--max-batch", "1", "--max-utterance-ms", "1000"]
    assert main(arguments) == 0
    shown, told = capsys.readouterr()
    assert "without tensorrt: TensorRT is not installed" in told
    assert "--extra-index-url https://pypi.nvidia.com" in told
    assert "tuning matrix products ..." in told
    assert f"run it with: earwire serve --model {out}" in shown
    manifest = read_manifest(out)
    assert [candidate.encoder for candidate in manifest.candidates] == ["cublas"]
    assert json.loads((out / "tactics.json").read_text())["library"] == "fake"
    from gpu_service.gpu.parakeet_open import open_engine_folder

    settings = GpuParakeetSettings(
        max_utterance_samples=16_000, max_streams=2, max_drafts=2, draft_rows=64, final_batch=1
    )
    recognizer = open_engine_folder(out, settings, None)
    recognizer.warm_up()
    served = fake_cuda.MADE[-1]
    assert served.tactics.algorithms
    assert served.untuned == []


@pytest.mark.usefixtures("machine")
def test_without_the_products_there_is_nothing_to_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_library(*_: object, **__: object) -> None:
        raise RuntimeError("libcublasLt.so was not found")

    broken: Any = ModuleType("gpu_service.gpu.cublaslt")
    broken.CublasGemms = no_library
    for module, reason in ((broken, "libcublasLt.so was not found"), (None, "is missing")):
        monkeypatch.setitem(sys.modules, "gpu_service.gpu.cublaslt", module)  # type: ignore[arg-type]
        assert main([TINY, "--out", str(tmp_path / "engine")]) == 1
        told = capsys.readouterr().err
        assert told.startswith("earwire build: cublas: ")
        assert reason in told
        assert "pip install 'earwire[gpu]'" in told
        assert "tensorrt: TensorRT is not installed" in told


@pytest.mark.usefixtures("machine")
def test_bfloat16_is_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain = gpu_toolchain.GpuToolchain()
    assert toolchain.obstacles("bf16")["cublas"] == "it computes in fp16 or fp32"
    monkeypatch.setitem(sys.modules, "gpu_service.gpu.cublaslt", None)
    told = Told()
    weights: Any = None
    assert toolchain.tune(weights, GpuParakeetSettings(), told) == {}
    assert "nothing is tuned" in told.notes[0]
