"""How many decoders a worker runs at a time, who waits for one, and what uploads may take.

Shell only in that it starts feeds, which start processes: one pool for a worker, whose feeds
(file_feed.py) ask it for their turn. A file waits for a free decoder, in order; a live recording
cannot wait and is refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from .dialects import Container
from .event_loop import EventLoop

MAX_WAITING = 64  # files whose turn has not come; then the next is refused


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What encoded audio may cost one worker."""

    max_bytes: int = 512 << 20  # of one file
    max_seconds: float = 4 * 3600.0  # of audio in one file
    max_decoders: int = 2  # for files, at a time: much faster than what recognizes them
    max_live_decoders: int = 16  # for recordings, at a time
    max_spool_bytes: int = 4 << 30  # of all files that are being received or decoded
    spool_dir: str | None = None  # None: the system's place for temporary files


class PooledFeed(Protocol):
    """Who takes turns: file_feed.FileFeed."""

    container: Container

    def start(self) -> None:
        """Its turn has come; it says `leave` when it is done."""

    def close(self) -> None:
        """Stop; it may not be told of its end."""

    def wait(self) -> None:
        """Wait for its process after `close`."""


class DecoderPool:
    """See the module text."""

    def __init__(self, loop: EventLoop, limits: UploadLimits) -> None:
        self.loop = loop
        self.limits = limits
        self._running: list[PooledFeed] = []
        self._waiting: deque[PooledFeed] = deque()
        self._spool_bytes = 0

    @property
    def num_running(self) -> int:
        """Decoder processes."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Files that wait for one."""
        return len(self._waiting)

    @property
    def spool_bytes(self) -> int:
        """Claimed on disk."""
        return self._spool_bytes

    def admit(self, feed: PooledFeed) -> bool:
        """Start it, now or when its turn comes; False: it will not be started."""
        if self._has_decoder_for(feed.container):
            self._start(feed)
            return True
        if feed.container is Container.LIVE or len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(feed)
        return True

    def leave(self, feed: PooledFeed) -> None:
        """It is done, or gives up its turn; no harm when it never had one."""
        if feed in self._waiting:
            self._waiting.remove(feed)
        elif feed in self._running:
            self._running.remove(feed)
            while self._waiting and self._has_decoder_for(Container.FILE):
                self._start(self._waiting.popleft())

    def claim_spool(self, num_bytes: int) -> bool:
        """Room for so many more bytes on disk; False when there is none."""
        if self._spool_bytes + num_bytes > self.limits.max_spool_bytes:
            return False
        self._spool_bytes += num_bytes
        return True

    def release_spool(self, num_bytes: int) -> None:
        """They are deleted."""
        self._spool_bytes -= num_bytes

    def close(self) -> None:
        """The worker ends: end every decoder and wait for it."""
        self._waiting.clear()
        for feed in tuple(self._running):
            feed.close()
            feed.wait()

    def _has_decoder_for(self, container: Container) -> bool:
        is_live = container is Container.LIVE
        limit = self.limits.max_live_decoders if is_live else self.limits.max_decoders
        return sum(feed.container is container for feed in self._running) < limit

    def _start(self, feed: PooledFeed) -> None:
        self._running.append(feed)
        feed.start()
