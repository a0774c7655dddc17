"""Every kernel source compiles: for the emulator, and for a GPU where a compiler is at hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_service.gpu import kernel_signature

from .emulator import compiling

KERNELS = compiling.KERNELS
SOURCES = sorted(path.name for path in KERNELS.glob("*.cu"))
FILES = sorted(path.name for path in KERNELS.glob("*.cu*"))
# What encoder.cuh wants to know, of Parakeet-TDT 0.6B.
ENCODER_SIZES = {
    "WIDTH": "1024", "NUM_HEADS": "8", "HEAD_WIDTH": "128", "CONV_KERNEL": "9", "CHANNELS": "256",
}  # fmt: skip


def variants(source: str) -> list[dict[str, str]]:
    """The defines that a source is compiled with."""
    text = (KERNELS / source).read_text()
    sizes = ENCODER_SIZES if '#include "encoder.cuh"' in text else {}
    return [
        {"STORAGE_HALF": half, "RESIDUAL_HALF": residual, **sizes}
        for half, residual in (("0", "0"), ("1", "0"), ("1", "1"))
    ]


EACH_VARIANT = pytest.mark.parametrize(
    ("source", "defines"),
    [
        pytest.param(source, defines, id=f"{source}-{i}")
        for source in SOURCES
        for i, defines in enumerate(variants(source))
    ],
)


@EACH_VARIANT
def test_compiles_for_the_emulator(source: str, defines: dict[str, str]) -> None:
    if reason := compiling.why_unavailable():
        pytest.skip(reason)
    assert compiling.compiled(source, defines).signatures


@EACH_VARIANT
def test_compiles_with_nvcc(source: str, defines: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    command = [
        "nvcc", "-arch=sm_90", "-std=c++17", "--cubin", *(f"-D{k}={v}" for k, v in defines.items()),
        "-Werror", "all-warnings", str(KERNELS / source), "-o", str(tmp_path / "kernel.cubin"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@EACH_VARIANT
def test_compiles_with_nvrtc(
    source: str, defines: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine itself uses: no standard headers there."""
    pytest.importorskip("cuda.core", reason="needs cuda-python: pip install 'earwire[gpu]'")
    from gpu_service.gpu import nvrtc

    monkeypatch.setenv("EARWIRE_KERNEL_CACHE", str(tmp_path))
    nvrtc.compiled(source, defines, "sm_90")
    assert list(tmp_path.glob("*.cubin"))


@pytest.mark.parametrize("name", FILES)
def test_keeps_to_what_all_compilers_know(name: str) -> None:
    text = re.sub(r"//[^\n]*", "", (KERNELS / name).read_text())
    if name != "common.cuh":
        assert not re.search(r"\basm\b", text), "inline PTX belongs to common.cuh"
        assert not re.search(r"^\s*#\s*include\s*<", text, re.MULTILINE), "NVRTC has no headers"
        assert not re.search(r"\bextern\s+__shared__", text), "DYNAMIC_SHARED is for that"
    assert not re.search(r"\bu?int(8|16|32|64)_t\b|\bINFINITY\b|\bNAN\b", text)
    if name.endswith(".cuh"):
        assert "__global__" not in text, "kernels are read from .cu files"


@pytest.mark.parametrize("source", SOURCES)
def test_kernels_can_be_read(source: str) -> None:
    assert kernel_signature.signatures((KERNELS / source).read_text())
