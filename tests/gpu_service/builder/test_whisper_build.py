"""`earwire build` of Whisper: our kernels on the emulator, TensorRT faked, and opened again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpu_service.builder import whisper_build, whisper_gate, whisper_reference
from gpu_service.builder.__main__ import main
from gpu_service.builder.build import BuildOptions, Progress
from gpu_service.builder.gate import GateError
from gpu_service.builder.manifest import (
    Bucket,
    EncoderKind,
    Machine,
    WhisperManifest,
    is_whisper_engine,
    read_whisper_manifest,
    write_manifest,
)
from gpu_service.builder.whisper_backends import make_own_whisper, make_tensorrt_whisper
from gpu_service.builder.whisper_build import MadeWhisper, WhisperJob, build_whisper
from gpu_service.builder.whisper_reference import (
    load_whisper_reference,
    make_whisper_reference,
    save_whisper_reference,
)
from gpu_service.errors import ModelError, ModelFileError
from gpu_service.gpu.device import DeviceError
from gpu_service.gpu.trt_compat import TrtPrecision
from gpu_service.gpu.whisper_parts import WhisperSizes
from gpu_service.recognizer import SessionOptions, StepInput, Want
from gpu_service.weights.whisper_checkpoint import load_whisper
from tests.fixtures.whisper.random_checkpoint import write_folder
from tests.fixtures.whisper.signals import signal
from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms

from . import fake_cuda
from .fake_engine import FakeTensorRtRuntime
from .fakes import H100, Told

NUM_STEPS, POSITIONS = 3, 12
SIZES = WhisperSizes(max_streams=2, max_batch=2, final_batch=1, positions=POSITIONS)


class EmulatedWhisperToolchain:
    """The emulator, and a TensorRT that is faked. `failing` encoders can not be made."""

    def __init__(
        self,
        machine: Machine = H100,
        failing: Mapping[EncoderKind, Exception] | None = None,
        spoiled: float = 0.0,
    ) -> None:
        self.machine = machine
        self.failing = failing or {}
        self.made: list[EncoderKind] = []
        self.device = EmulatedDevice()
        self.trt = FakeTensorRtRuntime(
            "11.4.0", self.device, spoil=lambda values: values + np.float32(spoiled) * values[:, :1]
        )

    def obstacles(self, precision: TrtPrecision) -> Mapping[EncoderKind, str]:
        return {"cublas": "", "tensorrt": ""}

    def make_whisper(self, kind: EncoderKind, job: WhisperJob, progress: Progress) -> MadeWhisper:
        self.made.append(kind)
        if kind in self.failing:
            raise self.failing[kind]
        gemms = EmulatedGemms(self.device)
        if kind == "cublas":
            return make_own_whisper(self.device, gemms, job)
        return make_tensorrt_whisper(self.trt, self.device, gemms, job, progress)

    def tune_whisper(self, job: WhisperJob, progress: Progress) -> Mapping[str, bytes]:
        return {"tactics.json": b"{}"}


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Fewer decisions and runs, for the emulator's sake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper_reference, "NUM_STEPS", NUM_STEPS)
        patch.setattr(whisper_gate, "MAX_TIMED_RUNS", 1)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("models") / "random"))


@pytest.fixture(scope="module")
def engine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, with our own encoder."""
    out = tmp_path_factory.mktemp("engines") / "engine"
    build_whisper(
        BuildOptions(model, out, encoder="cublas"), EmulatedWhisperToolchain(), Told(), SIZES
    )
    return out


def test_both_encoders_pass_and_the_folder_is_a_checkpoint(model: str, tmp_path: Path) -> None:
    told, options = Told(), BuildOptions(model, tmp_path / "engine")
    built = build_whisper(options, EmulatedWhisperToolchain(), told, SIZES)
    assert [candidate.problem for candidate in built.candidates] == ["", ""]
    buckets = [Bucket(1, POSITIONS), Bucket(2, POSITIONS)]
    assert [[r.bucket for r in c.results] for c in built.candidates] == [buckets] * 2
    for candidate in built.candidates:
        assert candidate.decisions is not None
        assert candidate.decisions.count == 2 * NUM_STEPS
        assert 0 < max(r.relative_error for r in candidate.results) < 1e-2
    assert told.notes == []
    assert read_whisper_manifest(options.out) == built
    assert is_whisper_engine(options.out)
    names = {path.name for path in options.out.iterdir()} - {"encoder.plan", "timing.cache"}
    assert names == {
        "manifest.json", "config.json", "generation_config.json", "tokenizer.json",
        "model.safetensors", "reference.safetensors", "tactics.json",
    }  # fmt: skip
    source, stored = load_whisper(model), load_whisper(str(options.out))
    assert (stored.config, stored.vocabulary) == (source.config, source.vocabulary)
    matrix, vector = "decoder.layers.1.fc1.weight", "decoder.layers.1.fc1.bias"
    half = source.tensor(matrix).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(stored.tensor(matrix), half)
    np.testing.assert_array_equal(stored.tensor(vector), source.tensor(vector))


def test_the_same_engine_is_not_built_twice_and_another_is_not_replaced(
    model: str, engine: Path
) -> None:
    toolchain, told = EmulatedWhisperToolchain(), Told()
    options = BuildOptions(model, engine, encoder="cublas")
    assert build_whisper(options, toolchain, told, SIZES) == read_whisper_manifest(engine)
    assert toolchain.made == []
    assert told.notes == [f"{engine} is up to date"]
    with pytest.raises(ModelFileError, match="another engine, of random"):
        build_whisper(replace(options, precision="fp32"), toolchain, Told(), SIZES)


def test_the_manifest_names_a_batch_that_there_is(model: str, tmp_path: Path) -> None:
    options = BuildOptions(model, tmp_path / "engine", encoder="cublas")
    sizes = replace(SIZES, max_batch=3)
    built = build_whisper(options, EmulatedWhisperToolchain(), Told(), sizes)
    assert built.max_batch == 2
    assert [result.bucket.batch for result in built.chosen.results] == [1, 2]


def test_a_wrong_encoder_is_not_kept(model: str, tmp_path: Path) -> None:
    told, options = Told(), BuildOptions(model, tmp_path / "engine", encoder="tensorrt")
    with pytest.raises(GateError, match="no engine was kept"):
        build_whisper(options, EmulatedWhisperToolchain(spoiled=0.5), told, SIZES)
    assert "tensorrt is not used: 1 x 12 frames: relative error" in told.notes[0]
    assert not options.out.exists()


def test_what_can_not_be_made_leaves_the_other_and_a_lost_device_ends_it(
    model: str, tmp_path: Path
) -> None:
    for number, error in enumerate((ModelError("no library"), DeviceError("no kernel image"))):
        options = BuildOptions(model, tmp_path / str(number))
        toolchain = EmulatedWhisperToolchain(failing={"tensorrt": error})
        manifest = build_whisper(options, toolchain, Told(), SIZES)
        assert (manifest.encoder, manifest.candidates[1].problem) == ("cublas", str(error))
    lost = DeviceError("illegal address", is_sticky=True)
    toolchain = EmulatedWhisperToolchain(failing={"cublas": lost})
    with pytest.raises(ModelError, match="the GPU failed under the cublas encoder"):
        build_whisper(BuildOptions(model, tmp_path / "lost"), toolchain, Told(), SIZES)


def test_a_reference_is_what_was_saved(model: str, tmp_path: Path) -> None:
    made = make_whisper_reference(load_whisper(model), SIZES.positions)
    save_whisper_reference(tmp_path / "reference", made)
    for ours, theirs in zip(load_whisper_reference(tmp_path / "reference"), made, strict=True):
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        np.testing.assert_array_equal(ours.states, theirs.states)
        assert (ours.prompt, ours.path, ours.chosen) == (theirs.prompt, theirs.path, theirs.chosen)
        assert ours.margins == pytest.approx(theirs.margins)
        assert ours.prompts()[2] == ours.prompt + ours.path[:2]
        assert min(ours.margins) >= 0


def elsewhere(engine: Path) -> WhisperManifest:
    """Pretend that the engine was made on another machine."""
    manifest = read_whisper_manifest(engine)
    moved = msgspec.structs.replace(
        manifest, machine=msgspec.structs.replace(manifest.machine, gpu="NVIDIA H200")
    )
    write_manifest(engine, moved)
    return moved


def test_an_engine_from_elsewhere_passes_the_gate_once_and_serves(
    engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_cuda.install(monkeypatch)
    from gpu_service.gpu.whisper_open import open_whisper_folder

    elsewhere(engine)
    caplog.set_level(logging.INFO, "earwire.service")
    for is_checked in (True, False):
        caplog.clear()
        recognizer = open_whisper_folder(engine, SIZES, None)
        assert ("computes right on this machine too" in caplog.text) is is_checked
    assert recognizer.model_id == "random"
    handle = recognizer.open(SessionOptions(language="de"))
    (final,) = recognizer.step([StepInput(handle, signal(0.2, 1), Want.FINAL)])
    assert final is not None
    assert final.num_samples == 3_200
    with pytest.raises(ModelError, match="was built in fp16"):
        open_whisper_folder(engine, SIZES, "fp32")


def test_a_tensorrt_engine_is_opened_with_its_plan(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    toolchain = EmulatedWhisperToolchain()
    options = BuildOptions(model, tmp_path / "engine", encoder="tensorrt")
    manifest = build_whisper(options, toolchain, Told(), SIZES)
    assert [result.is_graph for result in manifest.chosen.results] == [True, True]
    device = fake_cuda.FakeCudaDevice()
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRtRuntime("11.4.0", device))  # type: ignore[arg-type]
    from gpu_service.gpu import whisper_open

    monkeypatch.setattr(whisper_open, "open_device", lambda: device)
    recognizer = whisper_open.open_whisper_folder(options.out, SIZES, None)
    handle = recognizer.open(SessionOptions(language="de"))
    (final,) = recognizer.step([StepInput(handle, signal(0.2, 1), Want.FINAL)])
    assert final is not None
    plan = options.out / "encoder.plan"
    plan.write_bytes(plan.read_bytes()[::-1])
    with pytest.raises(ModelFileError, match="not the file that was checked"):
        whisper_open.open_whisper_folder(options.out, SIZES, None)


def test_the_command_builds_what_a_service_opens(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And every product that the service plans was tuned."""
    fake_cuda.install(monkeypatch)
    monkeypatch.setattr(whisper_build, "WhisperSizes", lambda max_batch: SIZES)
    out = tmp_path / "engine"
    assert main([model, "--out", str(out)]) == 0
    shown, told = capsys.readouterr()
    assert "without tensorrt: TensorRT is not installed" in told
    assert f"{out} is ready: random, fp16" in shown
    from gpu_service.gpu.whisper_open import open_whisper_folder

    open_whisper_folder(out, SIZES, None).warm_up()
    served = fake_cuda.MADE[-1]
    assert served.tactics.algorithms
    assert served.untuned == []
