"""Session errors as HTTP: which status, and which headers besides. Pure.

Both HTTP dialects call it; the body of an error is each API's own.
"""

from __future__ import annotations

from protocol.client_messages import Error
from protocol.errors import ErrorCode

_MS_PER_S = 1_000
_STATUSES = {
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.UNKNOWN_MODEL: 404,
    ErrorCode.HANDSHAKE_TIMEOUT: 408,
    ErrorCode.IDLE_TIMEOUT: 408,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.AT_CAPACITY: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.SERVICE_LOST: 503,
}


def status_of(code: ErrorCode) -> int:
    """The status; what is not listed is the client's fault."""
    return _STATUSES.get(code, 400)


def headers_of(error: Error) -> tuple[tuple[str, str], ...]:
    """When to come again, and how to say who one is."""
    if error.code is ErrorCode.UNAUTHORIZED:
        return (("WWW-Authenticate", "Bearer"),)
    if error.retry_after_ms is None:
        return ()
    return (("Retry-After", str(-(-error.retry_after_ms // _MS_PER_S))),)
