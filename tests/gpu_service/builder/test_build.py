"""`earwire build` from options to folder, with encoders that are faked on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import SafetensorError

from gpu_service.builder.build import BuildOptions, build, choose, mean_ms
from gpu_service.builder.engine_folder import as_stored, read_weights
from gpu_service.builder.gate import GateError
from gpu_service.builder.manifest import (
    Bucket,
    BucketResult,
    Candidate,
    check_files,
    is_engine_folder,
    read_manifest,
)
from gpu_service.builder.reference import load_reference
from gpu_service.builder.tensorrt_plan import PlanBuildError
from gpu_service.errors import ModelError
from gpu_service.gpu.device import DeviceError
from gpu_service.weights import saving
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare

from .fakes import H100, FakeToolchain, Told, off_by

TINY = "tests/fixtures/parakeet/tiny"


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    return BuildOptions(TINY, tmp_path / "engine", max_batch=2, max_utterance_ms=1_000)


def test_the_folder_stands_on_its_own(options: BuildOptions) -> None:
    built = build(options, FakeToolchain(), Told())
    manifest = read_manifest(options.out)
    assert manifest == built
    check_files(options.out, manifest, manifest.files)
    assert {path.name for path in options.out.iterdir()} == {
        "manifest.json", "encoder.safetensors", "decoder.safetensors", "vocabulary.json",
        "reference.safetensors", "tactics.json",
    }  # fmt: skip
    read = read_weights(options.out, manifest)
    expected = as_stored(prepare(load_checkpoint(TINY), manifest.max_frames), "fp16")
    assert read.vocabulary == expected.vocabulary
    assert read.config == expected.config
    assert set(read.encoder) == set(expected.encoder)
    for name, array in expected.encoder.items():
        np.testing.assert_array_equal(read.encoder[name], array)
    np.testing.assert_array_equal(read.decoder.lstm[1].w_hidden, expected.decoder.lstm[1].w_hidden)
    assert read.decoder.durations == expected.decoder.durations
    reference = load_reference(options.out / "reference.safetensors")
    assert all(reference.of(result.bucket.frames) for result in manifest.chosen.results)


def test_the_faster_encoder_is_kept_and_the_times_of_both(options: BuildOptions) -> None:
    manifest = build(options, FakeToolchain(), Told())
    assert manifest.encoder == "cublas"
    assert [mean_ms(c) for c in manifest.candidates] == pytest.approx([1.0, 2.0])
    assert manifest.machine.libraries.keys() == {
        "earwire", "cuda-bindings", "nvmath-python", "cublas",
    }  # fmt: skip
    toolchain = FakeToolchain(times_ms={"cublas": 3.0, "tensorrt": 2.0})
    manifest = build(replace(options, force=True), toolchain, Told())
    assert manifest.encoder == "tensorrt"
    assert manifest.plan_buckets == tuple(r.bucket for r in manifest.chosen.results)
    assert (options.out / "encoder.plan").read_bytes() == b"plan"


def test_one_encoder_may_be_asked_for(options: BuildOptions) -> None:
    toolchain = FakeToolchain()
    manifest = build(replace(options, encoder="tensorrt"), toolchain, Told())
    assert toolchain.made == ["tensorrt"]
    assert manifest.encoder == "tensorrt"


def test_what_is_missing_is_said_and_the_other_one_built(options: BuildOptions) -> None:
    told = Told()
    toolchain = FakeToolchain(missing={"tensorrt": "TensorRT is not installed (pip install it)"})
    assert build(options, toolchain, told).encoder == "cublas"
    assert told.notes == ["without tensorrt: TensorRT is not installed (pip install it)"]
    with pytest.raises(ModelError, match="tensorrt: TensorRT is not installed"):
        build(replace(options, encoder="tensorrt", force=True), toolchain, Told())


def test_an_engine_that_fails_the_gate_is_not_kept(options: BuildOptions) -> None:
    told = Told()
    toolchain = FakeToolchain({"cublas": off_by(0.2), "tensorrt": off_by(1e-3)})
    manifest = build(options, toolchain, told)
    assert manifest.encoder == "tensorrt"
    assert "cublas is not used: 1 x 8 frames: relative error 2.0" in told.notes[0]
    toolchain = FakeToolchain({"cublas": off_by(0.2), "tensorrt": off_by(0.3)})
    worse = replace(options, out=options.out.with_name("worse"))
    with pytest.raises(GateError, match=r"cublas: .*relative error 2\.\d\de-01, at most 1e-02"):
        build(worse, toolchain, Told())
    assert [path.name for path in options.out.parent.iterdir()] == ["engine"]


def test_an_engine_that_can_not_be_built_leaves_the_other(options: BuildOptions) -> None:
    for fault in (PlanBuildError("no implementation"), DeviceError("no kernel image")):
        toolchain = FakeToolchain({"cublas": fault, "tensorrt": off_by(0.0)})
        manifest = build(replace(options, force=True), toolchain, Told())
        assert manifest.encoder == "tensorrt"
        assert manifest.candidates[0].problem == str(fault)


def test_a_lost_device_ends_it(options: BuildOptions) -> None:
    lost = DeviceError("CUDA: illegal address", is_sticky=True)
    with pytest.raises(ModelError, match="the GPU failed under the cublas encoder"):
        build(options, FakeToolchain({"cublas": lost, "tensorrt": off_by(0.0)}), Told())


def test_the_same_engine_is_not_built_twice(options: BuildOptions) -> None:
    first = build(options, FakeToolchain(), Told())
    toolchain, told = FakeToolchain(), Told()
    assert build(options, toolchain, told) == first
    assert toolchain.made == []
    assert told.notes == [f"{options.out} is up to date"]


@pytest.mark.parametrize(
    "changed", [{"precision": "fp32"}, {"max_batch": 3}, {"tensorrt_level": 5}]
)
def test_another_engine_is_replaced_only_by_force(
    options: BuildOptions, changed: dict[str, object]
) -> None:
    build(options, FakeToolchain(), Told())
    other = replace(options, **changed)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"another engine, of tiny \(--force replaces it\)"):
        build(other, FakeToolchain(), Told())
    assert build(replace(other, force=True), FakeToolchain(), Told()).key != ""


def test_another_machine_makes_another_engine(options: BuildOptions) -> None:
    first = build(options, FakeToolchain(), Told())
    newer = msgspec.structs.replace(H100, driver="590.1")
    with pytest.raises(ModelError, match="--force"):
        build(options, FakeToolchain(machine=newer), Told())
    same_branch = msgspec.structs.replace(H100, driver="580.200")
    assert build(options, FakeToolchain(machine=same_branch), Told()).key == first.key


def test_a_folder_of_something_else_is_left_alone(options: BuildOptions) -> None:
    options.out.mkdir()
    (options.out / "holiday.jpg").write_bytes(b"x")
    for force in (False, True):
        with pytest.raises(ModelError, match="no engine folder"):
            build(replace(options, force=force), FakeToolchain(), Told())
    assert (options.out / "holiday.jpg").exists()
    assert not is_engine_folder(options.out)


def test_a_link_goes_on_naming_the_engine(options: BuildOptions, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(options.out)
    for max_batch in (2, 3):
        build(replace(options, out=link, max_batch=max_batch, force=True), FakeToolchain(), Told())
    assert link.is_symlink()
    assert is_engine_folder(options.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "engine"]


def test_a_full_disk_is_one_line_of_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(ModelError, match=r"can not be written: No space.*make room"):
        saving.save_tensors({"a": np.zeros(4, np.float32)}, tmp_path / "weights")


def test_the_timing_cache_of_the_last_build_is_used(options: BuildOptions) -> None:
    toolchain = FakeToolchain()
    build(replace(options, encoder="tensorrt"), toolchain, Told())
    assert toolchain.jobs[0].timing_cache == b""
    build(replace(options, encoder="tensorrt", force=True), toolchain, Told())
    assert toolchain.jobs[1].timing_cache == b"times"


def test_encoders_get_what_the_folder_will_hold(options: BuildOptions) -> None:
    toolchain = FakeToolchain()
    build(options, toolchain, Told())
    weights = toolchain.jobs[0].weights.encoder
    qkv = weights["layers.0.self_attn.qkv.weight"]
    np.testing.assert_array_equal(qkv, qkv.astype(np.float16))
    assert (weights["layers.0.conv.depthwise.weight"].astype(np.float16) != (
        weights["layers.0.conv.depthwise.weight"]
    )).any()  # fmt: skip


def test_progress_is_told_in_stages(options: BuildOptions) -> None:
    told = Told()
    build(options, FakeToolchain(), told)
    assert told.stages == [
        "reading the model", "preparing weights", "computing the reference on the CPU",
        "building the cublas encoder", "checking the cublas encoder",
        "building the tensorrt encoder", "checking the tensorrt encoder",
        "tuning matrix products", "writing the engine",
    ]  # fmt: skip
    assert told.steps[-1][0] == told.steps[-1][1]


def test_products_are_tuned_for_a_service_whatever_its_encoder(options: BuildOptions) -> None:
    """Drafts are computed by our own kernels even where TensorRT computes the finals."""
    for precision, own in (("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "fp16")):
        toolchain = FakeToolchain(missing={"cublas": "no"} if precision == "bf16" else {})
        wanted = replace(options, precision=precision, force=True)  # type: ignore[arg-type]
        manifest = build(wanted, toolchain, Told())
        (settings,) = toolchain.tuned
        assert settings.precision == own
        assert settings.max_utterance_samples == 16_000
        assert settings.most_frames <= manifest.max_frames
        assert "tactics.json" in manifest.files


def test_a_device_that_fails_while_tuning_is_an_error(options: BuildOptions) -> None:
    toolchain = FakeToolchain(tuning_error=DeviceError("CUDA: launch failed"))
    with pytest.raises(ModelError, match="failed while products were tuned: CUDA: launch failed"):
        build(options, toolchain, Told())
    assert not options.out.exists()


def test_the_choice_is_by_the_mean_of_ratios() -> None:
    """One slow large bucket does not outweigh many small ones."""

    def candidate(kind: str, *times_ms: float) -> Candidate:
        results = [
            BucketResult(bucket=Bucket(1, 8 * i + 8), relative_error=0.0, cosine=1.0, ms=ms)
            for i, ms in enumerate(times_ms)
        ]
        return Candidate(encoder=kind, results=tuple(results))  # type: ignore[arg-type]

    cublas, tensorrt = candidate("cublas", 1, 1, 120), candidate("tensorrt", 2, 2, 100)
    assert choose([cublas, tensorrt]) is cublas
