"""How a worker process becomes one: what it inherits, what it opens, and what it waits for.

Shell. worker.main calls these in turn, before the loop begins. Nobody is let in before it is known
who may: listeners are opened last.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from protocol.ring import ArenaLayout
from protocol.shm import receive_message
from protocol.supervisor_messages import Access

from .config import WorkerConfig
from .flight_files import FlightFiles
from .flight_recorder import FlightRecorder
from .gatekeeper import Quota
from .journal_recovery import SURVIVED_NS, read_sessions, recover_sessions
from .listener import Listener, OnConnection, bind_tcp
from .metrics import Metrics
from .quota import map_table
from .resampler import restart_converter

if TYPE_CHECKING:
    from .worker import Worker

_log = logging.getLogger("earwire.gateway")


def parse_config(argv: list[str] | None) -> WorkerConfig:
    """The settings of --config."""
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=__doc__)
    parser.add_argument("--config", required=True, help="WorkerConfig as JSON")
    return msgspec.json.decode(parser.parse_args(argv).config, type=WorkerConfig)


def inherit_quota(config: WorkerConfig) -> Quota | None:
    """The table of sessions by token, if there are tokens."""
    if config.quota_fd is None:
        return None
    table = map_table(config.quota_fd, config.num_workers, config.index)
    os.close(config.quota_fd)  # the mapping stays
    return table


def await_access(control: socket.socket) -> Access | None:
    """The parent's first message: who may connect. None when the parent is gone."""
    received = receive_message(control)
    if received is None:
        return None
    if not isinstance(received[0], Access):
        raise AssertionError(f"the parent sent {type(received[0]).__name__} before Access")
    return received[0]


def recover(worker: Worker, layout: ArenaLayout, arena: memoryview) -> None:
    """Go on with the sessions that a dead worker left in the arena; there are none at the start."""

    def on_damage(slot: int, reason: str) -> None:
        _log.error("the session of slot %d cannot go on: %s", slot, reason)

    found = read_sessions(layout, arena, on_damage)
    num_waiting = recover_sessions(
        found, worker.router, worker.parking, worker.door.gatekeeper, restart_converter,
        worker.loop.now_ns,
    )  # fmt: skip
    if found:
        survived_ns = worker.loop.now_ns + SURVIVED_NS
        worker.loop.call_at(survived_ns, worker.router.journals.survived)
        _log.info("%d sessions of a dead worker wait for their clients", num_waiting)


def listen(worker: Worker) -> None:
    """Open every listener. Raises ListenError."""
    config = worker.config

    def tcp(port: int | None, on_connection: OnConnection) -> None:
        if port is not None:
            Listener(worker.loop, bind_tcp(config.host, port), on_connection)

    tcp(config.port, worker.door.accept_web)
    tcp(config.native_port, worker.door.accept_native)
    tcp(config.wyoming_port, worker.door.accept_wyoming)
    if config.uds_fd is not None:
        Listener(worker.loop, socket.socket(fileno=config.uds_fd), worker.door.accept_unix)


def flight_recorder(
    config: WorkerConfig, metrics: Metrics, wall_offset_ns: int
) -> FlightRecorder | None:
    """What keeps moments that went wrong, if the operator asks for it."""
    settings = config.flight_recorder
    if settings is None:
        return None
    files = FlightFiles(settings.folder, settings.max_bytes)
    return FlightRecorder(settings, metrics, wall_offset_ns, files.save)


def measure_gc(metrics: Metrics) -> None:
    """Count the garbage collector's pauses."""
    began_ns = 0

    def on_gc(phase: str, info: dict[str, int]) -> None:
        nonlocal began_ns
        if phase == "start":
            began_ns = time.monotonic_ns()
        else:
            metrics.gc_pause.observe_ns(time.monotonic_ns() - began_ns)

    gc.callbacks.append(on_gc)
