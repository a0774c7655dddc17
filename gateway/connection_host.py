"""What a connection needs around it, and the phases it goes through.

The worker is the host; connections share its loop, router, receive buffer, decoders and counters,
and know it by this alone.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from .dialects import Container
from .event_loop import EventLoop
from .file_feed import FeedOwner
from .metrics import Metrics
from .router import Router

if TYPE_CHECKING:
    from .connection import Connection


class Feed(Protocol):
    """The decoder of one connection's container (file_feed.FileFeed)."""

    @property
    def is_full(self) -> bool:
        """It takes no more now: stop reading from the client."""

    def write(self, data: bytes) -> None:
        """The container's next bytes."""

    def end(self) -> None:
        """The container is complete."""

    def pause(self) -> None:
        """No more PCM, until `resume`."""

    def resume(self) -> None:
        """PCM is welcome again."""

    def close(self) -> None:
        """Forget everything; no callback comes after this."""


class ConnectionHost(Protocol):
    """What connections share: the worker."""

    loop: EventLoop
    router: Router
    receive_view: memoryview  # RECEIVE_BYTES long, good until the next recv
    handshake_timeout_ns: int
    idle_timeout_ns: int
    metrics: Metrics
    partials_shed: int
    slow_readers: int

    def open_feed(self, container: Container, owner: FeedOwner) -> Feed:
        """A decoder for one container."""

    def mark_dirty(self, connection: Connection) -> None:
        """Call `flush` before the next sleep."""

    def connection_closed(self, connection: Connection) -> None:
        """The descriptor is closed; forget it."""


class Phase(Enum):
    """Where a connection stands."""

    HANDSHAKE = "handshake"  # no stream yet
    OPEN = "open"  # has a stream, or waits for one out of a container, or for its end
    CLOSING = "closing"  # nothing more to say: flush, then shut down
    LINGERING = "lingering"  # shut down for writing; discards input until the client closes
    CLOSED = "closed"
