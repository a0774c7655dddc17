"""Sessions that outlive their connections: which there are, and which wait for their client. Pure.

One per worker. Every resumable session is known here from its Started until its last event is
acknowledged. When its connection is lost it is parked: its stream keeps its slot and its service,
what it says is kept (kept_events.py), and it waits for the window. A connection that brings the
token gets it back (resumption.py); a session that nobody asked for in time is closed as vanished.
Nothing here takes longer the more sessions wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protocol.client_messages import NUMBERED, ServerMessage

from .kept_events import KeptEvents
from .resume_token import ResumeToken
from .stream import Stream

if TYPE_CHECKING:
    from .channel import Channel

# Parked sessions without a slot: they have ended and their client has not heard all, or had no
# audio yet. Of more the oldest of the latter is forgotten, whose client has lost nothing: where so
# many ended ones wait, that is the one which has just come. Without any such the oldest ended one
# is forgotten. Those with a slot are as many as there are slots.
MAX_PARKED_WITHOUT_SLOT = 256


@dataclass(slots=True)
class Resumable:
    """What a session needs to go on at another connection, besides its stream."""

    digest: bytes  # of the token's secret
    kept: KeptEvents = field(default_factory=KeptEvents)


class Parking:
    """See the module text. `window_ns` 0: no session is resumable."""

    def __init__(
        self,
        owner: int,
        num_workers: int,
        window_ns: int,
        close_stream: Callable[[Stream, str], None],
        new_secret: Callable[[], bytes],
    ) -> None:
        self.owner = owner  # this worker's index
        self.num_workers = num_workers
        self.window_ns = window_ns
        self._close_stream = close_stream
        self._new_secret = new_secret
        self._by_id: dict[str, Channel] = {}
        # Those that are parked, earliest first; of them those without a slot, who came to be so
        # first: they have ended, or had no audio yet. (A dict looks for its first past all that
        # were before it: taking 10,000 one by one costs it 5 us each, this one 0.4 us.)
        self._deadlines: OrderedDict[str, int] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._silent: OrderedDict[str, None] = OrderedDict()

    @property
    def num_parked(self) -> int:
        """Sessions that wait for their client."""
        return len(self._deadlines)

    # Sessions

    def enter(self, channel: Channel) -> str:
        """From here on this session outlives its connections; the token that its client gets."""
        session_id = channel.streaming.session_id
        token = ResumeToken(self.owner, session_id, self._new_secret())
        channel.session = Resumable(token.digest)
        self._by_id[session_id] = channel
        return token.text

    def restore(self, channel: Channel, now_ns: int) -> None:
        """A session from before this process began, whose `session` is set: it waits."""
        self._by_id[channel.streaming.session_id] = channel
        self.park(channel, now_ns)

    def find(self, token: ResumeToken) -> Channel | None:
        """The session of a token; None when it is not here, or the secret is wrong."""
        channel = self._by_id.get(token.session_id)
        if channel is None or channel.session is None:
            return None
        return channel if token.is_of(channel.session.digest) else None

    def forget(self, channel: Channel) -> None:
        """It is resumable no more: its client has all, or it is over."""
        if channel.session is None:
            return
        channel.session = None
        channel.streaming.journal.forget()
        del self._by_id[channel.streaming.session_id]
        self.take_back(channel)

    def keep(self, channel: Channel, event: ServerMessage) -> bool:
        """Number an event of this session; False when its client has left too many unread."""
        session = channel.session
        if session is None or event.TYPE not in NUMBERED:
            return True
        session.kept.append(event)
        channel.streaming.journal.told(event)
        return not session.kept.is_full

    # Waiting

    def park(self, channel: Channel, now_ns: int) -> None:
        """Its connection is lost."""
        stream = channel.streaming
        self._deadlines[stream.session_id] = now_ns + self.window_ns
        if stream.ended:
            self._wait_without_slot(stream.session_id, self._ended)
        elif not stream.is_attached:
            self._wait_without_slot(stream.session_id, self._silent)

    def stream_ended(self, channel: Channel) -> None:
        """No client is here; if it is parked, it has no slot any more."""
        session_id = channel.streaming.session_id
        if session_id in self._deadlines:
            self._wait_without_slot(session_id, self._ended)

    def _wait_without_slot(self, session_id: str, among: OrderedDict[str, None]) -> None:
        among[session_id] = None
        if len(self._silent) + len(self._ended) > MAX_PARKED_WITHOUT_SLOT:
            first = next(iter(self._silent or self._ended))
            self.give_up(self._by_id[first], "vanished")

    def take_back(self, channel: Channel) -> None:
        """It does not wait any more: its client is here again, or it is over."""
        session_id = channel.streaming.session_id
        for parked in (self._deadlines, self._ended, self._silent):
            parked.pop(session_id, None)

    def expire(self, now_ns: int) -> None:
        """Close those whose window is over."""
        while self._deadlines:
            session_id, deadline_ns = next(iter(self._deadlines.items()))
            if now_ns < deadline_ns:
                return
            self.give_up(self._by_id[session_id], "vanished")

    def drain(self, reason: str) -> None:
        """The server goes away: those that wait are decoded to their end, for nobody."""
        for session_id in tuple(self._deadlines):
            self.give_up(self._by_id[session_id], reason)

    def give_up(self, channel: Channel, reason: str) -> None:
        """Nobody will hear the rest: what came is decoded, as after any client that vanished."""
        self.forget(channel)
        self._close_stream(channel.streaming, reason)
