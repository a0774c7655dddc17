"""What can go wrong inside the gateway, and how a client reads about it.

    EarwireError (protocol)
    `-- GatewayError
        `-- ListenError      a listener cannot be opened; the message names the address

Everything a client does wrong is a value (client_messages.Error), never an exception: `refusal`
builds it, so that `retryable` always follows the table in protocol/errors.py.
"""

from __future__ import annotations

from protocol.client_messages import Error
from protocol.errors import RETRYABLE, EarwireError, ErrorCode

RETRY_AFTER_MS = 2_000  # how long a client should wait, where nothing better is known


class GatewayError(EarwireError):
    """Everything the gateway raises itself."""


class ListenError(GatewayError):
    """A listener cannot be opened."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(host, port, reason)
        self.host = host
        self.port = port
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot listen on {self.host}:{self.port}: {self.reason}"


def refusal(code: ErrorCode, message: str, retry_after_ms: int = RETRY_AFTER_MS) -> Error:
    """The error event for `code`, with a time to retry after when that makes sense."""
    retryable = code in RETRYABLE
    return Error(
        code=code,
        message=message,
        retryable=retryable,
        retry_after_ms=retry_after_ms if retryable else None,
    )
