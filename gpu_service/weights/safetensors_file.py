"""Reads a .safetensors file: which tensors it has, and where.

    u64 num_header_bytes | JSON {name: {dtype, shape, data_offsets: [begin, end]}} | data

The safetensors library opens the file first and refuses what is malformed: a header that lies about
its length, offsets that overlap, leave holes or leave the file. It copies what it returns, so the
offsets are read once more here, and tensors stay mapped. Knows the format, no model; called by
hugging_face_folder.py.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import ModelFileError
from .stored_tensor import Bytes, StoredTensor, map_file, stored_tensor

MAX_HEADER_BYTES = 16 << 20  # Parakeet's has 109 KB
MAX_TENSORS = 100_000
LENGTH = struct.Struct("<Q")
REMEDY = "download it again"


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file by its name. Raises ModelNotFoundError, ModelFileError."""
    data = map_file(path)
    if data.size < LENGTH.size:
        raise ModelFileError(f"{path} ends too early", REMEDY)
    (num_header_bytes,) = LENGTH.unpack(data[: LENGTH.size].tobytes())
    if not 0 < num_header_bytes <= min(MAX_HEADER_BYTES, data.size - LENGTH.size):
        raise ModelFileError(f"{path} has a header of {num_header_bytes} bytes", REMEDY)
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is damaged: {error}", REMEDY) from error
    begin = LENGTH.size + num_header_bytes
    try:
        header = json.loads(data[LENGTH.size : begin].tobytes())
        return _directory(header, data, begin)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error}", REMEDY) from error


def _directory(header: dict[str, Any], data: Bytes, begin: int) -> dict[str, StoredTensor]:
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header)} tensors")
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        tensor = stored_tensor(data, begin + first, entry["dtype"], tuple(entry["shape"]))
        if first + tensor.num_bytes != end:
            raise ValueError(f"{name!r:.80} has {end - first} bytes, not {tensor.num_bytes}")
        tensors[name] = tensor
    return tensors
