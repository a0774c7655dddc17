"""A worker, a counting service and native clients in one thread: the gateway without processes.

Everything is real but the processes: sockets are socket pairs, the arena is a bytearray, and
`settle` turns the worker's loop and the service until nothing moves any more. The clock is a
ManualClock, so that time-outs are reached without waiting.
"""

from __future__ import annotations

import socket
from typing import Any

from gateway.config import WorkerConfig
from gateway.gatekeeper import Quota
from gateway.worker import Worker
from protocol.client_messages import Hello, Message
from protocol.ring import ArenaLayout
from protocol.session import Event, Role, Session

from .counting_service import CountingService

MS = 1_000_000


class ManualClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def advance_ms(self, ms: float) -> None:
        """Time passes."""
        self.now_ns += int(ms * MS)


def make_config(**changes: Any) -> WorkerConfig:
    """A worker's settings for tests."""
    fields: dict[str, Any] = {
        "index": 0, "epoch": 0, "host": "127.0.0.1", "port": 0, "native_port": None,
        "control_fd": -1, "arena_fd": -1, "uds_fd": None, "max_connections": 64, "vad": True,
        "hop_ms": 320, "max_utterance_ms": 30_000, "ring_ms": 1_000, "allow_origins": (),
        "handshake_timeout_ms": 10_000, "idle_timeout_ms": 60_000, "gc_freeze": False,
        "log_level": "info",
    }  # fmt: skip
    return WorkerConfig(**{**fields, **changes})


class NativeClient:
    """A client's Session and its end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.session = Session(Role.CLIENT)
        self.events: list[Event] = []
        self.saw_end = False

    def send(self, *messages: Message) -> None:
        """Messages, at once."""
        for message in messages:
            self.session.send(message)
        self.flush()

    def send_audio(self, pcm: bytes) -> None:
        """Audio at the running offset."""
        self.session.send_audio(pcm)
        self.flush()

    def flush(self) -> None:
        """All or an exception: tests send less than a socket holds."""
        data = self.session.data_to_send()
        if data:
            assert self.sock.send(data) == len(data)

    def receive(self) -> bool:
        """Read what is there; True when something was."""
        if self.saw_end:
            return False
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.saw_end = not data
        self.session.receive_data(data)
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
        return True

    def of(self, type_: type[Any]) -> list[Any]:
        """Events of one type so far."""
        return [event for event in self.events if isinstance(event, type_)]


class Rig:
    """See the module text."""

    def __init__(
        self,
        *,
        num_slots: int = 4,
        ring_samples: int = 16_000,
        quota: Quota | None = None,
        journal_bytes: int = 0,
        arena: bytes = b"",  # that a worker before this one has left
        **changes: Any,
    ) -> None:
        self.layout = layout = ArenaLayout(num_slots, ring_samples, journal_bytes)
        self.arena = memoryview(bytearray(arena or layout.size_bytes))
        layout.write_header(self.arena)
        self.clock = ManualClock()
        self.worker = Worker(make_config(**changes), layout, self.arena, self.clock, quota)
        self.services: list[CountingService] = []
        self.clients: list[NativeClient] = []
        self.sockets: list[socket.socket] = []

    def add_service(self, index: int = 0, epoch: int = 0, **options: Any) -> CountingService:
        """Link a service and hear its first health report."""
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        self.worker.add_service(ours, index, epoch)
        service = CountingService(theirs, self.arena, now_ns=self.clock.now_ns, **options)
        self.services.append(service)
        self.settle()
        return service

    def connect(self, hello: Hello | None = None) -> NativeClient:
        """A native client; says hello when one is given."""
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        self.worker.door.accept_native(ours)
        client = NativeClient(theirs)
        self.clients.append(client)
        if hello is not None:
            client.send(hello)
            self.settle()
        return client

    def settle(self) -> None:
        """Turn everything until nothing moves."""
        idle_turns = 0
        while idle_turns < 2:
            idle_turns = 0 if self.turn() > 0 else idle_turns + 1

    def turn(self) -> int:
        """Everybody once; how much moved."""
        self.worker.loop.wake()  # never sleep
        moved = self.worker.loop.run_once() - 1
        for service in self.services:
            if service.sock.fileno() >= 0:
                moved += service.step()
        for client in self.clients:
            if client.sock.fileno() >= 0:
                moved += client.receive()
        return moved

    def close(self) -> None:
        """Give the descriptors back."""
        self.worker.close()
        for sock in self.sockets:
            sock.close()
