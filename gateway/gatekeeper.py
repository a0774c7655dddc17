"""Who may come in: a token's right to be here, and its share of the server. Pure.

One per worker. Connections ask `authorize` before they answer a handshake or read a request's body,
and `admit` before they open a stream, whose end they tell by `release`. Counting over all workers
is the quota table's (quota.py); how many streams fit at all is admission.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from msgspec import structs

from protocol.client_messages import Error
from protocol.errors import ErrorCode
from protocol.supervisor_messages import Token

from .errors import refusal
from .tokens import find_token

RATE_RETRY_AFTER_MS = 10_000  # the quota table forgets starts in steps of this

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

    def release(self, column: int) -> None:
        """The session has ended."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One session of a token, to be given back by `release`."""

    name: str = ""  # of the token; "": none was asked for
    column: int | None = None  # of the quota table; None: not counted


class Gatekeeper:
    """`tokens` None: everybody may come in, and nothing is counted."""

    def __init__(self, tokens: Sequence[Token] | None = None, quota: Quota | None = None) -> None:
        self._tokens = tokens
        self._quota = quota

    @property
    def asks_for_tokens(self) -> bool:
        """False: everybody may come in."""
        return self._tokens is not None

    def replace(self, tokens: Sequence[Token] | None) -> None:
        """From here on these tokens count; open sessions go on."""
        self._tokens = tokens

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
        excess = self._quota.claim(known.column, known.max_sessions, known.per_minute, now_ns)
        if excess is None:
            return Grant(known.name, known.column)
        return _excess_error(known, excess)

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


def _excess_error(token: Token, excess: Excess) -> Error:
    if excess is Excess.SESSIONS:
        text = f"all {token.max_sessions} sessions of the token {token.name!r} are open"
        return refusal(ErrorCode.RATE_LIMITED, text)
    text = f"the token {token.name!r} may begin {token.per_minute} sessions a minute"
    error = refusal(ErrorCode.RATE_LIMITED, text)
    return structs.replace(error, retry_after_ms=RATE_RETRY_AFTER_MS)
