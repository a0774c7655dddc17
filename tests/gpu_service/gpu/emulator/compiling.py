"""Kernel sources to shared libraries, by g++, once: what was compiled stays in a temporary folder.

Behind the source comes one host function for each kernel, that runs a launch of it:

    const char* emulate_NAME(grid x, y, z, block, shared_bytes, is_cooperative,
                             is_backwards, parameters...)

which returns null or what went wrong.
"""

from __future__ import annotations

import ctypes
import functools
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpu_service.gpu.device import DeviceError
from gpu_service.gpu.kernel_signature import HANDLE, Parameter, signatures

KERNELS = Path(__file__).parents[4] / "gpu_service" / "gpu" / "kernels"
HEADERS = Path(__file__).parent
FLAGS = (
    "-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-fno-exceptions", "-fno-strict-aliasing",
    "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function",
    "-Wno-unused-variable",
    # Libraries of several sources share nothing, not even the statics of inline functions.
    "-fvisibility=hidden", "-fno-gnu-unique",
    "-Werror=return-type", "-Werror=frame-larger-than=32768",
)  # fmt: skip
_VECTOR_FLAGS = {"avx2": "-mavx2", "fma": "-mfma", "f16c": "-mf16c"}
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)

_WRAPPER = """
extern "C" __attribute__((visibility("default"))) const char* emulate_{name}(
    unsigned grid_x, unsigned grid_y, unsigned grid_z, int block_x, long long dynamic_bytes,
    int is_cooperative, int is_backwards{declared}
) {{
    auto launch_body = [&] {{ {name}({names}); }};
    return emulator::launch(
        "{name}", dim3(grid_x, grid_y, grid_z), block_x, dynamic_bytes, is_cooperative,
        is_backwards, [](void* body) {{ (*static_cast<decltype(launch_body)*>(body))(); }},
        &launch_body);
}}
"""


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled source: its functions and its kernels' parameters."""

    functions: ctypes.CDLL
    signatures: Mapping[str, tuple[Parameter, ...]]


@functools.cache
def why_unavailable() -> str | None:
    """Why the emulator can not run here, or None."""
    if shutil.which("g++") is None:
        return "no g++ to compile the kernels with"
    test = "static_assert(sizeof(_Float16) == 2);"
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-x", "c++", "-"],
        input=test, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else "g++ has no _Float16: 12 or later is needed"


def compiled(source: str, defines: Mapping[str, str], folder: Path = KERNELS) -> Library:
    """The library of a source. Raises DeviceError with the compiler's messages."""
    text = (folder / source).read_text()
    kernels = signatures(text)
    options = [*FLAGS, *vector_flags(), *(f"-D{k}={v}" for k, v in sorted(defines.items()))]
    digest = hashlib.sha256(repr((_compiler(), options, _WRAPPER, text)).encode())
    for header in [*sorted(HEADERS.glob("*.h")), *_included(folder, text)]:
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    path = _cache_folder() / f"{Path(source).stem}-{digest.hexdigest()[:24]}.so"
    if not path.exists():
        options += [f"-I{folder}", f"-I{KERNELS}", f"-I{HEADERS}"]
        marked = f'#line 1 "{folder / source}"\n{text}\n'
        # Of kernels that are there under a condition, only the preprocessor knows.
        left = signatures(_gcc(source, marked, "-E", "-DEMULATED", *options))
        wrappers = "".join(_wrapper(name, kernels[name]) for name in kernels if name in left)
        # Written aside and renamed: tests of several processes may compile the same.
        aside = path.with_suffix(f".{os.getpid()}")
        _gcc(source, marked + wrappers, *options, "-include", "cuda_emulator.h", "-o", str(aside))
        os.replace(aside, path)
    return Library(ctypes.CDLL(str(path)), kernels)


@functools.cache
def vector_flags() -> tuple[str, ...]:
    """What this CPU has and makes half and fmaf fast. Results are the same without."""
    try:
        known = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return ()
    return tuple(flag for name, flag in _VECTOR_FLAGS.items() if name in known)


def argument_type(parameter: Parameter) -> type:
    """How ctypes passes an argument."""
    if parameter.is_pointer:
        return ctypes.c_void_p
    kinds: dict[str, type] = {
        "int": ctypes.c_int32, "long long": ctypes.c_int64, "float": ctypes.c_float,
        HANDLE: ctypes.c_uint64,
    }  # fmt: skip
    return kinds[parameter.type]


def _wrapper(name: str, parameters: tuple[Parameter, ...]) -> str:
    # const and volatile are no part of Parameter.type; the call adds them, which C++ allows.
    declared = "".join(f", {p.type} {p.name}" for p in parameters)
    names = ", ".join(p.name for p in parameters)
    return _WRAPPER.format(name=name, declared=declared, names=names)


def _included(folder: Path, text: str) -> list[Path]:
    """Files of the folder that a source includes, and that these include."""
    found: dict[str, Path] = {}
    waiting = _INCLUDE.findall(text)
    while waiting:
        name = waiting.pop()
        path = folder / name if (folder / name).exists() else KERNELS / name
        if name not in found and path.exists():
            found[name] = path
            waiting += _INCLUDE.findall(path.read_text())
    return [found[name] for name in sorted(found)]


@functools.cache
def _compiler() -> str:
    try:
        return subprocess.run(
            ["g++", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeviceError(f"the emulator has no compiler: {error}") from error


def _cache_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"earwire-emulator-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _gcc(source: str, program: str, *options: str) -> str:
    """What the compiler prints for a program. Raises DeviceError."""
    command = ["g++", "-x", "c++", "-", *options]
    done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DeviceError(f"{source} does not compile in the emulator:\n{done.stderr}")
    return done.stdout
