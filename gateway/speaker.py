"""What one connection says: events through dialect and transport into its outbox.

Shell's half of the output, owned by a connection. It sheds drafts of a client that reads slowly and
counts errors; the connection flushes the outbox and decides what a full one means.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.client_messages import Error, Partial, ServerMessage

from .connection_host import ConnectionHost
from .dialects import Dialect
from .outbox import Outbox
from .transport import Transport

CLOSE_TIMEOUT_NS = 5_000_000_000  # from the last word to the end of the connection
MIN_FLUSH_BYTES_PER_S = 64 * 1024  # and this much longer for what the client has not read by then
_NS_PER_S = 1_000_000_000


class Speaker:
    """See the module text."""

    __slots__ = ("_host", "_on_output", "_out", "_transport", "dialect", "error")

    def __init__(
        self,
        host: ConnectionHost,
        transport: Transport,
        dialect: Dialect | None,
        out: Outbox,
        on_output: Callable[[], None],
    ) -> None:
        self.dialect = dialect
        self.error: Error | None = None  # the last one the client was told
        self._host = host
        self._transport = transport
        self._out = out
        self._on_output = on_output  # there is something to flush

    @property
    def flush_timeout_ns(self) -> int:
        """How long a client gets to read what is queued, when nothing more will be said."""
        left_bytes = 0 if self._out.is_muted else len(self._out)
        return CLOSE_TIMEOUT_NS + left_bytes // MIN_FLUSH_BYTES_PER_S * _NS_PER_S

    def say(self, event: ServerMessage, now_ns: int, channel: int) -> None:
        """Render an event."""
        if isinstance(event, Error):
            self.note(event)
        if self._out.is_muted or self.dialect is None:
            return
        if isinstance(event, Partial) and self._out.sheds_partials:
            self._host.partials_shed += 1
            return
        self.dialect.handle_event(event, now_ns, channel)
        self.collect()

    def note(self, error: Error) -> None:
        """The client knows this error."""
        self.error = error
        self._host.metrics.errors.labels(error.code.value).inc()

    def pass_on(self, data: bytes) -> None:
        """Bytes that another worker's dialect has made."""
        self._transport.send(data)
        self.collect()

    def collect(self) -> None:
        """Move what the cores have queued to the outbox."""
        if self.dialect is not None:
            for item in self.dialect.data_to_send():
                self._transport.send(item)
        if self._out.append(self._transport.data_to_send()):
            self._on_output()
