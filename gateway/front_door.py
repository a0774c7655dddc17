"""Where clients come in: every connection of one worker, and what is asked of a new one.

Shell, owned by the worker. It knows the listeners' protocols, who may connect (tokens, addresses,
how many at all) and under which certificate; it makes connections and keeps the table of them. What
a client then says is the connection's.
"""

from __future__ import annotations

import socket
import ssl
import uuid
from collections.abc import Callable, Sequence

from protocol.errors import ErrorCode
from protocol.supervisor_messages import Access

from .address_limits import AddressExcess, AddressLimits
from .admission import Admission
from .certificates import Certificate, server_context
from .config import WorkerConfig
from .connection import Connection
from .connection_host import ConnectionHost
from .dialects import Dialect
from .dialects.native import NativeDialect
from .dialects.wyoming import WyomingDialect
from .errors import refusal
from .gatekeeper import Gatekeeper, Quota
from .routes import ServerStatus
from .tls import TlsTransport
from .transport import RawTransport, Transport
from .web_port import WebPort
from .web_transport import WebTransport

# Refused connections stay a moment to read why; more than these are closed without a word.
MAX_REFUSED_CONNECTIONS = 64


class FrontDoor:
    """See the module text."""

    def __init__(
        self,
        host: ConnectionHost,
        config: WorkerConfig,
        admission: Admission,
        status: Callable[[], ServerStatus],
        wall_offset_ns: int,
        quota: Quota | None,
    ) -> None:
        # Knows the tokens, if there are any.
        self.gatekeeper = Gatekeeper(quota=quota, places=admission)
        # For listeners without a place for tokens: the Unix socket, which only its owner can open,
        # and Wyoming, which the parent does not open to other machines by itself.
        self.open_gatekeeper = Gatekeeper()
        self.tls: ssl.SSLContext | None = None  # of new connections; a reload replaces it
        self._host = host
        self._config = config
        self._admission = admission
        self._metrics = host.metrics
        # Every connection, with the address to release when it is closed; None: turned away for it
        self._connections: dict[Connection, str | None] = {}
        self._num_turned_away = 0
        self._address_limits = AddressLimits(config.max_connections_per_address)
        self._draining: set[Connection] = set()  # open when the drain began: waited for
        self._web_port = WebPort(
            status,
            config.allow_origins,
            self.gatekeeper.authorize,
            wall_offset_ns,
            config.max_upload_bytes,
            lambda: str(uuid.uuid4()),
            lambda reason: self._metrics.refused.labels(reason).inc(),
        )

    @property
    def num_connections(self) -> int:
        """Open client connections."""
        return len(self._connections) - self._num_turned_away

    @property
    def is_drained(self) -> bool:
        """Nobody is left of those who were here when the drain began."""
        return not self._draining

    def take_access(self, access: Access) -> None:
        """Tokens and certificate, at the start and after a reload; open sessions go on."""
        self.gatekeeper.replace(access.tokens)
        if access.certificate_pem:
            self.tls = server_context(Certificate(access.certificate_pem, access.key_pem))

    # Listeners

    def accept_native(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the native TCP listener."""
        self.adopt(sock, address, self._native_over_tcp, self.gatekeeper)

    def accept_unix(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the native Unix listener."""
        self.adopt(sock, address, _native, self.open_gatekeeper)

    def accept_wyoming(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the Wyoming listener."""
        self.adopt(sock, address, self._wyoming, self.open_gatekeeper)

    def accept_web(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the HTTP and WebSocket listener."""
        self.adopt(sock, address, self._web, self.gatekeeper)

    def accept_handed_over(self, fds: Sequence[int]) -> None:
        """A client whose session is here, by way of the worker that it came to and that has looked
        at its token. None comes where this process may have no more descriptors: the other worker
        sees its end closed, and the client tries again.
        """
        for fd in fds:
            self.adopt(socket.socket(fileno=fd), "", _native, self.open_gatekeeper)

    def _native_over_tcp(self) -> tuple[Transport, Dialect | None]:
        transport, dialect = _native()
        return self._secured(transport), dialect

    def _wyoming(self) -> tuple[Transport, Dialect | None]:
        dialect = WyomingDialect(self._admission.models, self._admission.languages_of)
        return RawTransport(dialect), dialect

    def _web(self) -> tuple[Transport, Dialect | None]:
        return self._secured(WebTransport(self._web_port, self.tls is not None)), None

    def _secured(self, transport: Transport) -> Transport:
        if self.tls is None:
            return transport
        return TlsTransport(transport, self.tls, self._metrics.refused.labels("tls").inc)

    # Connections

    def adopt(
        self,
        sock: socket.socket,
        address: str,
        make: Callable[[], tuple[Transport, Dialect | None]],
        gatekeeper: Gatekeeper,
    ) -> None:
        """A new connection, unless there are too many: of these some are told so, and those
        beyond are closed before anything is made for them."""
        num_excess = self.num_connections - self._config.max_connections
        if num_excess >= MAX_REFUSED_CONNECTIONS:
            self._shed(sock, "capacity")
            return
        excess = self._address_limits.admit(address, self._host.loop.now_ns)
        has_no_place = self._num_turned_away >= MAX_REFUSED_CONNECTIONS
        if excess is not None and (has_no_place or excess is AddressExcess.RATE):
            self._shed(sock, excess.value)
            return
        self._metrics.connections.inc()
        connection = Connection(self._host, sock, *make(), gatekeeper)
        self._connections[connection] = None if excess else address
        if excess is not None:
            self._num_turned_away += 1
            self._metrics.refused.labels(excess.value).inc()
            connection.refuse(refusal(ErrorCode.RATE_LIMITED, "too many connections from here"))
        elif num_excess >= 0:
            self._metrics.refused.labels("capacity").inc()
            connection.refuse(refusal(ErrorCode.AT_CAPACITY, "too many connections"))

    def _shed(self, sock: socket.socket, reason: str) -> None:
        self._metrics.refused.labels(reason).inc()
        sock.close()

    def forget(self, connection: Connection) -> None:
        """Its descriptor is closed."""
        address = self._connections.pop(connection)
        self._num_turned_away -= address is None
        self._address_limits.release(address or "")
        self._draining.discard(connection)
        self._metrics.connections.dec()

    def drain(self) -> None:
        """Open sessions get their finals. Later connections (health checks, refusals) are served,
        but keep nobody waiting.
        """
        self._draining = set(self._connections)
        for connection in tuple(self._connections):
            connection.drain()

    def close(self) -> None:
        """Close every connection."""
        for connection in tuple(self._connections):
            connection.destroy()


def _native() -> tuple[Transport, Dialect | None]:
    dialect = NativeDialect()
    return RawTransport(dialect), dialect
