"""Runs the probes: kernels that test the emulator itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_service.gpu.device import NO_DEFINES, Argument

from .device import EmulatedDevice

PROBES = Path(__file__).parent
FLOAT = {"STORAGE_HALF": "0"}


def launch(
    device: EmulatedDevice,
    name: str,
    grid: int,
    block: int,
    *arguments: Argument,
    defines: Mapping[str, str] = NO_DEFINES,
    **options: Any,
) -> None:
    """One launch of a kernel of probes.cu."""
    kernel = device.kernel("probes.cu", name, defines)
    device.launch(kernel, grid, block, *arguments, **options)
