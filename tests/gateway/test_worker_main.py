"""`python -m gateway.worker` as a process: what it inherits, how it drains, how it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from gateway.reservation import reserve_port
from gateway.worker_start import await_access
from protocol.client_messages import Bye, Closed, Error, Hello, Started
from protocol.errors import ErrorCode
from protocol.ring import ArenaLayout
from protocol.session import Event, Role, Session
from protocol.shm import create_arena, map_arena, receive_message, send_message
from protocol.supervisor_messages import (
    Access,
    Drain,
    Link,
    Log,
    Ready,
    Remaining,
    Retire,
    Stats,
    Stop,
    SupervisorMessage,
    Token,
    Unlinked,
)

from .counting_service import CountingService
from .rig import make_config

pytestmark = pytest.mark.system
TIMEOUT_S = 20


class Process:
    """A worker, the parent's end of its control socket, and its Unix listener."""

    def __init__(self, path: str, **changes: Any) -> None:
        self.arena_fd = create_arena(ArenaLayout(2, 16_000))
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(TIMEOUT_S)
        self.path = path
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            fds = theirs.fileno(), self.arena_fd, listener.fileno()
            config = make_config(
                control_fd=fds[0], arena_fd=fds[1], uds_fd=fds[2], gc_freeze=True, **changes
            )
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "gateway.worker", "--config",
                 msgspec.json.encode(config).decode()],
                pass_fds=fds, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

    def receive(self, type_: type[SupervisorMessage]) -> Any:
        """The next message of this type."""
        while (received := receive_message(self.control)) is not None:
            if isinstance(received[0], type_):
                return received[0]
        raise AssertionError(f"the worker ended before it said {type_.__name__}")

    def link(self, index: int = 0) -> CountingService:
        """A service in this process."""
        ours, theirs = socket.socketpair()
        with ours:
            send_message(self.control, Link(index, 0), (ours.fileno(),))
        _, arena = map_arena(self.arena_fd)
        return CountingService(theirs, arena)

    def wait(self) -> int:
        """Its exit status."""
        return self.popen.wait(TIMEOUT_S)

    def close(self) -> None:
        """Whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.communicate()
        self.control.close()
        os.close(self.arena_fd)


@pytest.fixture
def process(tmp_path: Any) -> Iterator[Process]:
    process = Process(str(tmp_path / "native.sock"))
    yield process
    process.close()


class Client:
    """A native client that lets the service work while it waits."""

    def __init__(self, process: Process, service: CountingService) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(process.path)
        self.sock.setblocking(False)
        self.service = service
        self.session = Session(Role.CLIENT)
        self.events: list[Event] = []

    def flush(self) -> None:
        self.sock.sendall(self.session.data_to_send())

    def wait(self, is_done: Callable[[], bool]) -> None:
        """Serve both sockets until `is_done`."""
        while not is_done():
            ready, _, _ = select.select([self.sock, self.service.sock], [], [], TIMEOUT_S)
            assert ready, "nothing moves"
            if self.service.sock in ready:
                self.service.step()
            if self.sock in ready:
                data = self.sock.recv(1 << 16)
                assert data, "the worker ended the connection"
                self.session.receive_data(data)
            while (event := self.session.next_event()) is not None:
                self.events.append(event)

    def until(self, type_: type[Any]) -> Any:
        """The first event of this type."""
        self.wait(lambda: any(isinstance(event, type_) for event in self.events))
        return next(event for event in self.events if isinstance(event, type_))


def talk(process: Process) -> Client:
    """A client whose audio the service has seen."""
    process.receive(Ready)
    service = process.link()
    while "earwire_service_hop_seconds" not in {s.name for s in process.receive(Stats).samples}:
        pass  # until the worker has heard of the service's health
    client = Client(process, service)
    client.session.send(Hello())
    client.session.send_audio(bytes(6400))
    client.flush()
    client.until(Started)
    client.wait(lambda: any(stream.samples == 3200 for stream in service.all_streams))
    return client


def test_a_stream_through_a_real_worker_and_then_stop(process: Process) -> None:
    client = talk(process)
    client.session.send(Bye())
    client.flush()
    closed = client.until(Closed)
    assert closed.engine_samples == 3200
    send_message(process.control, Stop())
    assert process.wait() == 0


@pytest.mark.parametrize("how", ["message", "signal"])
def test_a_drain_ends_open_streams_properly(process: Process, how: str) -> None:
    client = talk(process)
    if how == "message":
        send_message(process.control, Drain())
    else:
        process.popen.send_signal(signal.SIGTERM)
    assert client.until(Closed).reason == "draining"
    client.sock.close()
    assert process.wait() == 0


def test_a_worker_does_not_outlive_its_parent(process: Process) -> None:
    process.receive(Ready)
    process.control.close()
    process.wait()


def test_an_address_that_is_taken_is_one_clear_line(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = Process(str(tmp_path / "native.sock"), port=other.getsockname()[1])
        message = process.receive(Log)
        assert "cannot listen on 127.0.0.1" in message.text
        assert process.wait() == 1
        process.close()


def connect_error(process: Process, port: int) -> Error:
    """What a client without a token is told on the native port."""
    service = process.link()
    session = Session(Role.CLIENT)
    session.send(Hello())
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(session.data_to_send())
        while data := sock.recv(1 << 16):
            session.receive_data(data)
    service.sock.close()
    event = session.next_event()
    assert isinstance(event, Error)
    return event


def test_nobody_is_let_in_before_it_is_known_who_may(tmp_path: Any) -> None:
    with reserve_port("127.0.0.1", 0, "--native-port") as reserved:
        port = reserved.getsockname()[1]
        process = Process(str(tmp_path / "native.sock"), awaits_access=True, native_port=port)
        process.control.settimeout(1.0)
        with pytest.raises(TimeoutError):
            process.receive(Ready)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        process.control.settimeout(TIMEOUT_S)
        send_message(process.control, Access(0, (Token("one", bytes(32)),)))
        process.receive(Ready)
        assert connect_error(process, port).code is ErrorCode.UNAUTHORIZED
        send_message(process.control, Stop())
        assert process.wait() == 0
        process.close()


def test_a_parent_that_is_gone_before_it_said_who_may(tmp_path: Any) -> None:
    process = Process(str(tmp_path / "native.sock"), awaits_access=True)
    process.control.close()
    assert process.wait() == 0
    process.close()


def test_anything_else_than_access_is_a_bug_of_the_parent() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send_message(ours, Drain())
        with pytest.raises(AssertionError, match="sent Drain before Access"):
            await_access(theirs)


def test_a_lost_link_is_reported_and_another_one_taken(process: Process) -> None:
    """The parent makes a new one if the service lives."""
    process.receive(Ready)
    process.link().sock.close()
    assert process.receive(Unlinked) == Unlinked(0, 0)
    service = process.link()
    while "earwire_service_hop_seconds" not in {s.name for s in process.receive(Stats).samples}:
        pass  # until the worker has heard of the service's health
    client = Client(process, service)
    client.session.send(Hello())
    client.flush()
    client.until(Started)


def test_a_service_that_retires_loses_its_streams_to_another(process: Process) -> None:
    client = talk(process)
    successor = process.link(1)
    send_message(process.control, Retire(0))
    client.wait(lambda: not client.service.streams)
    while process.receive(Remaining) != Remaining(0, 0):
        pass
    client.service.sock.close()
    client.service = successor
    client.wait(lambda: len(successor.all_streams) == 1)
    assert successor.all_streams[0].open.first_sample == 3200
    client.session.send_audio(bytes(6400))
    client.session.send(Bye())
    client.flush()
    assert client.until(Closed).ring_samples == 6400
