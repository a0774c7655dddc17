"""The parent process: owns what must outlive the others, starts, watches, restarts and drains them.

It holds the addresses (reservation.py), one audio arena a worker and one control socket a child,
and joins every worker to every service by a socket pair. Children that die are started again and
joined anew. It touches no client and no audio. children.py decides; this file acts, in one epoll
loop on one thread; swap_desk.py replaces models meanwhile. `python -m gateway` runs it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable

import msgspec

from protocol.audio import ms_to_samples
from protocol.journal import JOURNAL_BYTES
from protocol.log_lines import json_line
from protocol.ring import ArenaLayout
from protocol.shm import create_arena
from protocol.supervisor_messages import (
    Alive,
    Drain,
    Handoff,
    Link,
    Log,
    Ready,
    Remaining,
    Sample,
    Stats,
    Stop,
    SupervisorMessage,
    Unlinked,
)

from .access_files import AccessFiles
from .addresses import Addresses
from .child_process import ChildProcess, raise_descriptor_limit
from .children import Child, Children, Kind, Phase, Standing, describe_status, link_of
from .config import ServerConfig, service_json
from .sample_merge import SampleTable
from .signal_wake import SignalWake
from .standard_error import write_line
from .swap_desk import SwapDesk

STATS_INTERVAL_NS = 1_000_000_000
STOP_GRACE_NS = 2_000_000_000  # from Stop to SIGKILL
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Supervisor:
    """One server, from its addresses to its exit status."""

    def __init__(
        self, config: ServerConfig, ready_fd: int | None = None, lifeline_fd: int | None = None
    ) -> None:
        self.config = config
        self._ready_fd = ready_fd
        self._lifeline_fd = lifeline_fd
        self._begin_ns = time.monotonic_ns()
        self._children = Children.of(config.workers, config.services, config.models)
        self._swaps = SwapDesk(self, self._children, config)
        self._processes: dict[tuple[Kind, int], ChildProcess] = {}
        self._unjoined: list[tuple[ChildProcess, ChildProcess]] = []
        self._samples = SampleTable()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._next_stats_ns = self._begin_ns + STATS_INTERVAL_NS
        self._kill_at_ns: int | None = None  # when Stop has been said
        self._drain_until_ns: int | None = None  # when Drain has been said
        self._announced = False
        self._cleanup = contextlib.ExitStack()

    def run(self) -> int:
        """Serve until told to stop; the exit status. Raises EarwireError when it cannot start."""
        with self._cleanup:
            raise_descriptor_limit()
            self._access = AccessFiles(self.config)
            self._cleanup.callback(self._access.close)
            self._addresses = self._cleanup.enter_context(Addresses(self.config))
            self._arena_fds = [self._create_arena() for _ in range(self.config.workers)]
            self._watch_signals()
            self._swaps.listen(self._addresses.http_port, self._watch, self._unwatch)
            self._cleanup.callback(self._swaps.close)
            self._cleanup.callback(self._kill_all)
            while self._children.running() or not self._children.is_ending:
                self._turn()
        if self._children.failure:
            write_line(f"earwire: error: {self._children.failure}")
            return 1
        self.log("info", "stopped")
        return 0

    # Start

    def _create_arena(self) -> int:
        layout = ArenaLayout(
            self.config.sessions_per_worker,
            ms_to_samples(self.config.ring_ms),
            JOURNAL_BYTES if self.config.resume_window_ms else 0,
        )
        fd = create_arena(layout)
        self._cleanup.callback(os.close, fd)
        return fd

    def _watch_signals(self) -> None:
        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
        if self.config.reads_access_files:  # else a closed terminal ends the server, as usual
            numbers.append(signal.SIGHUP)
        self._signals = self._cleanup.enter_context(SignalWake(numbers))
        self._watch(self._signals.fileno(), self._on_signal)
        if self._lifeline_fd is not None:
            self._watch(self._lifeline_fd, self._on_lifeline)

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    # Loop

    def _turn(self) -> None:
        now_ns = time.monotonic_ns()
        for child in self._children.due(now_ns):
            if child.phase is Phase.WAITING:  # the start of another one may have failed it
                self._start(child)
        for fd, _ in self._epoll.poll(self._timeout_s(now_ns)):
            if handler := self._handlers.get(fd):
                handler()
        self._handle_timers(time.monotonic_ns())

    def _timeout_s(self, now_ns: int) -> float:
        times = [self._children.next_deadline(), self._kill_at_ns, self._drain_until_ns]
        due_ns = min([self._next_stats_ns, *(t for t in times if t is not None)])
        return max(0, due_ns - now_ns) / 1e9

    def _handle_timers(self, now_ns: int) -> None:
        if now_ns >= self._next_stats_ns:
            if now_ns - self._next_stats_ns > STATS_INTERVAL_NS:
                self._children.forgive(now_ns)  # it was this process that stood still
            self._next_stats_ns = now_ns + STATS_INTERVAL_NS
            self._push_stats()
            self._kill_stuck(now_ns)
            self._join_again()
            self._swaps.tick()
        if self._drain_until_ns is not None:
            drained = not self._children.running(Kind.WORKER)
            if drained or now_ns >= self._drain_until_ns:
                if not drained:
                    self.log("warning", "sessions were still open when the drain time was over")
                self._stop(now_ns)
        if self._kill_at_ns is not None and now_ns >= self._kill_at_ns:
            self._kill_at_ns = None
            self._kill_all()

    # Children

    def _start(self, child: Child) -> None:
        self._children.started(child)
        try:
            process = ChildProcess(child, lambda control_fd: self._arguments(child, control_fd))
        except OSError as error:  # that may pass
            self.log("error", f"cannot start {child.name}: {error}")
            self._on_exit(child, 1)
            return
        self._processes[child.kind, child.index] = process
        self._watch(process.control.fileno(), lambda: self._on_message(process))
        self.log("debug", f"{child.name} started, pid {process.pid}")
        self._send_access(process)
        for peer in self._children.running():
            if peer.kind is not child.kind:
                self._link(process, self._processes[peer.kind, peer.index])

    def _arguments(self, child: Child, control_fd: int) -> tuple[str, tuple[int, ...]]:
        """The child's --config and the descriptors that it inherits."""
        if child.kind is Kind.SERVICE:
            return service_json(self.config, child.model, child.index, control_fd), (control_fd,)
        arena_fd, quota_fd = self._arena_fds[child.index], self._access.quota_fd
        worker = self._addresses.worker_config(
            child.index, child.epoch, control_fd, arena_fd, quota_fd
        )
        fds = (control_fd, arena_fd, self._addresses.uds_fd, quota_fd)
        return msgspec.json.encode(worker).decode(), tuple(fd for fd in fds if fd is not None)

    def _send_access(self, process: ChildProcess) -> None:
        """Tell a worker who may connect, unless it knows; one too busy to read is told later."""
        message = self._access.message
        if not self.config.reads_access_files or process.child.kind is not Kind.WORKER:
            return
        if process.access_revision != message.revision and process.send(message):
            process.access_revision = message.revision

    def _kill_stuck(self, now_ns: int) -> None:
        """A service that hangs is as dead as one that crashed, and is started again like that."""
        for child in self._children.stuck(now_ns, self.config.service_timeout_ms * 1_000_000):
            seconds = (now_ns - child.alive_ns) / 1e9
            self.log("error", f"{child.name} has not moved for {seconds:.1f} s: killing it")
            self._processes[child.kind, child.index].kill()

    def _link(self, one: ChildProcess, other: ChildProcess) -> None:
        """Join a worker and a service; a second later, where there is no descriptor for it, or the
        worker stands still. A service asks for no link: a worker that finds its own ended does."""
        worker, service = (one, other) if one.child.kind is Kind.WORKER else (other, one)
        try:
            worker_end, service_end = socket.socketpair()
        except OSError as error:
            self.log("error", f"cannot join {worker.child.name} and {service.child.name}: {error}")
            self._unjoined.append((worker, service))
            return
        with worker_end, service_end:
            if not worker.send(link_of(service.child), (worker_end.fileno(),)):
                self._unjoined.append((worker, service))
                return
            to_service = Link(worker.child.index, worker.child.epoch)
            service.send(to_service, (service_end.fileno(), self._arena_fds[worker.child.index]))

    def _join_again(self) -> None:
        pairs, self._unjoined = self._unjoined, []
        for worker, service in pairs:
            if worker.poll() is None and service.poll() is None:
                self._link(worker, service)

    def _relink(self, worker: ChildProcess, lost: Unlinked) -> None:
        """A service that died gets its links when it is started again, one that retires none."""
        service = self._processes.get((Kind.SERVICE, lost.peer))
        if service is None or service.child.epoch != lost.epoch:
            return
        if service.child.standing is Standing.RETIRING:
            self._swaps.has_remaining(worker.child.index, Remaining(lost.peer, 0))
        elif service.poll() is None:
            self._link(worker, service)

    def _hand_off(self, message: Handoff, fds: list[int]) -> None:
        """To the worker that has the session; if it is not there, the closed socket says so."""
        owner = self._processes.get((Kind.WORKER, message.worker))
        if owner is not None:
            owner.send(message, tuple(fds))
        for fd in fds:
            os.close(fd)

    def _on_message(self, process: ChildProcess) -> bool:
        """Handle one message; False when there is none."""
        try:
            message = process.receive()
        except EOFError:  # it is dying: SIGCHLD follows
            self._unwatch(process.control.fileno())
            return False
        child = process.child
        if isinstance(message, Alive):
            child.alive_ns = max(child.alive_ns, message.turn_ns)
        elif isinstance(message, Stats):
            self._samples.update((child.kind, child.index), message.samples)
        elif isinstance(message, Log):
            if message.level == "error":
                child.last_error = message.text
            self.log(message.level, f"{child.name}: {message.text}")
        elif isinstance(message, Ready) and child.phase is Phase.STARTING:
            self._children.became_ready(child, time.monotonic_ns(), message.detail)
            self.log("info", f"{child.name} ready {message.detail}".rstrip())
            self._announce()
            self._swaps.became_ready()
        elif message is not None:
            self._on_worker_message(process, message)
        return message is not None

    def _on_worker_message(self, process: ChildProcess, message: SupervisorMessage) -> None:
        if isinstance(message, Unlinked):
            self._relink(process, message)
        elif isinstance(message, Remaining):
            self._swaps.has_remaining(process.child.index, message)
        elif isinstance(message, Handoff):
            self._hand_off(message, process.take_fds())

    def _reap(self) -> None:
        for key, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                continue
            while self._on_message(process):  # its last words
                pass
            self._unwatch(process.control.fileno())
            del self._processes[key]
            process.close()
            self._samples.retire(key)
            if process.child.kind is Kind.WORKER:
                self._access.forget_worker(process.child.index)
            self._on_exit(process.child, status)

    def _on_exit(self, child: Child, status: int) -> None:
        now_ns = time.monotonic_ns()
        expected = self._children.is_ending
        self._children.exited(child, status, now_ns)
        self._swaps.exited(child)
        if self._children.failure and not expected:
            self._stop(now_ns)
        elif child.phase is Phase.GONE:
            self.log("debug", f"{child.name} {describe_status(status)}")
        else:
            delay_ms = max(0, child.start_at_ns - now_ns) // 1_000_000
            what = f"{child.name} {describe_status(status)}; starting it again in {delay_ms} ms"
            self.log("warning", what)

    # Statistics

    def _push_stats(self) -> None:
        uptime_s = (time.monotonic_ns() - self._begin_ns) / 1e9
        own = [Sample("earwire_uptime_seconds", (), uptime_s, "max"), *self._children.samples()]
        stats = Stats(self._samples.merged([*own, *self._swaps.samples()]))
        for child in self._children.running(Kind.WORKER):
            process = self._processes[child.kind, child.index]
            self._send_access(process)
            # A worker too busy to read keeps older numbers; the next second has newer ones.
            process.send(stats)

    # Ready and end

    def _announce(self) -> None:
        if self._announced or not self._children.all_ready:
            return
        self._announced = True
        for line in self._addresses.describe():
            self.log("info", f"listening on {line}")
        if self.config.is_exposed and self.config.tls_cert is None:
            self.log("warning", "without --tls-cert, tokens and audio travel unencrypted")
        self.log("info", f"ready in {(time.monotonic_ns() - self._begin_ns) / 1e9:.2f} s")
        if self.config.gc_freeze:
            gc.collect()
            gc.freeze()
        if self._ready_fd is not None:
            ready_line = {
                **self._addresses.as_fields(), "control": self._swaps.path, "pid": os.getpid()
            }  # fmt: skip
            with open(self._ready_fd, "wb") as ready, contextlib.suppress(BrokenPipeError):
                ready.write(msgspec.json.encode(ready_line) + b"\n")

    def _on_signal(self) -> None:
        numbers = self._signals.read()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._end()
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGHUP in numbers:
            self._reload()

    def _reload(self) -> None:
        for error in self._access.reload():
            self.log("error", f"{error}; what was read before stays in force")
        for process in self._processes.values():
            self._send_access(process)
        self.log("info", f"read again: {self._access.describe()} in force")

    def _on_lifeline(self) -> None:
        assert self._lifeline_fd is not None
        if not os.read(self._lifeline_fd, 4096):  # whoever wanted this server is gone
            self._unwatch(self._lifeline_fd)
            self._end()

    def _end(self) -> None:
        """Drain; when asked a second time, stop now."""
        now_ns = time.monotonic_ns()
        if self._children.is_ending:
            self._stop(now_ns)
            return
        self._swaps.end()
        self._children.end()
        self._drain_until_ns = now_ns + self.config.drain_timeout_ms * 1_000_000
        for child in self._children.running(Kind.WORKER):
            self._processes[child.kind, child.index].send(Drain())
        self.log("info", "draining: no new sessions; a second signal stops at once")

    def _stop(self, now_ns: int) -> None:
        self._children.end()
        self._drain_until_ns = None
        self._kill_at_ns = now_ns + STOP_GRACE_NS
        for process in self._processes.values():
            process.send(Stop())

    def process_of(self, child: Child) -> ChildProcess | None:
        """The running process of a child."""
        return self._processes.get((child.kind, child.index))

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()

    def log(self, level: str, text: str) -> None:
        """A line for the person at the terminal."""
        if _LEVELS.get(level, 20) < _LEVELS.get(self.config.log_level, 20):
            return
        as_json = self.config.log_format == "json"
        write_line(json_line(time.time(), level, "server", text) if as_json else f"earwire: {text}")
