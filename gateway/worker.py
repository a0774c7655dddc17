"""One gateway worker: `python -m gateway.worker --config JSON`, started by the parent.

It puts the pieces together - event loop, listeners, connections, router, service links, control
link - and runs the loop until the parent says Stop, is gone, or a drain is complete. It inherits
the control socket, the arena and the Unix listener as descriptors, and binds its own TCP listeners
(SO_REUSEPORT). All policy is in the pure files; this one only carries messages between them.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from protocol.client_messages import Closed, Hello
from protocol.errors import ErrorCode
from protocol.ring import ArenaLayout
from protocol.service_messages import Health, StreamMessage
from protocol.shm import map_arena, send_message
from protocol.supervisor_messages import (
    Drain,
    Link,
    Log,
    Ready,
    Sample,
    Stats,
    Stop,
    SupervisorMessage,
)

from .admission import Admission, ServiceLoad, SlotTable
from .config import WorkerConfig
from .connection import NS_PER_MS, RECEIVE_BYTES, Connection
from .control_link import ControlLink
from .dialects import Dialect
from .dialects.native import NativeDialect
from .errors import ListenError, refusal
from .event_loop import EventLoop
from .listener import Listener, bind_tcp
from .metrics import Metrics
from .resampler import Resampler
from .router import Router
from .routes import ServerStatus
from .service_link import ServiceLink
from .stream import Converter, Stream, is_consistent
from .transport import RawTransport, Transport
from .web_transport import WebTransport

STATS_INTERVAL_NS = 1_000_000_000
# Refused connections stay a moment to read why; more than these are closed without a word.
MAX_REFUSED_CONNECTIONS = 64

_log = logging.getLogger("earwire.gateway")


def new_converter(hello: Hello) -> Converter | None:
    """What turns this client's audio into ring samples; None when it is that already."""
    audio_format = hello.audio_format()
    return None if audio_format.is_ring_format else Resampler(audio_format)


class Worker:
    """See the module text; also the ConnectionHost of its connections."""

    def __init__(
        self,
        config: WorkerConfig,
        layout: ArenaLayout,
        arena: memoryview,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config = config
        self.loop = EventLoop(clock)
        self.admission = Admission(SlotTable(layout.num_slots), first_choice=config.index)
        self.metrics = Metrics()
        self.router = Router(
            config, self.admission, self.metrics, layout, arena, new_converter,
            self._on_stream_closed, f"{config.index}{secrets.token_hex(3)}",
        )  # fmt: skip
        self.receive_view = memoryview(bytearray(RECEIVE_BYTES))
        self.handshake_timeout_ns = config.handshake_timeout_ms * NS_PER_MS
        self.idle_timeout_ns = config.idle_timeout_ms * NS_PER_MS
        self.partials_shed = 0
        self.slow_readers = 0
        self.connections_refused = 0
        self._started_s = int(time.time())
        self._wall_offset_ns = time.time_ns() - self.loop.now_ns
        self._merged: tuple[Sample, ...] = ()  # all children's, as the parent last sent them
        self._connections: set[Connection] = set()
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
        return len(self._connections)

    # ConnectionHost

    def mark_dirty(self, connection: Connection) -> None:
        """Flush it before the next sleep."""
        self._dirty.append(connection)

    def connection_closed(self, connection: Connection) -> None:
        """Its descriptor is closed."""
        self._connections.discard(connection)
        self._draining.discard(connection)
        self.metrics.connections.dec()
        self._exit_when_drained()

    def _before_sleep(self) -> None:
        if self._drain_requested and not self.admission.draining:
            self.drain()
        for link in tuple(self._links.values()):
            link.flush()
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.is_dirty = False
                connection.flush()

    # Clients

    def accept_native(self, sock: socket.socket) -> None:
        """A connection on the native TCP or Unix listener."""
        dialect = NativeDialect()
        self._adopt(sock, RawTransport(dialect), dialect)

    def accept_web(self, sock: socket.socket) -> None:
        """A connection on the HTTP and WebSocket listener."""
        transport = WebTransport(self.status, self.config.allow_origins, self._wall_offset_ns)
        self._adopt(sock, transport, None)

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

    def _adopt(self, sock: socket.socket, transport: Transport, dialect: Dialect | None) -> None:
        excess = len(self._connections) - self.config.max_connections
        if excess >= MAX_REFUSED_CONNECTIONS:
            self.connections_refused += 1
            sock.close()
            return
        self.metrics.connections.inc()
        connection = Connection(self, sock, transport, dialect)
        self._connections.add(connection)
        if excess >= 0:
            self.connections_refused += 1
            connection.refuse(refusal(ErrorCode.AT_CAPACITY, "too many connections"))

    def _on_stream_closed(self, stream: Stream, record: Closed) -> None:
        """The close record: one log line; an error when its counts differ."""
        line = msgspec.json.encode(
            {
                "event": "stream_closed",
                "session_id": stream.session_id,
                "client": stream.hello.client,
                "reason": record.reason,
                "client_samples": record.client_samples,
                "socket_samples": record.socket_samples,
                "ring_samples": record.ring_samples,
                "engine_samples": record.engine_samples,
                "lost_samples": record.lost_samples,
            }
        ).decode()
        expected = stream.abandoned or is_consistent(record)
        level = logging.INFO if expected else logging.ERROR
        _log.log(level, line)

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
        self.router.link_lost(link)

    # Parent

    def attach_parent(self, sock: socket.socket) -> None:
        """Listen to the parent; say Ready, and statistics from now on."""
        self._control = ControlLink(self.loop, sock, self._on_control, self.loop.stop)
        self._control.send(Ready())
        self._send_stats()

    def _on_control(self, message: SupervisorMessage, fds: list[int]) -> None:
        if isinstance(message, Link):
            self.add_service(socket.socket(fileno=fds[0]), message.peer, message.epoch)
        elif isinstance(message, Stats):
            self._merged = message.samples
        elif isinstance(message, Drain):
            self.drain()
        elif isinstance(message, Stop):
            self.loop.stop()

    def _send_stats(self) -> None:
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
        if self._control is not None:
            self._control.close()
        self.loop.close()

    def _exit_when_drained(self) -> None:
        if self.admission.draining and not self._draining and not self.router.open_streams:
            self.loop.stop()


def _measure_gc(metrics: Metrics) -> None:
    """Count the garbage collector's pauses."""
    began_ns = 0

    def on_gc(phase: str, info: dict[str, int]) -> None:
        nonlocal began_ns
        if phase == "start":
            began_ns = time.monotonic_ns()
        else:
            metrics.gc_pause.observe_ns(time.monotonic_ns() - began_ns)

    gc.callbacks.append(on_gc)


def _parse(argv: list[str] | None) -> WorkerConfig:
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=__doc__)
    parser.add_argument("--config", required=True, help="WorkerConfig as JSON")
    return msgspec.json.decode(parser.parse_args(argv).config, type=WorkerConfig)


def _listen(worker: Worker) -> None:
    config, loop = worker.config, worker.loop
    Listener(loop, bind_tcp(config.host, config.port), worker.accept_web)
    if config.native_port is not None:
        Listener(loop, bind_tcp(config.host, config.native_port), worker.accept_native)
    if config.uds_fd is not None:
        Listener(loop, socket.socket(fileno=config.uds_fd), worker.accept_native)


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; the exit status."""
    config = _parse(argv)
    logging.basicConfig(
        stream=sys.stderr, format="%(message)s", level=config.log_level.upper(), force=True
    )
    control = socket.socket(fileno=config.control_fd)
    layout, arena = map_arena(config.arena_fd)
    os.close(config.arena_fd)  # the mapping stays
    worker = Worker(config, layout, arena)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent coordinates the end
    signal.signal(signal.SIGTERM, lambda *_: worker.request_drain())
    try:
        _listen(worker)
    except ListenError as error:
        send_message(control, Log("error", str(error)))
        return 1
    worker.attach_parent(control)
    if config.gc_freeze:
        gc.collect()
        gc.freeze()
    _measure_gc(worker.metrics)
    worker.loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
