"""One client's encoded audio on its way to PCM: a spool or a pipe, then a decoder process.

A FILE is written to a nameless temporary file and decoded once it is complete, because the index
of many containers stands at their end. A LIVE recording goes straight to its decoder's stdin. The
owner, a connection, is told of the rate, the PCM and the end, or of the error, after which the
feed is closed. It knows neither sockets nor streams.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from typing import IO, Protocol

from protocol.client_messages import Error
from protocol.errors import ErrorCode

from .decoder import EXIT_BAD_FILE, EXIT_TOO_LARGE
from .decoder_child import EXIT_STALLED, DecoderChild, DecoderHeader
from .decoder_pool import DecoderPool
from .decoder_pool import UploadLimits as UploadLimits
from .dialects import Container
from .errors import refusal

_NO_LIMIT = "inf"

logger = logging.getLogger("earwire.files")


class FeedOwner(Protocol):
    """Whom a feed tells; nothing comes after `close`, after on_decoded or after on_feed_error."""

    def on_format(self, sample_rate_hz: int) -> None:
        """The container can be read; PCM at this rate follows."""

    def on_pcm(self, pcm: bytes) -> None:
        """Whole mono s16le samples; calls `pause` when they are too many."""

    def on_decoded(self) -> None:
        """That was all of it; a LIVE recording that was empty had no format either."""

    def on_feed_error(self, error: Error) -> None:
        """It cannot be decoded, is too large, or there is no decoder for it now."""

    def on_feed_room(self) -> None:
        """`is_full` was true and is no more."""


class FileFeed:
    """See the module text."""

    def __init__(self, pool: DecoderPool, container: Container, owner: FeedOwner) -> None:
        self.container = container
        self._pool = pool
        self._limits = pool.limits
        self._owner = owner
        self._is_closed = False
        self._spool: IO[bytes] | None = None
        self._num_bytes = 0
        self._claimed_bytes = 0  # of the pool's room on disk
        self._child: DecoderChild | None = None
        self._is_paused = False
        self._has_format = False

    @property
    def is_full(self) -> bool:
        """LIVE: the decoder is behind, read no more of the client until on_feed_room."""
        return self._child is not None and self._child.is_full

    def write(self, data: bytes) -> None:
        """The next bytes of the container."""
        if self._is_closed or not data:
            return
        if self.container is Container.FILE:
            self._spool_more(data)
            return
        self._num_bytes += len(data)
        if self._child is None:
            self._claim_decoder()
        if self._child is not None:
            self._child.write(data)

    def end(self) -> None:
        """The container is complete."""
        if self._is_closed:
            return
        if self._child is not None:
            self._child.end_input()
        elif self._num_bytes:
            self._claim_decoder()
        elif self.container is Container.FILE:
            self._fail(ErrorCode.BAD_AUDIO, "there is no audio in it")
        else:  # whoever never spoke is no error
            self._finish()

    def pause(self) -> None:
        """No PCM until `resume`."""
        self._is_paused = True
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._child is not None:
            self._child.resume()

    def close(self) -> None:
        """Kill the decoder and drop the spool; the owner hears nothing more."""
        self._is_closed = True
        if self._child is not None:
            self._child.close()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._pool.release_spool(self._claimed_bytes)
        self._claimed_bytes = 0
        self._pool.leave(self)

    # The pool (decoder_pool.PooledFeed)

    def start(self) -> None:
        """There is a decoder for this feed."""
        is_file = self.container is Container.FILE
        max_seconds = f"{self._limits.max_seconds:g}" if is_file else _NO_LIMIT
        options = (f"--max-seconds={max_seconds}", f"--max-bytes={self._limits.max_bytes}")
        try:
            self._child = DecoderChild(self._pool.loop, self, self._spool, *options)
        except OSError as error:
            logger.error("cannot start a decoder: %s", error)
            self._fail(ErrorCode.AT_CAPACITY, "no decoder can be started now")
            return
        if self._is_paused:
            self._child.pause()

    def wait(self) -> None:
        """For the process, after `close`."""
        if self._child is not None:
            self._child.wait()

    # The child (decoder_child.ChildOwner)

    def on_header(self, header: DecoderHeader) -> None:
        """The container can be read."""
        limit_s = self._limits.max_seconds
        if self.container is Container.FILE and (header.duration_s or 0.0) > limit_s:
            self._fail(ErrorCode.TOO_LARGE, f"longer than the limit of {limit_s:g} s")
            return
        self._has_format = True
        self._tell(lambda: self._owner.on_format(header.sample_rate_hz))

    def on_pcm(self, pcm: bytes) -> None:
        """Decoded samples."""
        self._tell(lambda: self._owner.on_pcm(pcm))

    def on_room(self) -> None:
        """The pipe takes more."""
        self._owner.on_feed_room()

    def on_exit(self, status: int, message: str) -> None:
        """The decoder is done, or gave up."""
        if status == 0 and self._has_format:
            self._finish()
        else:
            self._fail(*_meaning(status, message))

    def _spool_more(self, data: bytes) -> None:
        limit = self._limits.max_bytes
        if self._num_bytes + len(data) > limit:
            self._fail(ErrorCode.TOO_LARGE, f"larger than the limit of {limit} bytes")
        elif not self._pool.claim_spool(len(data)):
            self._fail(ErrorCode.AT_CAPACITY, "too many uploads at a time")
        else:
            self._num_bytes += len(data)
            self._claimed_bytes += len(data)
            self._write_to_spool(data)

    def _write_to_spool(self, data: bytes) -> None:
        try:
            if self._spool is None:
                # no name and mode 0600, by O_TMPFILE where the file system has it
                folder = self._limits.spool_dir
                self._spool = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
            view = memoryview(data)
            while view:
                view = view[self._spool.write(view) :]
        except OSError as error:
            where = self._limits.spool_dir or tempfile.tempdir or "any folder"
            logger.error("cannot write uploads to %s: %s; TMPDIR may name another", where, error)
            self._fail(ErrorCode.AT_CAPACITY, "there is no room for uploads now")

    def _claim_decoder(self) -> None:
        """`start` is called, now or later, or the feed fails."""
        if not self._pool.admit(self):
            self._fail(ErrorCode.AT_CAPACITY, "too many decoders are running")

    def _finish(self) -> None:
        self.close()
        self._tell(self._owner.on_decoded)

    def _tell(self, what: Callable[[], None]) -> None:
        """A defect of ours that what was in the container meets ends this client, and nobody else:
        a connection sees to that only for what its client sends.
        """
        try:
            what()
        except Exception:
            logger.exception("a defect of the gateway ended a container")
            self._fail(ErrorCode.INTERNAL, "a defect of the gateway")

    def _fail(self, code: ErrorCode, message: str) -> None:
        self.close()
        self._owner.on_feed_error(refusal(code, message))


def _meaning(status: int, message: str) -> tuple[ErrorCode, str]:
    """A decoder's end as an error; its message names the file, which has no name here."""
    text = message.partition(": ")[2] or message
    if status == EXIT_TOO_LARGE:
        return ErrorCode.TOO_LARGE, text.partition(";")[0]  # nothing of it is used
    if status == EXIT_BAD_FILE:
        return ErrorCode.BAD_AUDIO, text
    if status == EXIT_STALLED:
        return ErrorCode.BAD_AUDIO, "decoding it comes to no end"
    if status < 0:
        return ErrorCode.BAD_AUDIO, f"decoding it ended a decoder by signal {-status}"
    logger.error("a decoder ended with status %d: %s", status, message)
    return ErrorCode.INTERNAL, "the decoder failed"
