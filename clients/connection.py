"""One client connection without its socket: what blocking.py and aio.py share. Pure.

Joins protocol.Session to a wire, keeps unread events and the answers to finalize, and turns what
ends a session into one exception, `failure`. The shells move bytes and wait; they decide nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import structs

from protocol.client_messages import (
    Audio,
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Ping,
    ServerMessage,
    Started,
)
from protocol.session import Event, Failed, Role, Session, State

from .backlog import Backlog
from .errors import ClientError, ConnectionLost, ServerError
from .wire import Wire

MAX_ANSWERS = 64  # finals kept for wait_final


class Connection:
    """receive_data / next_event / data_to_send, and the client's own verbs."""

    def __init__(self, wire: Wire, token: str = "") -> None:
        self._wire = wire
        self._token = token
        self._session = Session(Role.CLIENT)
        self._backlog = Backlog()
        self._answers: OrderedDict[int, Final] = OrderedDict()
        self._next_finalize_id = 1
        self.started: Started | None = None
        self.closed: Closed | None = None
        self.failure: ClientError | None = None
        self.is_over = False  # nothing more will come

    @property
    def is_open(self) -> bool:
        """The transport's own handshake is done."""
        return self._wire.is_open

    # From the socket

    def receive_data(self, data: bytes) -> None:
        """Take what the socket delivered; b"" at its end. Never raises: see `failure`."""
        try:
            for piece in self._wire.receive_data(data):
                self._session.receive_data(piece)
                self._take_events()
        except ClientError as error:
            self.fail(error)
        if not data:
            self.fail(ConnectionLost("the server closed the connection before the session's end"))

    def fail(self, error: ClientError) -> None:
        """The connection is unusable; the first reason is the one to tell."""
        if not self.is_over:
            self.failure = self.failure or error
            self.is_over = True

    def _take_events(self) -> None:
        while (event := self._session.next_event()) is not None:
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise ServerError(event.code, f"the server broke the protocol: {event.message}")
        assert not isinstance(event, Hello | Audio | Finalize | Ping | Bye)
        if isinstance(event, Error):
            self.failure = self.failure or ServerError.of(event)
            return  # the close record may follow
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, Final) and event.finalize_id is not None:
            self._answers[event.finalize_id] = event
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        elif isinstance(event, Closed):
            self.closed = event
            self.is_over = True
            if isinstance(self.failure, ServerError):
                self.failure.closed = event
        self._backlog.push(event)

    # To the program

    def next_event(self) -> ServerMessage | None:
        """The next unread event; None when there is none now. Raises `failure` after the last."""
        event = self._backlog.pop()
        if event is None and self.is_over and self.failure is not None:
            raise self.failure
        return event

    def check_started(self) -> Started | None:
        """The server's first message; None while it is not there. Raises `failure`."""
        if self.started is None:
            self.check()
        return self.started

    def answer(self, finalize_id: int) -> Final | None:
        """Take the final that answers `finalize_id`; None while it is not there."""
        final = self._answers.pop(finalize_id, None)
        if final is None:
            self.check()
        return final

    # From the program

    def hello(self, hello: Hello) -> None:
        """Begin the session; the connection's token is in the hello, unless it has its own."""
        self.check()
        self._session.send(structs.replace(hello, token=hello.token or self._token))

    def audio(self, pcm: bytes) -> None:
        """Whole samples in the declared format."""
        self.check()
        self._session.send_audio(pcm)

    def finalize(self) -> int:
        """End the utterance; the id of its answer."""
        self.check()
        finalize_id = self._next_finalize_id
        self._next_finalize_id += 1
        self._session.send(Finalize(finalize_id=finalize_id))
        return finalize_id

    def ping(self, nonce: int) -> None:
        """Answered by Pong."""
        self.check()
        self._session.send(Ping(nonce))

    def bye(self) -> None:
        """No more audio."""
        self.check()
        self._session.send(Bye())

    def check(self) -> None:
        """Raises what makes sending pointless."""
        if self.failure is not None:
            raise self.failure
        if self.closed is not None:
            raise ConnectionLost(f"the session is closed (reason: {self.closed.reason})")

    def data_to_send(self) -> bytes:
        """Take the socket bytes queued so far; none before the transport is open."""
        if self._wire.is_open and self._session.state is not State.CLOSED:
            data = self._session.data_to_send()
            if data:
                self._wire.send(data)
        return self._wire.data_to_send()
