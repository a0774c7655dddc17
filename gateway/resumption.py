"""How a client goes on with a session that another connection began.

Beside the Channels of one connection. It finds the session that a token names: here, where it may
wait in its parking or still hang on a connection that nobody noticed is dead, or at another worker
(elsewhere.py). It says what the client does not have yet, hears what it has, and gives the session
back to the parking when this connection is lost, too.
"""

from __future__ import annotations

from typing import Protocol

from protocol.client_messages import Error, Resume
from protocol.errors import ErrorCode

from .channel import Channel
from .connection_host import Client, ConnectionHost
from .dialects import AckIn, RelayIn, ResumeIn
from .elsewhere import Elsewhere, resume_later
from .errors import refusal
from .gatekeeper import Gatekeeper
from .resume_token import ResumeToken, parse_resume_token
from .stream import Stream


class Holder(Protocol):
    """The channels of this connection."""

    @property
    def first(self) -> Channel | None:
        """The only channel of a client whose session is resumable."""

    def take_in(self, channel: Channel) -> None:
        """It is this connection's from here on."""

    def let_out(self, channel: Channel) -> None:
        """Here it is no more."""

    def forget(self, channel: Channel) -> None:
        """It has ended."""

    def open_lane(self, stream: Stream) -> None:
        """Its audio may take the short way, if it has one."""


class Resumption:
    """See the module text."""

    __slots__ = ("_client", "_elsewhere", "_gatekeeper", "_holder", "_host", "_parking")

    def __init__(
        self, host: ConnectionHost, client: Client, gatekeeper: Gatekeeper, holder: Holder
    ) -> None:
        self._host = host
        self._client = client
        self._gatekeeper = gatekeeper
        self._holder = holder
        self._parking = host.parking
        self._elsewhere: Elsewhere | None = None  # set while another worker has the session

    @property
    def is_elsewhere(self) -> bool:
        """Another worker has the session of this client."""
        return self._elsewhere is not None and self._elsewhere.is_open

    @property
    def is_full(self) -> bool:
        """The other worker takes no more now: stop reading from the client."""
        return self._elsewhere is not None and self._elsewhere.is_full

    def watch(self) -> None:
        """The client may have read what waited for it."""
        if self._elsewhere is not None:
            self._elsewhere.watch()

    def give_up_waiting(self, error: Error) -> Error:
        """This worker has to tell its client of an error, so it waits for no other one any more;
        returns what to say.
        """
        if self._elsewhere is None or not self._elsewhere.give_up():
            return error
        self._count("later")
        # The client was in time.
        return resume_later() if error.code is ErrorCode.HANDSHAKE_TIMEOUT else error

    def leave(self) -> None:
        """The connection is gone, or about to."""
        if self._elsewhere is not None:
            self._elsewhere.close()

    def close(self) -> None:
        """Nothing is resumable any more: the session ends for good."""
        if self._elsewhere is not None:
            self.leave()
            self._client.finish()
        if (channel := self._holder.first) is not None:
            self._parking.forget(channel)

    def park(self) -> bool:
        """The connection is lost; True when its session goes on without it."""
        if self._elsewhere is not None:
            self.leave()
            return True
        channel = self._holder.first
        if channel is None or channel.session is None:
            return False
        self._holder.let_out(channel)
        self._parking.park(channel, self._host.loop.now_ns)
        return True

    # Intents

    def apply(self, intent: ResumeIn | AckIn | RelayIn, now_ns: int) -> None:
        """What the client wants of its session."""
        if isinstance(intent, ResumeIn):
            self._resume(intent, now_ns)
        elif isinstance(intent, AckIn):
            self._acknowledge(intent.events_received)
        elif self._elsewhere is not None:
            self._elsewhere.write(intent.data)

    def _resume(self, intent: ResumeIn, now_ns: int) -> None:
        found = self._find(intent.resume)
        if isinstance(found, Channel):
            self._count("resumed")
            intent.dialect.adopt(found.hello)
            self._take_over(found, intent.resume.events_received, now_ns)
            return
        error = self._hand_over(intent, found.owner) if isinstance(found, ResumeToken) else found
        if error is not None:
            self._count("later" if error.retryable else "failed")
            self._client.refuse(error)

    def _find(self, resume: Resume) -> Channel | ResumeToken | Error:
        """The session; its token, if another worker has it; or why it cannot go on."""
        error = self._gatekeeper.authorize(resume.token)
        if error is not None:
            self._host.metrics.refused.labels(error.code.value).inc()
            return error
        token = parse_resume_token(resume.resume_token)
        if token is None or token.owner >= self._parking.num_workers:
            return _failed("there is no such session")
        if token.owner != self._parking.owner:
            return token
        channel = self._parking.find(token)
        if channel is None:
            return _failed("the session is not here any more")
        if channel.kept_since(resume.events_received) is None:
            return _failed(f"events from number {resume.events_received} on are not kept")
        return channel

    def _hand_over(self, intent: ResumeIn, worker: int) -> Error | None:
        self._elsewhere = Elsewhere(self._host, self._client, intent.dialect)
        if self._elsewhere.begin(intent, worker):
            self._count("relayed")
            return None
        self._elsewhere = None
        return resume_later()

    def _take_over(self, channel: Channel, num_events: int, now_ns: int) -> None:
        """The session goes on here; a connection that still seems to have it is cut."""
        if channel.seat is not None:
            channel.seat.let_go(channel)
        self._parking.take_back(channel)
        self._holder.take_in(channel)
        stream = channel.streaming
        is_over = self._note_received(channel, num_events)
        self._client.deliver(self._host.router.resumed(stream, now_ns))
        for event in channel.kept_since(num_events) or ():
            self._client.deliver(event)
        if channel.seat is None:
            return  # it broke off meanwhile
        if is_over:
            self._holder.forget(channel)
        elif stream.ended:
            self._client.streams_settled()
        elif stream.is_attached and not stream.closing:
            self._holder.open_lane(stream)

    def _acknowledge(self, num_events: int) -> None:
        channel = self._holder.first
        if channel is None or channel.session is None:
            return
        if num_events > channel.session.kept.next_number:
            text = f"{num_events} events were acknowledged, and not so many sent"
            self._client.refuse(refusal(ErrorCode.UNEXPECTED_MESSAGE, text))
        elif self._note_received(channel, num_events):
            self._holder.forget(channel)

    def _note_received(self, channel: Channel, num_events: int) -> bool:
        """The client has so many; True when these are all there will be. The journal is not told
        so then: it goes, and no successor finds a session that neither goes on nor has an end.
        """
        session = channel.session
        known = 0 if session is None else session.kept.first_number
        if session is None or not session.kept.acknowledge(num_events):
            raise AssertionError("the caller has looked whether so many were sent")
        if channel.streaming.ended and session.kept.is_empty:
            self._parking.forget(channel)
            return True
        if num_events > known:
            channel.streaming.journal.acknowledged()
        return False

    def _count(self, outcome: str) -> None:
        self._host.metrics.resumes.labels(outcome).inc()


def _failed(text: str) -> Error:
    return refusal(ErrorCode.RESUME_FAILED, text)
