"""A worker that dies at any store into its journals, its successors, and clients that resume: the
router, the streams of the service and the journals over one arena, without a process.
"""

from __future__ import annotations

import random
from array import array
from collections import deque
from typing import Any

from gateway.journal_recovery import read_sessions, restore_stream
from gateway.journal_state import Identity, SavedSession
from gateway.journal_writer import Journals
from gateway.kept_events import KeptEvents
from gateway.stream import Converter, Pcm, Stream
from protocol.client_messages import (
    NUMBERED,
    Error,
    Hello,
    ServerMessage,
    Watermark,
)
from protocol.journal import Journal
from protocol.resume_messages import ACK_EVERY_EVENTS

from ..protocol.dying_writer import Killer, WatchedView
from .recovery_world import Listener, World

JOURNAL_BYTES = 8 * 4096  # small: records fill a half often
FOREVER = 1 << 60
HALF_RATE = 32_000


class Halver:
    """32 kHz to 16 kHz by leaving out every other sample, some samples late: exact, so that a test
    can compare, and with a state that is lost with the worker.
    """

    DELAY, KEEP = 10, 100

    def __init__(self, ring_samples: int = 0) -> None:
        self.client_samples = self.restart_sample(ring_samples)
        self._ring_samples = ring_samples
        self._first = self.client_samples
        self._heard = array("h")

    def convert(self, pcm: Pcm) -> bytes:
        self._heard.frombytes(bytes(pcm))
        self.client_samples = self._first + len(self._heard)
        return self._until((self.client_samples - self.DELAY) // 2)

    def drain(self) -> bytes:
        return self._until(self.client_samples // 2)

    def _until(self, ring_samples: int) -> bytes:
        if ring_samples <= self._ring_samples:
            return b""
        begin, self._ring_samples = self._ring_samples, ring_samples
        assert self._first == 0 or 2 * begin - self._first >= self.KEEP, (
            "its filter reaches further"
        )
        return self._heard[2 * begin - self._first : 2 * ring_samples - self._first : 2].tobytes()

    def max_ring_samples(self, num_client_samples: int) -> int:
        return num_client_samples // 2 + self.DELAY

    def restart_sample(self, ring_samples: int) -> int:
        return max(0, 2 * ring_samples - self.KEEP)


def restart_converter(hello: Hello, ring_samples: int) -> Halver | None:
    return Halver(ring_samples) if hello.sample_rate_hz == HALF_RATE else None


class Client(Listener):
    """A client that resumes, and holds the gateway to its contracts: what it was told it may
    forget is never asked for, and nothing comes twice.
    """

    dialect_name = "native"

    def __init__(self, hello: Hello) -> None:
        super().__init__()
        self.hello = hello
        self.num_received = 0  # numbered events
        self.num_sent = 0  # samples
        self.finalizes: list[tuple[int, int]] = []  # all: (sample, id)
        self.kept_from = 0  # earlier samples are forgotten
        self._heard_decoded = 0

    def deliver(self, event: ServerMessage) -> None:
        if isinstance(event, Watermark):
            assert self.kept_from <= event.client_samples <= self.num_sent
            self.kept_from = event.client_samples
        self.num_received += event.TYPE in NUMBERED
        super().deliver(event)


class Session:
    """The owner of a resumable stream (channel.Channel and parking.Parking, for these tests)."""

    dialect_name = "native"

    def __init__(self, client: Client, kept: KeptEvents) -> None:
        self.client = client
        self.kept = kept
        self.stream: Stream | None = None
        self.in_transit: deque[ServerMessage] = deque()
        self.ended = False

    def deliver(self, event: ServerMessage) -> None:
        assert self.stream is not None
        if event.TYPE in NUMBERED:
            self.kept.append(event)
            self.stream.journal.told(event)
        self.in_transit.append(event)

    def refuse(self, error: Error) -> None:
        self.deliver(error)

    def resume(self) -> None:
        """It may go on."""

    def stream_ended(self) -> None:
        self.ended = True

    def arrive(self, count: int) -> None:
        """So much of what was said reaches the client."""
        for _ in range(min(count, len(self.in_transit))):
            self.client.deliver(self.in_transit.popleft())
            if self.client.num_received >= self.kept.first_number + ACK_EVERY_EVENTS:
                self.acknowledge()

    def acknowledge(self) -> None:
        """The client says what it has."""
        assert self.stream is not None
        assert self.kept.acknowledge(self.client.num_received)
        self.stream.journal.acknowledged()


class DyingJournals(Journals):
    """Whose stores are counted."""

    killer = Killer(FOREVER, random.Random(0))

    def journal(self, slot: int) -> Journal | None:
        view = self._layout.journal(self._arena, slot)
        return Journal(WatchedView(view, self.killer))  # type: ignore[arg-type]


class DyingWorld(World):
    """A World whose worker dies when its journals have been stored to often enough."""

    def __init__(self, journal_bytes: int = JOURNAL_BYTES) -> None:
        self.killer = Killer(FOREVER, random.Random(0))
        self.damage: list[str] = []
        self.generations: list[int] = []
        super().__init__(journal_bytes=journal_bytes)

    def begin(self) -> None:
        super().begin()
        self.services.clear()
        self.killer.stores_left = FOREVER
        journals = DyingJournals(self.layout, self.arena)
        journals.killer = self.killer
        self.router.journals = journals

    def new_converter(self, hello: Hello) -> Converter | None:
        return restart_converter(hello, 0)

    def open_session(self, client: Client, token_name: str = "") -> Session:
        """A client's first audio is about to come."""
        session = Session(client, KeptEvents())
        stream = self.router.admit(client.hello, session, self.now_ns)
        assert isinstance(stream, Stream)
        session.stream = stream
        assert self.router.claim(stream, self.now_ns) is None
        identity = Identity(stream.session_id, client.hello, b"digest", token_name, 0)
        self.router.journals.claimed(stream, identity, session.kept)
        return session

    def succeed(self, *, soon: bool = False) -> list[SavedSession]:
        """The worker is dead; another begins with what it left. `soon`: before any checkpoint."""
        self.begin()
        for slot in range(0 if soon or not self.layout.journal_bytes else self.layout.num_slots):
            Journal(self.layout.journal(self.arena, slot)).forget_attempts()
        return read_sessions(
            self.layout, self.arena, lambda slot, reason: self.damage.append(reason)
        )

    def take_back(self, saved: SavedSession, client: Client) -> Session:
        """The client of a session that had not ended is here again."""
        session = Session(client, KeptEvents(saved.num_acknowledged, saved.events))
        generation = self.router.admission.slots.reclaim(saved.slot, saved.generation)
        self.generations.append(generation)
        ring = self.router.ring(saved.slot)
        stream = restore_stream(saved, session, ring, generation, restart_converter)
        session.stream = stream
        self.router.journals.recovered(saved, stream, session.kept)
        self.router.pump(stream)
        self.router.adopt(stream, self.now_ns)
        session.in_transit.extend(missed(session.kept, client))
        return session


def missed(kept: KeptEvents, client: Client) -> tuple[ServerMessage, ...]:
    """What the client has not got."""
    events = kept.since(client.num_received)
    assert events is not None, "something that it has not got is gone"
    return events


def doubled(pcm: bytes) -> bytes:
    """The same at 32 kHz, as Halver undoes it."""
    samples = array("h")
    for sample in array("h", pcm):
        samples.extend((sample, -sample))
    return samples.tobytes()


def hello_of(half_rate: bool, **fields: Any) -> Hello:
    """A resumable session, in ring format or not."""
    return Hello(sample_rate_hz=HALF_RATE if half_rate else 16_000, resumable=True, **fields)
