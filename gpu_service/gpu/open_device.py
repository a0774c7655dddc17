"""The GPU of this machine, and what an engine folder knows of its products, as a server starts.

Called by what opens models: parakeet_open.py and whisper_open.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..builder.manifest import GEMM_TACTICS
from ..errors import ModelError
from .cuda import CudaDevice
from .device import DeviceError

OTHERS = "see with nvidia-smi what else uses it"  # of too little memory for anything
NO_GPU = "nvidia-smi should list a GPU; without one use --engine cpu"


def open_device() -> Any:
    """A CudaDevice: a Device, whose conditions are of a type of its own. Raises ModelError."""
    try:
        return CudaDevice()
    except DeviceError as error:
        raise ModelError(f"--engine gpu needs an NVIDIA GPU: {error}", NO_GPU) from error


def tactics(folder: Path) -> Mapping[str, Any]:
    """The products' algorithms that were found when the engine was built."""
    try:
        values = json.loads((folder / GEMM_TACTICS).read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
