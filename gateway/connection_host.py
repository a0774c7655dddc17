"""What a connection needs around it, and the phases it goes through.

The worker is the host; connections share its loop, router, receive buffer and counters, and know
it by this alone.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from .event_loop import EventLoop
from .metrics import Metrics
from .router import Router

if TYPE_CHECKING:
    from .connection import Connection


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

    def mark_dirty(self, connection: Connection) -> None:
        """Call `flush` before the next sleep."""

    def connection_closed(self, connection: Connection) -> None:
        """The descriptor is closed; forget it."""


class Phase(Enum):
    """Where a connection stands."""

    HANDSHAKE = "handshake"  # no stream yet
    OPEN = "open"  # has a stream, or waits for its end
    CLOSING = "closing"  # nothing more to say: flush, then shut down
    LINGERING = "lingering"  # shut down for writing; discards input until the client closes
    CLOSED = "closed"
