"""What a client raises.

EarwireError
`-- ClientError
    |-- AddressError      the server's URL makes no sense
    |-- ConnectionLost    no connection, or it ended before the close record; retryable
    |-- EventsUnread      the program never reads its events
    `-- ServerError       the server said Error; carries its code, retryable, retry_after_ms
"""

from __future__ import annotations

from protocol.client_messages import Closed, Error
from protocol.errors import EarwireError, ErrorCode


class ClientError(EarwireError):
    """Base of everything the clients raise. `retryable`: connecting again may help."""

    retryable = False
    retry_after_ms: int | None = None


class AddressError(ClientError):
    """The server's URL makes no sense."""


class ConnectionLost(ClientError):
    """There is no connection any more, or there never was one."""

    retryable = True


class EventsUnread(ClientError):
    """More finals came than are kept: the program sends, and never reads its events."""


class ServerError(ClientError):
    """The server refused or ended the session; `closed` is its close record, if one came."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        retryable: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.closed: Closed | None = None

    @classmethod
    def of(cls, error: Error) -> ServerError:
        """The exception for an Error message."""
        return cls(error.code, error.message, error.retryable, error.retry_after_ms)

    def __str__(self) -> str:
        again = " (try again)" if self.retryable else ""
        return f"{self.message} [{self.code.value}]{again}"
