"""Audio files as PCM, decoded in a process of their own (`python -m gateway.decoder`).

A file is untrusted bytes for a large C library: a crash or a stall there must not be ours. The
decoder's command line and its output (a JSON line, then s16le) are the contract; see its module.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

import msgspec

from .errors import ClientError
from .python_child import child_environment

READ_BYTES = 64 * 1024
MAX_ERROR_BYTES = 500
MAX_HEADER_BYTES = 4096


class AudioFileError(ClientError):
    """The file cannot be decoded; the text says why."""


class _Header(msgspec.Struct, frozen=True):
    sample_rate_hz: int
    duration_s: float | None = None


class AudioFile:
    """Context manager over one decoder process. Raises AudioFileError from the start on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway.decoder", "--", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        try:
            header = msgspec.json.decode(self._out.readline(MAX_HEADER_BYTES), type=_Header)
        except msgspec.DecodeError:
            error = self._error()
            self.close()
            raise error from None
        self.sample_rate_hz = header.sample_rate_hz
        self.duration_s = header.duration_s

    @property
    def _out(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout  # type: ignore[return-value]

    def blocks(self, block_samples: int = READ_BYTES // 2) -> Iterator[bytes]:
        """Mono s16le in blocks of that many samples; the last one is shorter."""
        while block := self._out.read(block_samples * 2):
            yield block
        if self._process.wait() != 0:
            raise self._error()

    def _error(self) -> AudioFileError:
        assert self._process.stderr is not None
        text = self._process.stderr.read(MAX_ERROR_BYTES).decode("utf-8", "replace").strip()
        if not text:
            text = f"{self._path}: the decoder ended with status {self._process.wait()}"
        return AudioFileError(text.splitlines()[-1])

    def close(self) -> None:
        """End the decoder, however far it is."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
