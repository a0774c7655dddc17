"""What a connection needs around it, and the phases it goes through.

The worker is the host; connections share its loop, router, receive buffer, decoders and counters,
and know it by this alone.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from protocol.client_messages import Error, ServerMessage

from .dialects import Container
from .event_loop import EventLoop
from .file_feed import FeedOwner
from .metrics import Metrics
from .parking import Parking
from .relay import RelayOwner
from .router import Router
from .stream import Stream

if TYPE_CHECKING:
    from .connection import Connection

RECEIVE_BYTES = 64 * 1024  # taken from one socket a turn


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


class Client(Protocol):
    """The connection, as its channels see it."""

    @property
    def dialect_name(self) -> str:
        """Metric label."""

    def deliver(self, event: ServerMessage, channel: int = 0) -> None:
        """Render an event for the client."""

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""

    def resume(self) -> None:
        """There is room again: go on reading."""

    def stream_attached(self, stream: Stream) -> None:
        """The only stream of this client has a ring: its audio may take the short way."""

    def streams_settled(self) -> None:
        """All is said: the client has a moment to acknowledge it."""

    def finish(self) -> None:
        """Nothing more will come of any stream: flush what is said, and close."""

    def destroy(self) -> None:
        """The client is elsewhere now: end this connection without a word."""

    @property
    def takes_more(self) -> bool:
        """The client reads what it is sent."""

    def relay(self, data: bytes) -> None:
        """Bytes for the client, from the worker that has its session."""


class RelayLink(Protocol):
    """A way to another worker (relay.Relay)."""

    @property
    def is_full(self) -> bool:
        """It takes no more now: stop reading from the client."""

    def write(self, data: bytes) -> None:
        """The client's next bytes."""

    def watch(self) -> None:
        """Go on reading if the client has read what waited for it."""

    def close(self) -> None:
        """The client is gone; no callback comes after this."""


class ConnectionHost(Protocol):
    """What connections share: the worker."""

    loop: EventLoop
    router: Router
    parking: Parking
    receive_view: memoryview  # RECEIVE_BYTES long, good until the next recv
    handshake_timeout_ns: int
    idle_timeout_ns: int
    metrics: Metrics
    partials_shed: int

    def open_feed(self, container: Container, owner: FeedOwner) -> Feed:
        """A decoder for one container."""

    def open_relay(self, worker: int, owner: RelayOwner) -> RelayLink | None:
        """A way to the worker of this index; None when there is none now."""

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


# Tuples of a module: before Python 3.12 each look-up of a member in its Enum is a slow one.
LISTENING = (Phase.HANDSHAKE, Phase.OPEN)  # what the client sends is acted on
LEAVING = (Phase.CLOSING, Phase.LINGERING)
