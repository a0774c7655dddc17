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
import sys
import time
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
    Handoff,
    Link,
    Log,
    Ready,
    Retire,
    Sample,
    Stats,
    Stop,
    SupervisorMessage,
    Unlinked,
)

from .admission import Admission, ServiceLoad, SlotTable
from .config import WorkerConfig
from .connection import Connection
from .connection_host import RECEIVE_BYTES, Feed
from .control_link import ControlLink
from .decoder_pool import DecoderPool, UploadLimits
from .dialects import Container
from .errors import ListenError
from .event_loop import EventLoop
from .file_feed import FeedOwner, FileFeed
from .flight_recorder import NO_RECORDER
from .front_door import FrontDoor
from .gatekeeper import Quota
from .metrics import Metrics
from .moves import Moves
from .parking import Parking
from .relay import Relay, RelayOwner
from .resampler import new_converter
from .resume_token import SECRET_BYTES
from .router import Router
from .routes import ServerStatus
from .service_link import ServiceLink
from .session_log import log_closed, log_final
from .stream import Stream
from .worker_start import (
    await_access,
    flight_recorder,
    inherit_quota,
    listen,
    measure_gc,
    parse_config,
    recover,
)

STATS_INTERVAL_NS = 1_000_000_000
RELINK_NS = 1_000_000_000  # until a link is asked for again that could not be taken
NS_PER_MS = 1_000_000

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
        self.moves = Moves(
            self.admission, self.router.links, lambda: self.router.open_streams,
            config.max_utterance_ms,
        )  # fmt: skip
        self.parking = Parking(
            config.index, config.num_workers, config.resume_window_ms * NS_PER_MS,
            self.router.close, lambda: secrets.token_bytes(SECRET_BYTES),
        )  # fmt: skip
        self.receive_view = memoryview(bytearray(RECEIVE_BYTES))
        self.handshake_timeout_ns = config.handshake_timeout_ms * NS_PER_MS
        self.idle_timeout_ns = config.idle_timeout_ms * NS_PER_MS
        self.partials_shed = 0
        self._started_s = int(time.time())
        self._merged: tuple[Sample, ...] = ()  # all children's, as the parent last sent them
        self.door = FrontDoor(
            self, config, self.admission, self.status, self._wall_offset_ns, quota
        )
        self._dirty: list[Connection] = []
        self._links: dict[int, ServiceLink] = {}
        self._unlinked: dict[int, Unlinked] = {}  # of these the parent has not heard yet
        self._control: ControlLink | None = None
        self._drain_requested = False
        self.loop.before_sleep.append(self._before_sleep)
        self.loop.on_turn = self.metrics.loop_turn.observe_ns

    # ConnectionHost

    def open_feed(self, container: Container, owner: FeedOwner) -> Feed:
        """A decoder for one container."""
        return FileFeed(self.decoders, container, owner)

    def open_relay(self, worker: int, owner: RelayOwner) -> Relay | None:
        """A way to the worker of this index, through the parent."""
        if self._control is None:
            return None
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            return None
        with theirs:
            if self._control.send(Handoff(worker), (theirs.fileno(),)):
                return Relay(self.loop, ours, owner)
        ours.close()
        return None

    def mark_dirty(self, connection: Connection) -> None:
        """Flush it before the next sleep."""
        self._dirty.append(connection)

    def connection_closed(self, connection: Connection) -> None:
        """Its descriptor is closed."""
        self.door.forget(connection)
        self._exit_when_drained()

    def _before_sleep(self) -> None:
        if self._drain_requested and not self.admission.draining:
            self.drain()
        self.parking.expire(self.loop.now_ns)
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

    def _on_stream_closed(self, stream: Stream, record: Closed) -> None:
        log_closed(stream, record)
        self.admission.expected.stream_ended(self.loop.now_ns)
        if self._recorder is not None:
            self._recorder.ended(stream, record, self.loop.now_ns)
        self._exit_when_drained()  # nobody else may be left of a session that was parked

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
        self._unlinked.pop(index, None)
        self.router.links[index] = link
        self.admission.services[index] = ServiceLoad()

    def _on_health(self, link: ServiceLink, health: Health) -> None:
        self.admission.take_health(link.index, health, self.loop.now_ns)
        self.metrics.set_health(link.index, health)

    def _on_service_message(self, link: ServiceLink, message: StreamMessage) -> None:
        self.router.receive(link, message, self.loop.now_ns)

    def _on_service_lost(self, link: ServiceLink, reason: str) -> None:
        was_to_go = self.admission.services[link.index].retiring
        level = logging.INFO if was_to_go else logging.WARNING
        _log.log(level, "lost service %d (epoch %d): %s", link.index, link.epoch, reason)
        del self._links[link.index]
        self.metrics.forget_service(link.index)
        self._ask_for_link(link.index, link.epoch)
        self.router.link_lost(link, self.loop.now_ns)
        if len(self.router.orphans):
            _log.warning("%d streams wait for a service", len(self.router.orphans))

    def _ask_for_link(self, index: int, epoch: int) -> None:
        """There is none of this epoch any more, or it never came."""
        self._unlinked[index] = Unlinked(index, epoch)
        self._tell_unlinked()

    def _tell_unlinked(self) -> None:
        """The parent makes a lost link again; one that is too busy to hear of it is told later."""
        for index, message in tuple(self._unlinked.items()):
            if self._control is not None and self._control.send(message):
                del self._unlinked[index]

    # Parent

    def attach_parent(self, sock: socket.socket) -> None:
        """Listen to the parent; say Ready, and statistics from now on."""
        self._control = ControlLink(self.loop, sock, self._on_control, self.loop.stop)
        self._control.send(Ready())
        self._send_stats()

    def _on_control(self, message: SupervisorMessage, fds: list[int]) -> None:
        if isinstance(message, Link):
            self._take_link(message, fds)
        elif isinstance(message, Retire):
            self.moves.retire(message, self.loop.now_ns)
        elif isinstance(message, Stats):
            self._merged = message.samples
        elif isinstance(message, Access):
            self._take_access(message)
        elif isinstance(message, Handoff):
            self.door.accept_handed_over(fds)
        elif isinstance(message, Drain):
            self.drain()
        elif isinstance(message, Stop):
            self.loop.stop()

    def _take_link(self, message: Link, fds: list[int]) -> None:
        """None comes where this process may have no more descriptors: the service sees its end
        closed, and the parent is asked for another link.
        """
        if fds:
            self.add_service(socket.socket(fileno=fds[0]), message.peer, message.epoch)
            self.moves.linked(message, self.loop.now_ns)
            return
        _log.warning("no descriptor is free for the link to service %d", message.peer)
        self.loop.call_at(self.loop.now_ns + RELINK_NS, lambda: self._miss(message))

    def _miss(self, missed: Link) -> None:
        link = self._links.get(missed.peer)
        if link is None or link.epoch < missed.epoch:
            self._ask_for_link(missed.peer, missed.epoch)

    def _take_access(self, message: Access) -> None:
        try:
            self.door.take_access(message)
        except OSError as error:  # OpenSSL needs a descriptor for it
            _log.error("the new certificate cannot be used, the old one stays: %s", error)

    def _send_stats(self) -> None:
        self.metrics.streams_waiting.value = len(self.router.orphans)
        pool = self.decoders
        self.metrics.set_decoders(pool.num_running, pool.num_waiting, pool.spool_bytes)
        self.metrics.partials_shed.value = self.partials_shed
        self.metrics.sessions_parked.value = self.parking.num_parked
        self._tell_unlinked()
        if self._control is not None:
            self._control.send(Stats(self.metrics.samples(self.loop.now_ns)))
            for report in self.moves.reports(self.loop.now_ns):
                self._control.send(report)
        self.loop.call_at(self.loop.now_ns + STATS_INTERVAL_NS, self._send_stats)

    def drain(self) -> None:
        """No new sessions; open ones get their finals; then the loop ends."""
        self.admission.draining = True
        self.door.drain()
        self.parking.drain(ErrorCode.DRAINING.value)
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
        self.door.close()
        self.decoders.close()
        if self._control is not None:
            self._control.close()
        self.loop.close()

    def _exit_when_drained(self) -> None:
        if self.admission.draining and self.door.is_drained and not self.router.open_streams:
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
        worker.door.take_access(access)
    recover(worker, layout, arena)
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
