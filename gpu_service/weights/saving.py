"""Tensors into a file; a disk that is full is one line of error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ..errors import ModelError

REMEDY = "make room there, or name a folder elsewhere"


def save_tensors(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """As safetensors, C-contiguous arrays. Raises ModelError where they cannot be written."""
    try:
        save_file(dict(arrays), path, metadata)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can not be written: {error}", REMEDY) from error
