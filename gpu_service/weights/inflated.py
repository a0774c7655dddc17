"""Inflated: compressed data unpacked into one temporary file without a name, under limits.

Weights hardly shrink under deflate (7 % for float32), so data that inflates a hundredfold is an
attack and no model: past FREE_BYTES, no more than MAX_RATIO times what was there may come out.
The file is gone with the last view of it, whatever happens to the process. Called by archive.py.
"""

from __future__ import annotations

import tempfile
import zlib
from typing import IO

import numpy as np

from .bounded_reader import LimitError
from .stored_tensor import Bytes

FREE_BYTES = 16 << 20  # small archives are mostly padding, and may shrink as they like
MAX_RATIO = 20
MAX_BYTES = 64 << 30
CHUNK_BYTES = 1 << 20
ALIGNMENT_BYTES = 64  # so that a float32 tensor can be used where it lies
RAW_DEFLATE, GZIP = -zlib.MAX_WBITS, zlib.MAX_WBITS | 16


class Inflated:
    """Collects members, then maps them together."""

    def __init__(self, num_packed_bytes: int) -> None:
        self._file: IO[bytes] | None = None
        self._spans: dict[str, tuple[int, int]] = {}
        self._limit_bytes = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * num_packed_bytes))

    def add(self, name: str, packed: Bytes, num_bytes: int, window: int = RAW_DEFLATE) -> None:
        """Unpack one member of `num_bytes`. Raises LimitError, ValueError, zlib.error."""
        begin = self._end(aligned=True)
        inflate(packed, self._open(), self._limit_bytes - begin, window)
        if self._end() - begin != num_bytes:
            raise ValueError(f"{name!r:.80} has {self._end() - begin} bytes, not {num_bytes}")
        self._spans[name] = (begin, self._end())

    def members(self) -> dict[str, Bytes]:
        """All of them, as views."""
        if self._file is None:
            return {}
        data = map_temporary(self._file)
        return {name: data[begin:end] for name, (begin, end) in self._spans.items()}

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="earwire-")  # noqa: SIM115 - mapped later
        return self._file

    def _end(self, *, aligned: bool = False) -> int:
        position = self._open().tell()
        if aligned and position % ALIGNMENT_BYTES:
            self._open().write(bytes(ALIGNMENT_BYTES - position % ALIGNMENT_BYTES))
        return self._open().tell()


def inflate_gzip(packed: Bytes) -> Bytes:
    """A whole gzip file. Raises LimitError, zlib.error."""
    limit_bytes = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * packed.size))
    with tempfile.TemporaryFile(prefix="earwire-") as file:
        inflate(packed, file, limit_bytes, GZIP)
        return map_temporary(file)


def inflate(packed: Bytes, target: IO[bytes], limit_bytes: int, window: int) -> None:
    """Append what `packed` inflates to. Raises LimitError, zlib.error."""
    unpacker = zlib.decompressobj(window)
    num_bytes = 0
    for begin in range(0, packed.size, CHUNK_BYTES):
        chunk = packed[begin : begin + CHUNK_BYTES].tobytes()
        while chunk and not unpacker.eof:
            part = unpacker.decompress(chunk, CHUNK_BYTES)
            num_bytes += len(part)
            if num_bytes > limit_bytes:
                raise LimitError(f"data that inflates beyond {limit_bytes >> 20} MiB")
            target.write(part)
            chunk = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise zlib.error("it ends too early")


def map_temporary(file: IO[bytes]) -> Bytes:
    """Its bytes; they stay when the file is closed."""
    file.flush()
    if not file.tell():
        return np.zeros(0, np.uint8)
    return np.asarray(np.memmap(file, np.uint8, mode="r"))  # type: ignore[call-overload,unused-ignore]
