"""Kernel sources to machine code, by NVRTC, once: what was compiled stays in a cache on disk.

The key is everything that decides the result: the source and what it includes, the defines, the
architecture and the compiler's version. A file of the cache is written aside and renamed, so that
two processes may share the folder; it holds machine code that the driver checks, nothing that
Python would run. cuda.py asks; the kernels lie in kernels/.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cuda.bindings import nvrtc as bindings
from cuda.core import ObjectCode, Program, ProgramOptions
from cuda.pathfinder import find_nvidia_header_directory

from .device import DeviceError

SOURCES = Path(__file__).parent / "kernels"
CPP_STANDARD = "c++17"


def cache_folder() -> Path:
    """Where compiled kernels are kept: $EARWIRE_KERNEL_CACHE, or the user's cache folder."""
    named = os.environ.get("EARWIRE_KERNEL_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "earwire" / "kernels"


def compiled(source: str, defines: Mapping[str, str], architecture: str) -> ObjectCode:
    """The machine code of kernels/`source`. Raises DeviceError with the compiler's log."""
    path = cache_folder() / f"{_key(source, defines, architecture)}.cubin"
    if path.is_file():
        return ObjectCode.from_cubin(path.read_bytes(), name=source)
    code = _compile(source, defines, architecture)
    machine_code = code.code
    assert isinstance(machine_code, bytes)
    _store(path, machine_code)
    return code


def _compile(source: str, defines: Mapping[str, str], architecture: str) -> ObjectCode:
    options = ProgramOptions(
        name=source,
        std=CPP_STANDARD,
        arch=architecture,
        define_macro=list(defines.items()) or None,  # it refuses an empty list
        include_path=[str(SOURCES), *_cuda_headers()],
    )
    try:
        program = Program((SOURCES / source).read_text(), "c++", options)
        return program.compile("cubin")
    except Exception as error:  # cuda.core's own exceptions have no public common base
        raise DeviceError(f"kernel source {source} does not compile: {error}") from error


def _cuda_headers() -> list[str]:
    """The folder with cuda_fp16.h. NVRTC's own headers do not have it."""
    folder = find_nvidia_header_directory("cudart")
    if folder is None:
        raise DeviceError("no CUDA headers: pip install nvidia-cuda-runtime, or the CUDA toolkit")
    return [folder, *(str(path) for path in [Path(folder) / "cccl"] if path.is_dir())]


def _key(source: str, defines: Mapping[str, str], architecture: str) -> str:
    digest = hashlib.sha256()
    _, major, minor = bindings.nvrtcVersion()
    digest.update(f"{source} {architecture} {major}.{minor} {sorted(defines.items())}".encode())
    for path in sorted([SOURCES / source, *SOURCES.glob("*.cuh")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def _store(path: Path, machine_code: bytes) -> None:
    """A cache that can not be written is no error: the next start compiles again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(machine_code)
        os.replace(name, path)
    except OSError:
        return
