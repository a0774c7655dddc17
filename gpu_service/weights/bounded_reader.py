"""BoundedReader: bytes as a file for the archive modules of the standard library, with limits.

tarfile and zipfile believe the sizes in a header: one field can make them read gigabytes at once or
turn in a circle. They get this file instead of the real one; it refuses a read that is larger than
any directory and a number of calls that no honest archive needs. Used by tar_archive.py and
zip_archive.py, for the directory only: members are views of the bytes.
"""

from __future__ import annotations

import io

from .stored_tensor import Bytes

MAX_READ_BYTES = 8 << 20  # a zip's whole directory is one read: 723 tensors take 60 KB
MAX_CALLS = 200_000


class LimitError(ValueError):
    """An archive asked for more than any model needs."""


class BoundedReader(io.RawIOBase):
    """Read-only and seekable."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._position = 0
        self._calls = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes. Raises LimitError."""
        self._count()
        rest = max(0, self._data.size - self._position)
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > MAX_READ_BYTES:
            raise LimitError(f"a directory of {wanted} bytes")
        begin = self._position
        self._position += wanted
        return self._data[begin : begin + wanted].tobytes()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Raises LimitError, ValueError before the start."""
        self._count()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._data.size}[whence]
        if base + offset < 0:
            raise ValueError("a place before the start of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """In bytes from the start."""
        self._count()
        return self._position

    def _count(self) -> None:
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise LimitError("a directory that does not end")
