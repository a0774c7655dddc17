"""The folder of flight records: private, bounded, written beside the event loop.

Shell. The parent prepares the folder at the start; a worker's FlightRecorder calls `save`, which
returns at once: a thread writes the file, because a disk may take its time. All workers write into
one folder, so whoever makes room holds a lock on it. Only files that are named as records are ever
counted or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from protocol.flight_record import SUFFIX, FlightHead, encode_head
from protocol.log_lines import LogEvent

from .errors import GatewayError

MAX_WRITERS = 2  # at a time; what comes while the disk is that busy is not kept
NS_PER_S = 1_000_000_000

_log = logging.getLogger("earwire.gateway")


class FlightFolderError(GatewayError):
    """The folder cannot be used; the message says why."""


def prepare_folder(path: str) -> None:
    """Make the folder, or see that only its owner can look into it. Raises FlightFolderError."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.stat(path)
    except OSError as error:
        text = f"cannot keep flight records in {path}: {error.strerror}"
        raise FlightFolderError(text) from None
    if status.st_uid != os.geteuid():
        raise FlightFolderError(f"refusing to keep flight records in {path}: another user owns it")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise FlightFolderError(
            f"refusing to keep flight records in {path}: they hold what people said, and other "
            f"users may enter it; say chmod 700 {path}"
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise FlightFolderError(f"cannot keep flight records in {path}: no permission")


def file_name(head: FlightHead) -> str:
    """Sorts by time."""
    seconds, ns = divmod(head.saved_wall_ns, NS_PER_S)
    time = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y%m%dT%H%M%S")
    return f"{time}.{ns // 1_000_000:03d}Z-{head.session_id}-{head.reason.value}{SUFFIX}"


class FlightFiles:
    """The folder, as one worker sees it: all files of it together stay below `max_bytes`."""

    def __init__(self, folder: str, max_bytes: int) -> None:
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._free_writers = threading.BoundedSemaphore(MAX_WRITERS)

    def save(self, head: FlightHead, pcm: bytes) -> bool:
        """Begin to write a record; False when the disk is too slow for one more, or there is no
        thread to be had.

        The thread is no daemon: a worker that ends lets it finish.
        """
        if not self._free_writers.acquire(blocking=False):
            return False
        try:
            threading.Thread(target=self._write, args=(head, pcm), name="flight-record").start()
        except RuntimeError:  # the limit on processes: this is called in the event loop
            self._free_writers.release()
            return False
        return True

    def _write(self, head: FlightHead, pcm: bytes) -> None:
        fields = {"session_id": head.session_id, "reason": head.reason.value}
        try:
            path = self.write(file_name(head), encode_head(head), pcm)
            _log.warning(LogEvent("flight_record", {**fields, "file": str(path)}))
        except OSError as error:
            text = error.strerror or str(error)
            _log.error(LogEvent("flight_record_failed", {**fields, "error": text}))
        finally:
            self._free_writers.release()

    def write(self, name: str, *parts: bytes) -> Path:
        """Write one file, whole or not at all, in place of old ones. Raises OSError."""
        path = self._folder / name
        partial = path.with_suffix(".tmp" + SUFFIX)
        with self._locked():
            self._make_room(sum(map(len, parts)))
            # Nobody else can make files in this folder: what has the name was left by us.
            partial.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                with open(os.open(partial, flags, 0o600), "wb") as file:
                    file.writelines(parts)
                partial.rename(path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder_fd, fcntl.LOCK_EX)  # a lock of this descriptor: threads wait as well
            yield
        finally:
            os.close(folder_fd)

    def _make_room(self, num_bytes: int) -> None:
        """Remove the oldest records until so many bytes fit. Raises OSError when they never do."""
        if num_bytes > self._max_bytes:
            raise OSError(f"a record of {num_bytes} bytes is over --flight-recorder-mb")
        files = sorted(self._folder.glob("*" + SUFFIX))
        sizes = {path: path.lstat().st_size for path in files}
        total = sum(sizes.values())
        for path in files:
            if total + num_bytes <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= sizes[path]
