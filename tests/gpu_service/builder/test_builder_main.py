"""`earwire build` as a person uses it: what is printed, where, and the exit status."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gpu_service.builder import gpu_toolchain
from gpu_service.builder.__main__ import main
from gpu_service.builder.terminal import TerminalProgress
from gpu_service.gpu.trt_compat import TensorRtMissingError

from .fakes import FakeToolchain, NoGpu, off_by

TINY = "tests/fixtures/parakeet/tiny"


def arguments(out: Path, *more: str) -> list[str]:
    return [TINY, "--out", str(out), "--max-batch", "1", "--max-utterance-ms", "1000", *more]


def test_a_build_shows_a_table_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "engine"
    assert main(arguments(out), FakeToolchain) == 0
    shown, told = capsys.readouterr()
    assert "cublas encoder" in shown
    assert "tensorrt encoder" in shown
    assert [line.split()[:3] for line in shown.splitlines() if line.startswith("    1")]
    assert f"{out} is ready: tiny, fp16, NVIDIA H100 80GB HBM3" in shown
    assert "cublas: 1.000 ms in the mean; tensorrt: 2.000 ms in the mean" in shown
    assert f"earwire serve --model {out}" in shown
    assert "building the tensorrt encoder ..." in told
    assert main(arguments(out), FakeToolchain) == 0
    assert "is up to date" in capsys.readouterr().err


def test_what_can_not_be_done_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "e"), NoGpu()) == 1
    assert capsys.readouterr().err == (
        "earwire build: this needs an NVIDIA GPU (nvidia-smi should list one)\n"
    )
    toolchain = FakeToolchain({"cublas": off_by(0.3), "tensorrt": off_by(0.3)})
    assert main(arguments(tmp_path / "e"), lambda: toolchain) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("earwire build: no engine was kept. cublas: 1 x 8 frames: relative")
    assert main(["nowhere", "--out", str(tmp_path / "e")], FakeToolchain) == 1
    assert "nowhere is no model" in capsys.readouterr().err


def test_wrong_usage_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TINY], FakeToolchain) == 2
    assert main(arguments(tmp_path, "--precision", "fp8"), FakeToolchain) == 2
    capsys.readouterr()


def test_without_cuda_python_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.delitem(sys.modules, "gpu_service.gpu.cuda", raising=False)
    assert main(arguments(tmp_path / "e")) == 1
    told = capsys.readouterr().err
    assert told.startswith("earwire build: this needs the Python package cuda")
    assert "pip install 'earwire[gpu]'" in told


def test_obstacles_name_where_tensorrt_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    obstacle = gpu_toolchain.tensorrt_obstacle("fp16")
    assert obstacle.startswith("TensorRT is not installed")
    assert "--extra-index-url https://pypi.nvidia.com" in obstacle


def test_an_unknown_tensorrt_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "9.1.0"

    monkeypatch.setitem(sys.modules, "tensorrt", Module())  # type: ignore[arg-type]
    assert "TensorRT 9.1.0 is none of 8.6" in gpu_toolchain.tensorrt_obstacle("fp16")
    Module.__version__ = "8.6.1"
    assert gpu_toolchain.tensorrt_obstacle("fp16") == ""
    assert "has no bf16" in gpu_toolchain.tensorrt_obstacle("bf16")
    assert issubclass(TensorRtMissingError, Exception)


def test_on_a_terminal_what_is_done_stays() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with TerminalProgress(console) as progress:
        progress.stage("first [thing]")
        progress.step(1, 3, "a [note]")
        progress.note("by the way")
        progress.stage("second")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "first [thing]" in shown
    assert "by the way" in shown
    assert "second" in shown
