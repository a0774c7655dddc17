"""One stream of a client, and its owner: what the stream says goes through here. Pure.

A Channel belongs to the Channels of one connection. One with a `session` is resumable
(parking.py): what it says is numbered and kept, and while it is parked it belongs to no connection.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import structs

from protocol.client_messages import Error, Hello, ServerMessage
from protocol.errors import ErrorCode

from .admission import Admitted
from .errors import refusal
from .gatekeeper import Gatekeeper, Grant
from .journal_state import Identity
from .journal_writer import Journals
from .parking import Parking, Resumable
from .stream import Stream


class Seat(Protocol):
    """The Channels of a connection, as a channel sees them."""

    def deliver(self, event: ServerMessage, channel: int) -> None:
        """Render an event for the client."""

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""

    def has_room(self) -> None:
        """The stream takes audio again."""

    def forget(self, channel: Channel) -> None:
        """The channel has ended."""

    def settle(self, channel: Channel) -> None:
        """The stream has ended; what it said last is not acknowledged yet."""

    def let_go(self, channel: Channel) -> None:
        """Its client is elsewhere."""


class Channel:
    """See the module text and stream.StreamOwner."""

    __slots__ = (
        "_grant", "_parking", "admitted", "dialect_name", "gatekeeper", "group", "hello", "index",
        "seat", "session", "stream",
    )  # fmt: skip

    def __init__(
        self, index: int, hello: Hello, grant: Grant, gatekeeper: Gatekeeper, dialect_name: str,
        parking: Parking,
    ) -> None:  # fmt: skip
        self.index = index
        self.hello = hello
        self.gatekeeper = gatekeeper
        self.group = grant.group  # of its stream
        self.dialect_name = dialect_name
        self.seat: Seat | None = None  # None: no client is here
        self.stream: Stream | None = None  # None until a container's format is known
        self.admitted: Admitted | None = None  # a container's, before there is a stream
        self.session: Resumable | None = None  # None: it ends with its connection
        self._grant: Grant | None = grant
        self._parking = parking

    @property
    def streaming(self) -> Stream:
        """The stream of a channel that has one."""
        if self.stream is None:
            raise AssertionError("this channel has no stream yet")
        return self.stream

    def kept_since(self, number: int) -> tuple[ServerMessage, ...] | None:
        """Its events from this number on; None when they are not all kept, or it keeps none."""
        return None if self.session is None else self.session.kept.since(number)

    def claimed(self, journals: Journals) -> None:
        """Its stream has a slot: what a successor has to know is kept from here on."""
        stream, session = self.streaming, self.session
        if session is None:
            journals.claimed(stream, None, None)
            return
        name = self._grant.name if self._grant is not None else ""
        hello = structs.replace(stream.hello, token="")
        identity = Identity(stream.session_id, hello, session.digest, name, stream.num_finalizes)
        journals.claimed(stream, identity, session.kept)

    def turned_away(self, error: Error, now_ns: int) -> None:
        """There is no place for its stream."""
        if self._grant is not None:
            self.gatekeeper.turn_away(self._grant, error, now_ns)

    def release(self) -> None:
        """The stream has ended, or never began: what the token was granted goes back."""
        grant, self._grant = self._grant, None
        if grant is not None:
            self.gatekeeper.release(grant)

    # stream.StreamOwner

    def deliver(self, event: ServerMessage) -> None:
        """Pass an event on, with the channel it is of; a numbered one is kept first."""
        if not self._parking.keep(self, event):
            self._parking.forget(self)
            self.refuse(refusal(ErrorCode.SLOW_READER, "too many events were not acknowledged"))
        elif self.seat is not None:
            self.seat.deliver(event, self.index)

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""
        if self.seat is not None:
            self.seat.refuse(error)
        else:
            self._parking.give_up(self, error.code.value)

    def resume(self) -> None:
        """The stream has room again."""
        if self.seat is not None:
            self.seat.has_room()

    def stream_ended(self) -> None:
        """The stream's slot is free."""
        self.release()
        if self.seat is None:
            self._parking.stream_ended(self)
            return
        if self.session is None:
            self.seat.forget(self)
        else:
            self.seat.settle(self)
