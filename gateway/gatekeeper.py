"""Who may come in: a token's right to be here, and its share of the server. Pure.

One per worker. Connections ask `authorize` before they answer a handshake or read a request's body,
and `admit` before they open a stream, whose end they tell by `release`, and by `turn_away` that it
found no place. Counting over all workers is the quota table's (quota.py); how many streams fit at
all is admission.py's, and which token may have the last places fair_share.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from protocol.client_messages import Error
from protocol.errors import ErrorCode
from protocol.supervisor_messages import Token

from .errors import refusal
from .fair_share import Demand, Room, is_over_share
from .tokens import find_token

DEMANDS_MAX_AGE_NS = 500_000_000  # what a thousand tokens want takes 10 ms to count
_NS_PER_MS = 1_000_000

_NO_TOKEN = "this server asks for a token, and none came where this API sends it"
_WRONG_TOKEN = "the token is not one of this server's"


class Excess(Enum):
    """Which limit of a token is reached."""

    SESSIONS = "sessions"
    RATE = "rate"


class Quota(Protocol):
    """What the gatekeeper needs of the quota table."""

    def claim(
        self, column: int, max_sessions: int | None, per_minute: int | None, now_ns: int
    ) -> Excess | None:
        """Count one session of a token, unless it has too many."""

    def reclaim(self, column: int) -> None:
        """Count a session that began before this worker."""

    def release(self, column: int) -> None:
        """The session has ended."""

    def take_back_start(self, column: int, began_ns: int) -> None:
        """What was claimed at that time never began."""

    def num_sessions(self, column: int) -> int:
        """Open ones."""

    def until_start_ns(self, column: int, per_minute: int, now_ns: int) -> int:
        """When a token with too many starts may begin one more, from now on."""

    def note_refused(self, column: int, now_ns: int) -> None:
        """A session of this token found no place."""

    def num_refused(self, column: int, now_ns: int) -> int:
        """Such sessions lately."""


class Places(Protocol):
    """What the gatekeeper needs of admission."""

    def room(self, now_ns: int) -> Room:
        """The places for streams."""

    def full(self, now_ns: int, reason: str) -> Error:
        """The refusal of one for whom there is no place."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One session of a token, to be given back by `release`."""

    name: str = ""  # of the token; "": none was asked for
    column: int | None = None  # of the quota table; None: not counted
    # When it was counted as a start; None: it was not.
    began_ns: int | None = field(default=None, compare=False)

    @property
    def group(self) -> int:
        """Whose share of the drafts its stream has; 0: that of all without a token."""
        return 0 if self.column is None else self.column + 1


class Gatekeeper:
    """`tokens` None: everybody may come in, and nothing is counted."""

    def __init__(
        self,
        tokens: Sequence[Token] | None = None,
        quota: Quota | None = None,
        places: Places | None = None,
    ) -> None:
        self._tokens = tokens
        self._quota = quota
        self._places = places
        self._demands: dict[int, Demand] = {}  # by column, as they were a moment ago
        self._demands_ns: int | None = None

    @property
    def asks_for_tokens(self) -> bool:
        """False: everybody may come in."""
        return self._tokens is not None

    def replace(self, tokens: Sequence[Token] | None) -> None:
        """From here on these tokens count; open sessions go on."""
        self._tokens = tokens
        self._demands_ns = None

    def authorize(self, token: str) -> Error | None:
        """None when this client may be here at all; a stream needs `admit` besides."""
        known = self._identify(token)
        return known if isinstance(known, Error) else None

    def admit(self, token: str, now_ns: int) -> Grant | Error:
        """Count one session of this token; the error says why it may not begin."""
        known = self._identify(token)
        if isinstance(known, Error):
            return known
        if known is None or self._quota is None:
            return Grant(known.name if known else "")
        if self._places is not None and self._is_over_share(known, self._quota, now_ns):
            text = f"what is free is kept for others: the token {known.name!r} has its share"
            return self._places.full(now_ns, text)
        excess = self._quota.claim(known.column, known.max_sessions, known.per_minute, now_ns)
        if excess is None:
            return Grant(known.name, known.column, now_ns)
        return _excess_error(known, excess, self._quota, now_ns)

    def readmit(self, name: str) -> Grant | None:
        """Count a session again that the token of this name was granted before this worker began;
        None when there is no such token any more.
        """
        known = next((token for token in self._tokens or () if token.name == name), None)
        if name and known is None:
            return None
        if known is None or self._quota is None:
            return Grant(name)
        self._quota.reclaim(known.column)
        return Grant(name, known.column)

    def turn_away(self, grant: Grant, error: Error, now_ns: int) -> None:
        """What was granted found no place after all; it is still to be released."""
        if grant.column is None or self._quota is None:
            return
        if grant.began_ns is not None:
            self._quota.take_back_start(grant.column, grant.began_ns)
        if error.code is ErrorCode.AT_CAPACITY:
            self._quota.note_refused(grant.column, now_ns)

    def release(self, grant: Grant) -> None:
        """The session of this grant has ended, or never began."""
        if grant.column is not None and self._quota is not None:
            self._quota.release(grant.column)

    def _identify(self, secret: str) -> Token | Error | None:
        """None when no tokens are asked for."""
        if self._tokens is None:
            return None
        token = find_token(self._tokens, secret)
        if token is None:
            return refusal(ErrorCode.UNAUTHORIZED, _WRONG_TOKEN if secret else _NO_TOKEN)
        return token

    def _is_over_share(self, token: Token, quota: Quota, now_ns: int) -> bool:
        """The others are counted twice a second, however many ask."""
        assert self._places is not None
        room = self._places.room(now_ns)
        if room.is_half_free:
            return False
        if self._demands_ns is None or now_ns - self._demands_ns >= DEMANDS_MAX_AGE_NS:
            self._demands_ns = now_ns
            self._demands = {
                column: Demand(quota.num_sessions(column), quota.num_refused(column, now_ns))
                for column in (token.column for token in self._tokens or ())
            }
        others = [demand for column, demand in self._demands.items() if column != token.column]
        return is_over_share(quota.num_sessions(token.column), others, room)


def _excess_error(token: Token, excess: Excess, quota: Quota, now_ns: int) -> Error:
    if excess is Excess.SESSIONS:
        text = f"all {token.max_sessions} sessions of the token {token.name!r} are open"
        return refusal(ErrorCode.RATE_LIMITED, text)
    text = f"the token {token.name!r} may begin {token.per_minute} sessions a minute"
    until_ns = quota.until_start_ns(token.column, token.per_minute or 0, now_ns)
    return refusal(ErrorCode.RATE_LIMITED, text, -(-until_ns // _NS_PER_MS))
