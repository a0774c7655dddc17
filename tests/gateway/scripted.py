"""A dialect that says what a test tells it to, a decoder without a child, a quota in a dict.

For tests of what lies between a dialect and the router, through a whole worker (rig.py).
"""

from __future__ import annotations

import hashlib
import socket
from collections import deque
from typing import Any

from gateway.dialects import Container, Intent, Output
from gateway.file_feed import FeedOwner
from gateway.gatekeeper import Excess, Gatekeeper
from gateway.transport import RawTransport
from protocol.client_messages import ServerMessage
from protocol.supervisor_messages import Token

from .rig import Rig


class ScriptedDialect:
    """Its client says intents; it remembers every event with its channel."""

    name = "scripted"

    def __init__(self) -> None:
        self.intents: deque[Intent] = deque()
        self.received: list[bytes | str] = []
        self.events: list[tuple[int, ServerMessage]] = []
        self.out: list[Output] = []

    def receive_data(self, data: bytes | str) -> None:
        self.received.append(data)

    def next_event(self) -> Intent | None:
        return self.intents.popleft() if self.intents else None

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        self.events.append((channel, event))

    def data_to_send(self) -> list[Output]:
        out, self.out = self.out, []
        return out


class ScriptedClient:
    """A connection of that dialect."""

    def __init__(
        self,
        rig: Rig,
        gatekeeper: Gatekeeper | None = None,
        dialect: ScriptedDialect | None = None,
    ) -> None:
        self.rig = rig
        self.dialect = dialect or ScriptedDialect()
        ours, self.sock = socket.socketpair()
        rig.sockets.append(self.sock)
        self.sock.setblocking(False)
        rig.worker.door.adopt(
            ours, "", lambda: (RawTransport(self.dialect), self.dialect),
            gatekeeper or rig.worker.door.open_gatekeeper,
        )  # fmt: skip

    def say(self, *intents: Intent) -> None:
        """As if the client's bytes had meant this."""
        self.dialect.intents.extend(intents)
        self.sock.send(b".")
        self.rig.settle()

    def leave(self) -> None:
        """Without a word."""
        self.sock.close()
        self.rig.settle()

    @property
    def was_closed(self) -> bool:
        """The server has ended the connection."""
        try:
            return self.sock.recv(1 << 16) == b""
        except BlockingIOError:
            return False

    def of(self, type_: type[Any], channel: int | None = None) -> list[Any]:
        """Events of one type so far, of all channels or one."""
        return [
            event
            for number, event in self.dialect.events
            if isinstance(event, type_) and channel in (None, number)
        ]


class MemoryFeed:
    """connection_host.Feed: the test is the decoder."""

    def __init__(self, container: Container, owner: FeedOwner) -> None:
        self.container = container
        self.owner = owner
        self.data = b""
        self.calls: list[str] = []
        self.is_full = False

    def write(self, data: bytes) -> None:
        self.data += data

    def end(self) -> None:
        self.calls.append("end")

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.calls.append("close")


def memory_feeds(rig: Rig) -> list[MemoryFeed]:
    """From here on the worker's decoders are these."""
    feeds: list[MemoryFeed] = []

    def open_feed(container: Container, owner: FeedOwner) -> MemoryFeed:
        feeds.append(MemoryFeed(container, owner))
        return feeds[-1]

    rig.worker.open_feed = open_feed  # type: ignore[method-assign]
    return feeds


class CountingQuota:
    """gatekeeper.Quota: sessions by column, at most `limit` of them."""

    def __init__(self, limit: int = 100) -> None:
        self.open = 0
        self.refused = 0
        self.taken_back = 0
        self.limit = limit

    def claim(
        self, column: int, max_sessions: int | None, per_minute: int | None, now_ns: int
    ) -> Excess | None:
        if self.open >= self.limit:
            return Excess.SESSIONS
        self.open += 1
        return None

    def reclaim(self, column: int) -> None:
        self.open += 1

    def release(self, column: int) -> None:
        self.open -= 1

    def take_back_start(self, column: int, began_ns: int) -> None:
        self.taken_back += 1

    def num_sessions(self, column: int) -> int:
        return self.open

    def until_start_ns(self, column: int, per_minute: int, now_ns: int) -> int:
        return 0

    def note_refused(self, column: int, now_ns: int) -> None:
        self.refused += 1

    def num_refused(self, column: int, now_ns: int) -> int:
        return self.refused


def gatekeeper_of(secret: str, quota: CountingQuota) -> Gatekeeper:
    """Lets in who knows the secret."""
    return Gatekeeper((Token("test", hashlib.sha256(secret.encode()).digest()),), quota)
