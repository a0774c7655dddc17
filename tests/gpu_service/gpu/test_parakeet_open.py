"""An engine folder on a machine that it was not made on: checked once, and then served."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gpu_service.builder import build as build_module
from gpu_service.builder.build import BuildOptions, build
from gpu_service.builder.gpu_toolchain import GpuToolchain
from gpu_service.builder.manifest import read_manifest, write_manifest
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from tests.gpu_service.builder import fake_cuda
from tests.gpu_service.builder.fakes import Told

TINY = "tests/fixtures/parakeet/tiny"
SMALL = GpuParakeetSettings(
    max_utterance_samples=16_000, max_streams=2, max_drafts=2, draft_rows=64, final_batch=1
)


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "fp32"])
def test_an_engine_from_elsewhere_passes_the_gate_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
) -> None:
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(build_module, "service_settings", lambda *_: SMALL)
    options = BuildOptions(
        TINY, tmp_path / "engine", max_batch=1, max_utterance_ms=1_000,
        precision=precision,  # type: ignore[arg-type]
    )  # fmt: skip
    manifest = build(options, GpuToolchain(), Told())
    elsewhere = msgspec.structs.replace(manifest.machine, gpu="NVIDIA H200")
    write_manifest(options.out, msgspec.structs.replace(manifest, machine=elsewhere))
    from gpu_service.gpu.parakeet_open import open_engine_folder

    caplog.set_level(logging.INFO, "earwire.service")
    for is_checked in (True, False):
        caplog.clear()
        recognizer = open_engine_folder(options.out, SMALL, None)
        assert recognizer.settings == replace(SMALL, precision=precision)
        assert ("computes right on this machine too" in caplog.text) is is_checked
    assert len(list(options.out.glob("checked-*.json"))) == 1
    assert read_manifest(options.out).machine.gpu == "NVIDIA H200"
