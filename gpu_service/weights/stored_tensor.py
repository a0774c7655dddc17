"""StoredTensor: one tensor where it lies in a file, widened to float32 when it is asked for.

`map_file()` gives the bytes, memory-mapped, so that a checkpoint in float32 is never copied and
two processes share it. safetensors_file.py and torch_checkpoint.py find the tensors in them.
It knows bytes and element types, no file format and no model. A mapped file must not be shortened
while it is in use; the hub's cache and package managers replace files and do not write into them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, ModelNotFoundError

FLOAT32, FLOAT16, BFLOAT16 = "F32", "F16", "BF16"
FLOAT_TYPES = (FLOAT32, FLOAT16, BFLOAT16)
# Bytes of one element; the types that are no floats occur in counters that we do not read.
ITEM_BYTES: Mapping[str, int] = {
    FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, "F64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_RANK = 8

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies. Made by stored_tensor(), which checks that it lies there."""

    data: Bytes  # of the whole file or storage
    offset_bytes: int  # of the first element
    dtype: str  # key of ITEM_BYTES
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements

    @property
    def num_elements(self) -> int:
        """The product of the shape."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """As stored."""
        return self.num_elements * ITEM_BYTES[self.dtype]

    def to_float32(self) -> NDArray[np.float32]:
        """(shape) float32, C-contiguous: a read-only view of the file where it is so already.

        Raises ModelFileError for a type that is no float.
        """
        raw = self._raw()
        if self.dtype == BFLOAT16:
            return np.asarray((raw.astype(np.uint32) << 16).view(np.float32))
        if self.dtype == FLOAT32 and raw.flags.aligned and raw.flags.c_contiguous:
            return np.asarray(raw, np.float32)
        return np.array(raw, np.float32, order="C")

    def _raw(self) -> NDArray[Any]:
        """The elements; bfloat16 as uint16."""
        layouts = {FLOAT32: "<f4", FLOAT16: "<f2", BFLOAT16: "<u2"}
        if self.dtype not in layouts:
            raise ModelFileError(f"a tensor of type {self.dtype} where a float was expected")
        dtype = np.dtype(layouts[self.dtype])
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        # ndarray itself checks again that shape and strides stay inside of the buffer.
        raw: NDArray[Any] = np.ndarray(
            self.shape, dtype, self.data.data, self.offset_bytes, strides
        )
        return raw


def stored_tensor(
    data: Bytes,
    offset_bytes: int,
    dtype: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
) -> StoredTensor:
    """A tensor inside `data`. Raises ValueError if it does not lie in there, or is malformed."""
    if dtype not in ITEM_BYTES:
        raise ValueError(f"unknown type {dtype!r:.40}")
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise ValueError(f"impossible shape {shape!r:.80}")
    strides = contiguous_strides(shape) if strides is None else strides
    if len(strides) != len(shape) or any(stride < 0 for stride in strides):
        raise ValueError(f"impossible strides {strides!r:.80}")
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    num_bytes = (last + 1) * ITEM_BYTES[dtype] if math.prod(shape) else 0
    if offset_bytes < 0 or offset_bytes + num_bytes > data.size:
        raise ValueError("data beyond the end")
    tensor = StoredTensor(data, offset_bytes, dtype, shape, strides)
    # Repeated elements (stride 0) would let a small file ask for any amount of memory.
    if tensor.num_bytes > data.size:
        raise ValueError(f"shape {shape!r:.80} larger than its data")
    return tensor


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """In elements, of rows that follow each other."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def map_file(path: Path) -> Bytes:
    """All bytes of a file, mapped. Raises ModelNotFoundError, ModelFileError."""
    if sys.byteorder != "little":
        raise AssertionError(
            "the formats here are little endian, and so is every machine we run on"
        )
    try:
        if not path.stat().st_size:
            raise ModelFileError(f"{path} is empty", "download it again")
        mapped = np.memmap(path, np.uint8, mode="r")
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can not be read: {error}") from error
    return np.asarray(mapped)
