"""What this machine is: the part of an engine's manifest that a service compares at start.

Asks the device object, the kernel module and the installed distributions; imports no CUDA.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Protocol

from .manifest import EncoderKind, Machine

DRIVER_VERSION = Path("/sys/module/nvidia/version")
# Under which names a library may be installed, the first that is found counts.
DISTRIBUTIONS = {
    "earwire": ("earwire",),
    "cuda-bindings": ("cuda-bindings",),
    "nvmath-python": ("nvmath-python",),
    "cublas": ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}
USED_BY: dict[EncoderKind, tuple[str, ...]] = {
    "cublas": ("earwire", "cuda-bindings", "nvmath-python", "cublas"),
    "tensorrt": ("earwire", "cuda-bindings", "tensorrt"),
}
UNKNOWN = "unknown"


class NamedDevice(Protocol):
    """What a CudaDevice says of itself."""

    @property
    def name(self) -> str: ...
    @property
    def compute_capability(self) -> tuple[int, int]: ...
    @property
    def driver_version(self) -> str: ...


def read_machine(device: NamedDevice) -> Machine:
    """This machine, with every library that any encoder uses."""
    major, minor = device.compute_capability
    return Machine(
        gpu=device.name,
        compute_capability=f"{major}.{minor}",
        driver=_driver() or f"CUDA {device.driver_version}",
        libraries={name: _version(names) for name, names in DISTRIBUTIONS.items()},
    )


def of_encoder(machine: Machine, encoder: EncoderKind) -> Machine:
    """The machine as far as one encoder depends on it."""
    return Machine(
        gpu=machine.gpu,
        compute_capability=machine.compute_capability,
        driver=machine.driver,
        libraries={name: machine.libraries.get(name, UNKNOWN) for name in USED_BY[encoder]},
    )


def _driver() -> str:
    try:
        return DRIVER_VERSION.read_text().strip()
    except OSError:
        return ""


def _version(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return UNKNOWN
