"""One gateway worker: `python -m gateway.worker --config JSON`, started by the parent.

It puts the pieces together - event loop, listeners, connections, router, service links, control
link - and runs the loop until the parent says Stop, is gone, or a drain is complete. It inherits
the control socket, the arena and the Unix listener as descriptors, and binds its own TCP listeners
(SO_REUSEPORT). All policy is in the pure files; this one only carries messages between them.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
import uuid
from collections.abc import Callable

from protocol.client_messages import Closed
from protocol.errors import ErrorCode
from protocol.log_lines import configure_logging
from protocol.ring import ArenaLayout
from protocol.service_messages import Health, StreamMessage
from protocol.shm import map_arena, send_message
from protocol.supervisor_messages import (
    Access,
    Drain,
    Link,
    Log,
    Ready,
    Sample,
    Stats,
    Stop,
    SupervisorMessage,
    Unlinked,
)

from .address_limits import AddressExcess, AddressLimits
from .admission import Admission, ServiceLoad, SlotTable
from .certificates import Certificate, server_context
from .config import WorkerConfig
from .connection import NS_PER_MS, RECEIVE_BYTES, Connection
from .connection_host import Feed
from .control_link import ControlLink
from .decoder_pool import DecoderPool, UploadLimits
from .dialects import Container, Dialect
from .dialects.native import NativeDialect
from .dialects.wyoming import WyomingDialect
from .errors import ListenError, refusal
from .event_loop import EventLoop
from .file_feed import FeedOwner, FileFeed
from .flight_recorder import NO_RECORDER
from .gatekeeper import Gatekeeper, Quota
from .metrics import Metrics
from .resampler import new_converter
from .router import Router
from .routes import ServerStatus
from .service_link import ServiceLink
from .session_log import log_closed, log_final
from .stream import Stream
from .tls import TlsTransport
from .transport import RawTransport, Transport
from .web_port import WebPort
from .web_transport import WebTransport
from .worker_start import (
    await_access,
    flight_recorder,
    inherit_quota,
    listen,
    measure_gc,
    parse_config,
)

STATS_INTERVAL_NS = 1_000_000_000
# Refused connections stay a moment to read why; more than these are closed without a word.
MAX_REFUSED_CONNECTIONS = 64

_log = logging.getLogger("earwire.gateway")


class Worker:
    """See the module text; also the ConnectionHost of its connections."""

    def __init__(
        self,
        config: WorkerConfig,
        layout: ArenaLayout,
        arena: memoryview,
        clock: Callable[[], int] = time.monotonic_ns,
        quota: Quota | None = None,
    ) -> None:
        self.config = config
        self.loop = EventLoop(clock)
        self.gatekeeper = Gatekeeper(quota=quota)  # knows the tokens, if there are any
        # For listeners without a place for tokens: the Unix socket, which only its owner can open,
        # and Wyoming, which the parent does not open to other machines by itself.
        self.open_gatekeeper = Gatekeeper()
        self.tls: ssl.SSLContext | None = None  # of new connections; a reload replaces it
        self.admission = Admission(SlotTable(layout.num_slots), first_choice=config.index)
        self.metrics = Metrics()
        limits = UploadLimits(config.max_upload_bytes, config.max_file_seconds)
        self.decoders = DecoderPool(self.loop, limits)
        self._wall_offset_ns = time.time_ns() - self.loop.now_ns
        self._recorder = flight_recorder(config, self.metrics, self._wall_offset_ns)
        self.router = Router(
            config, self.admission, self.metrics, layout, arena, new_converter,
            self._on_stream_closed, f"{config.index}{secrets.token_hex(3)}",
            log_final if config.log_transcripts else None, self._recorder or NO_RECORDER,
        )  # fmt: skip
        self.receive_view = memoryview(bytearray(RECEIVE_BYTES))
        self.handshake_timeout_ns = config.handshake_timeout_ms * NS_PER_MS
        self.idle_timeout_ns = config.idle_timeout_ms * NS_PER_MS
        self.partials_shed = 0
        self.slow_readers = 0
        self._started_s = int(time.time())
        self._merged: tuple[Sample, ...] = ()  # all children's, as the parent last sent them
        # Every connection, with the address to release when it is closed ("": none).
        self._connections: dict[Connection, str | None] = {}  # address; None: turned away for it
        self._num_turned_away = 0
        self._address_limits = AddressLimits(config.max_connections_per_address)
        self._web_port = WebPort(
            self.status,
            config.allow_origins,
            self.gatekeeper.authorize,
            self._wall_offset_ns,
            config.max_upload_bytes,
            lambda: str(uuid.uuid4()),
            lambda reason: self.metrics.refused.labels(reason).inc(),
        )
        self._dirty: list[Connection] = []
        self._links: dict[int, ServiceLink] = {}
        self._control: ControlLink | None = None
        self._drain_requested = False
        self.loop.before_sleep.append(self._before_sleep)
        self.loop.on_turn = self.metrics.loop_turn.observe_ns
        self._draining: set[Connection] = set()  # open when the drain began: waited for

    @property
    def num_connections(self) -> int:
        """Open client connections."""
        return len(self._connections) - self._num_turned_away

    # ConnectionHost

    def open_feed(self, container: Container, owner: FeedOwner) -> Feed:
        """A decoder for one container."""
        return FileFeed(self.decoders, container, owner)

    def mark_dirty(self, connection: Connection) -> None:
        """Flush it before the next sleep."""
        self._dirty.append(connection)

    def connection_closed(self, connection: Connection) -> None:
        """Its descriptor is closed."""
        address = self._connections.pop(connection)
        self._num_turned_away -= address is None
        self._address_limits.release(address or "")
        self._draining.discard(connection)
        self.metrics.connections.dec()
        self._exit_when_drained()

    def _before_sleep(self) -> None:
        if self._drain_requested and not self.admission.draining:
            self.drain()
        for link in tuple(self._links.values()):
            link.flush()
        if self.router.orphans.place(self.loop.now_ns):
            self.loop.wake()  # more of them may follow, in a turn of their own
            for link in tuple(self._links.values()):
                link.flush()
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.is_dirty = False
                connection.flush()

    # Clients

    def accept_native(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the native TCP listener."""
        self._adopt(sock, address, self._native_over_tcp, self.gatekeeper)

    def accept_unix(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the native Unix listener."""
        self._adopt(sock, address, self._native, self.open_gatekeeper)

    def accept_wyoming(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the Wyoming listener."""
        self._adopt(sock, address, self._wyoming, self.open_gatekeeper)

    def accept_web(self, sock: socket.socket, address: str = "") -> None:
        """A connection on the HTTP and WebSocket listener."""
        self._adopt(sock, address, self._web, self.gatekeeper)

    def _native(self) -> tuple[Transport, Dialect | None]:
        dialect = NativeDialect()
        return RawTransport(dialect), dialect

    def _native_over_tcp(self) -> tuple[Transport, Dialect | None]:
        transport, dialect = self._native()
        return self._secured(transport), dialect

    def _wyoming(self) -> tuple[Transport, Dialect | None]:
        dialect = WyomingDialect(self.admission.models, self.admission.languages)
        return RawTransport(dialect), dialect

    def _web(self) -> tuple[Transport, Dialect | None]:
        return self._secured(WebTransport(self._web_port, self.tls is not None)), None

    def _secured(self, transport: Transport) -> Transport:
        if self.tls is None:
            return transport
        return TlsTransport(transport, self.tls, self.metrics.refused.labels("tls").inc)

    def status(self) -> ServerStatus:
        """What the HTTP routes answer from. Without a parent's statistics it shows its own."""
        now_ns = self.loop.now_ns
        step_ns = self.admission.last_step_ns(now_ns)
        return ServerStatus(
            last_step_age_s=None if step_ns is None else max(0, now_ns - step_ns) / 1e9,
            is_draining=self.admission.draining,
            models=self.admission.models(),
            started_s=self._started_s,
            samples=self._merged or self.metrics.samples(now_ns),
        )

    def _adopt(
        self,
        sock: socket.socket,
        address: str,
        make: Callable[[], tuple[Transport, Dialect | None]],
        gatekeeper: Gatekeeper,
    ) -> None:
        """A new connection, unless there are too many: of these some are told so, and those
        beyond are closed before anything is made for them."""
        num_excess = self.num_connections - self.config.max_connections
        if num_excess >= MAX_REFUSED_CONNECTIONS:
            self._shed(sock, "capacity")
            return
        excess = self._address_limits.admit(address, self.loop.now_ns)
        has_no_place = self._num_turned_away >= MAX_REFUSED_CONNECTIONS
        if excess is not None and (has_no_place or excess is AddressExcess.RATE):
            self._shed(sock, excess.value)
            return
        self.metrics.connections.inc()
        connection = Connection(self, sock, *make(), gatekeeper)
        self._connections[connection] = None if excess else address
        if excess is not None:
            self._num_turned_away += 1
            self.metrics.refused.labels(excess.value).inc()
            connection.refuse(refusal(ErrorCode.RATE_LIMITED, "too many connections from here"))
        elif num_excess >= 0:
            self.metrics.refused.labels("capacity").inc()
            connection.refuse(refusal(ErrorCode.AT_CAPACITY, "too many connections"))

    def _shed(self, sock: socket.socket, reason: str) -> None:
        self.metrics.refused.labels(reason).inc()
        sock.close()

    def _on_stream_closed(self, stream: Stream, record: Closed) -> None:
        log_closed(stream, record)
        if self._recorder is not None:
            self._recorder.ended(stream, record, self.loop.now_ns)

    # Services

    def add_service(self, sock: socket.socket, index: int, epoch: int) -> None:
        """A link to a service; a restarted one replaces its dead link."""
        old = self._links.get(index)
        if old is not None:
            old.close()
            self._on_service_lost(old, "a new one took its place")
        link = ServiceLink(
            self.loop, sock, index, epoch,
            self._on_health, self._on_service_message, self._on_service_lost,
        )  # fmt: skip
        self._links[index] = link
        self.router.links[index] = link
        self.admission.services[index] = ServiceLoad()

    def _on_health(self, link: ServiceLink, health: Health) -> None:
        self.admission.services[link.index].take_health(health, self.loop.now_ns)
        self.metrics.set_health(link.index, health)

    def _on_service_message(self, link: ServiceLink, message: StreamMessage) -> None:
        self.router.receive(link, message, self.loop.now_ns)

    def _on_service_lost(self, link: ServiceLink, reason: str) -> None:
        _log.warning("lost service %d (epoch %d): %s", link.index, link.epoch, reason)
        del self._links[link.index]
        self.metrics.forget_service(link.index)
        if self._control is not None:
            self._control.send(Unlinked(link.index, link.epoch))
        self.router.link_lost(link, self.loop.now_ns)
        if len(self.router.orphans):
            _log.warning("%d streams wait for a service", len(self.router.orphans))

    # Parent

    def attach_parent(self, sock: socket.socket) -> None:
        """Listen to the parent; say Ready, and statistics from now on."""
        self._control = ControlLink(self.loop, sock, self._on_control, self.loop.stop)
        self._control.send(Ready())
        self._send_stats()

    def take_access(self, access: Access) -> None:
        """Tokens and certificate, at the start and after a reload; open sessions go on."""
        self.gatekeeper.replace(access.tokens)
        if access.certificate_pem:
            self.tls = server_context(Certificate(access.certificate_pem, access.key_pem))

    def _on_control(self, message: SupervisorMessage, fds: list[int]) -> None:
        if isinstance(message, Link):
            self.add_service(socket.socket(fileno=fds[0]), message.peer, message.epoch)
        elif isinstance(message, Stats):
            self._merged = message.samples
        elif isinstance(message, Access):
            self.take_access(message)
        elif isinstance(message, Drain):
            self.drain()
        elif isinstance(message, Stop):
            self.loop.stop()

    def _send_stats(self) -> None:
        self.metrics.streams_waiting.value = len(self.router.orphans)
        pool = self.decoders
        self.metrics.set_decoders(pool.num_running, pool.num_waiting, pool.spool_bytes)
        self.metrics.partials_shed.value = self.partials_shed
        if self._control is not None:
            self._control.send(Stats(self.metrics.samples(self.loop.now_ns)))
        self.loop.call_at(self.loop.now_ns + STATS_INTERVAL_NS, self._send_stats)

    def drain(self) -> None:
        """No new sessions; open ones get their finals; then the loop ends."""
        self.admission.draining = True
        # Later connections (health checks, refusals) are served, but keep nobody waiting.
        self._draining = set(self._connections)
        for connection in tuple(self._connections):
            connection.drain()
        self._exit_when_drained()

    def request_drain(self) -> None:
        """From a signal handler, which may have interrupted anything: drain before next sleep."""
        self._drain_requested = True
        self.loop.wake()

    def close(self) -> None:
        """Close every descriptor of this worker."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        for connection in tuple(self._connections):
            connection.destroy()
        self.decoders.close()
        if self._control is not None:
            self._control.close()
        self.loop.close()

    def _exit_when_drained(self) -> None:
        if self.admission.draining and not self._draining and not self.router.open_streams:
            self.loop.stop()


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; the exit status."""
    config = parse_config(argv)
    source = f"worker {config.index}"
    configure_logging(config.log_format, config.log_level, source, "%(message)s")
    control = socket.socket(fileno=config.control_fd)
    layout, arena = map_arena(config.arena_fd)
    os.close(config.arena_fd)  # the mapping stays
    worker = Worker(config, layout, arena, quota=inherit_quota(config))
    if config.awaits_access:
        access = await_access(control)
        if access is None:
            return 0
        worker.take_access(access)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent coordinates the end
    signal.signal(signal.SIGTERM, lambda *_: worker.request_drain())
    try:
        listen(worker)
    except ListenError as error:
        send_message(control, Log("error", str(error)))
        return 1
    worker.attach_parent(control)
    if config.gc_freeze:
        gc.collect()
        gc.freeze()
    measure_gc(worker.metrics)
    worker.loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
