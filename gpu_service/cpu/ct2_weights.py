"""Reads the weights out of a CTranslate2 model.bin, for the encoder that we run ourselves.

Binary version 6, little endian (CTranslate2: python/ctranslate2/specs/model_spec.py):

    u32 version | str spec | u32 revision | u32 n | n x variable | u32 n_aliases | ...
    variable = str name | u8 rank | u32 dims[rank] | u8 dtype | u32 num_bytes | data
    str      = u16 length with its NUL | bytes | NUL
    dtype    = 0 f32, 1 i8, 2 i16, 3 i32, 4 f16, 5 bf16

The file is not trusted: every length is checked against the file and a limit before it is used.
Knows the container only; whisper_graph.py knows what the names mean.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError

BINARY_VERSION = 6
MAX_VARIABLES = 20_000
MAX_NAME_BYTES = 512
MAX_RANK = 4
BFLOAT16 = 5
DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2", BFLOAT16: "<u2"}


@dataclass(frozen=True, slots=True)
class _Variable:
    shape: tuple[int, ...]
    dtype: int  # key of DTYPES
    offset: int  # of the data, in bytes


class Ct2Weights:
    """The variables of one file, widened to float32 when they are asked for."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        """Read the directory of the file, of the variables whose names begin with `prefix`.

        Raises ModelFileError.
        """
        self._path = path
        try:
            self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path} can not be read: {error}") from error
        self._position = 0
        if self._unsigned("<I") != BINARY_VERSION:
            raise self._damaged(f"not a CTranslate2 model of version {BINARY_VERSION}")
        self.spec_name = self._string()
        self._unsigned("<I")  # the revision of the spec: names did not change in Whisper's
        self._variables = self._read_directory(prefix)

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    @property
    def names(self) -> tuple[str, ...]:
        """All names with the prefix, in the order of the file."""
        return tuple(self._variables)

    def shape(self, name: str) -> tuple[int, ...]:
        """The dimensions of a variable. Raises ModelFileError if there is none."""
        return self._variable(name).shape

    def scalar(self, name: str) -> float:
        """A variable of one element. Raises ModelFileError for any other."""
        values = self.array(name).reshape(-1)
        if values.size != 1 or not np.isfinite(values[0]):
            raise self._damaged(f"{name} is no number")
        return float(values[0])

    def array(self, name: str) -> NDArray[np.float32]:
        """A variable in float32; int8 and int16 divided by NAME_scale where there is one.

        Raises ModelFileError if there is none of that name.
        """
        variable = self._variable(name)
        raw = np.frombuffer(
            self._data, DTYPES[variable.dtype], math.prod(variable.shape), variable.offset
        ).reshape(variable.shape)
        if variable.dtype == BFLOAT16:
            return (raw.astype(np.uint32) << 16).view(np.float32)
        wide = raw.astype(np.float32)
        if name + "_scale" in self:
            scale = self.array(name + "_scale")
            if scale.size not in (1, *variable.shape[:1]):
                raise self._damaged(f"{name} has {scale.size} scales")
            return np.asarray(wide / scale.reshape((-1,) + (1,) * (wide.ndim - 1)), np.float32)
        return wide

    def _variable(self, name: str) -> _Variable:
        if name not in self._variables:
            raise self._damaged(f"it has no {name}")
        return self._variables[name]

    def _read_directory(self, prefix: str) -> dict[str, _Variable]:
        num_variables = self._unsigned("<I")
        if num_variables > MAX_VARIABLES:
            raise self._damaged(f"{num_variables} variables")
        variables = {}
        for _ in range(num_variables):
            name = self._string()
            variable = self._read_variable(name)
            if name.startswith(prefix):
                variables[name] = variable
        return variables

    def _read_variable(self, name: str) -> _Variable:
        rank = self._unsigned("<B")
        if rank > MAX_RANK:
            raise self._damaged(f"{name} has {rank} dimensions")
        shape = tuple(self._unsigned("<I") for _ in range(rank))
        dtype = self._unsigned("<B")
        num_bytes = self._unsigned("<I")
        if dtype not in DTYPES:
            raise self._damaged(f"{name} is of unknown type {dtype}")
        if math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize != num_bytes:
            raise self._damaged(f"{name} has {num_bytes} bytes for the shape {shape}")
        return _Variable(shape, dtype, self._skip(num_bytes))

    def _skip(self, num_bytes: int) -> int:
        """Pass over bytes that are there and return where they begin."""
        begin = self._position
        if num_bytes > self._data.size - begin:
            raise self._damaged("it ends too early")
        self._position += num_bytes
        return begin

    def _unsigned(self, layout: str) -> int:
        size = struct.calcsize(layout)
        begin = self._skip(size)
        return int(struct.unpack(layout, self._data[begin : begin + size].tobytes())[0])

    def _string(self) -> str:
        length = self._unsigned("<H")
        if not 0 < length <= MAX_NAME_BYTES:
            raise self._damaged(f"a name of {length} bytes")
        begin = self._skip(length)
        try:
            return self._data[begin : begin + length - 1].tobytes().decode("ascii")
        except UnicodeDecodeError as error:
            raise self._damaged("a name is not ASCII") from error

    def _damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {what}", "convert or download the model again")
