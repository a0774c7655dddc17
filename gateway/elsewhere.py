"""A client whose session another worker has: its bytes go there, the answers come from there.

Channels make one when the token of a Resume names another worker. The native protocol is parsed
there; here it is passed on, both ways, until either side ends it (relay.py carries it).
"""

from __future__ import annotations

from msgspec import structs

from protocol.client_messages import Error
from protocol.errors import ErrorCode

from .connection_host import Client, ConnectionHost, RelayLink
from .dialects import ResumeIn, ResumingDialect
from .errors import refusal

RETRY_AFTER_MS = 500  # the other worker is started again in about so long


class Elsewhere:
    """See the module text and relay.RelayOwner."""

    __slots__ = ("_client", "_dialect", "_host", "_link", "_was_heard")

    def __init__(self, host: ConnectionHost, client: Client, dialect: ResumingDialect) -> None:
        self._host = host
        self._client = client
        self._dialect = dialect
        self._link: RelayLink | None = None
        self._was_heard = False  # the other worker has said something

    def begin(self, intent: ResumeIn, worker: int) -> bool:
        """Ask for a way to that worker; False when there is none now."""
        self._link = self._host.open_relay(worker, self)
        if self._link is None:
            return False
        self._link.write(intent.dialect.hand_over(intent.resume))
        return True

    @property
    def is_open(self) -> bool:
        """The other worker is there, and has not ended it."""
        return self._link is not None and self._was_heard

    @property
    def is_full(self) -> bool:
        """It takes no more now: stop reading from the client."""
        return self._link is not None and self._link.is_full

    def write(self, data: bytes) -> None:
        """The client's next bytes."""
        if self._link is not None:
            self._link.write(data)

    def watch(self) -> None:
        """The client may have read what waited for it."""
        if self._link is not None:
            self._link.watch()

    def give_up(self) -> bool:
        """Wait no longer; True when the other worker has said nothing, and this side answers."""
        if self._link is None or self._was_heard:
            return False
        self.close()
        self._dialect.take_back()
        return True

    def close(self) -> None:
        """The client is gone."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    # relay.RelayOwner

    @property
    def takes_relayed(self) -> bool:
        """The client reads what it is sent."""
        return self._client.takes_more

    def on_relayed(self, data: bytes) -> None:
        """Bytes for the client."""
        self._was_heard = True
        self._client.relay(data)

    def on_relay_room(self) -> None:
        """There is room again."""
        self._client.resume()

    def on_relay_ended(self) -> None:
        """The other worker has ended it, or was never there."""
        self._link = None
        if self._was_heard:
            self._client.finish()
            return
        self._dialect.take_back()
        self._host.metrics.resumes.labels("later").inc()
        self._client.refuse(resume_later())


def resume_later() -> Error:
    """The worker that has the session cannot be reached now."""
    error = refusal(ErrorCode.RESUME_LATER, "the worker that has this session is not there now")
    return structs.replace(error, retry_after_ms=RETRY_AFTER_MS)
