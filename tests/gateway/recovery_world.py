"""A router, one arena, services that come and go (memory_service.py), and clients that hold the
gateway to its contracts: for tests of what happens when services die.
"""

from __future__ import annotations

from array import array
from typing import Any

from gateway.admission import Admission, ServiceLoad, SlotTable
from gateway.metrics import Metrics
from gateway.router import Router
from gateway.stream import Converter, Stream
from protocol.client_messages import (
    Closed,
    EndOfTurn,
    Error,
    Final,
    Hello,
    NonSpeech,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    Watermark,
)
from protocol.ring import ArenaLayout
from protocol.service_messages import Health

from .memory_service import LOUDEST, MemoryService
from .rig import make_config

FRAME = 512
RING_SAMPLES = 19 * 16_000  # as config.ring_ms says for utterances of 2 s


class Listener:
    """A client that holds the gateway to the contracts of a stream as it goes."""

    dialect_name = "test"

    def __init__(self) -> None:
        self.events: list[ServerMessage] = []
        self.ended = 0
        self._shown: dict[int, str] = {}
        self._decoded = 0

    def deliver(self, event: ServerMessage) -> None:
        decoded = getattr(event, "audio_decoded", self._decoded)
        assert decoded >= self._decoded
        self._decoded = decoded
        if isinstance(event, Partial):
            assert event.stable.startswith(self._shown.get(event.utterance, ""))
            assert self.finals == [] or event.utterance > self.finals[-1].utterance
            self._shown[event.utterance] = event.stable
        elif isinstance(event, Final) and event.end_sample > event.start_sample:
            assert event.revised or event.text.startswith(self._shown.get(event.utterance, ""))
        self.events.append(event)

    def refuse(self, error: Error) -> None:
        self.events.append(error)

    def resume(self) -> None:
        """It may go on."""

    def stream_ended(self) -> None:
        self.ended += 1

    @property
    def finals(self) -> list[Final]:
        return [
            event
            for event in self.events
            if isinstance(event, Final) and event.end_sample > event.start_sample
        ]

    def said(self) -> tuple[list[Any], list[Any], list[Any]]:
        """What must not depend on faults: tiles, answers and turns in order; speech events in
        order; the close record.
        """
        in_order: list[Any] = []
        speech: list[Any] = []
        rest: list[Any] = []
        for event in self.events:
            if isinstance(event, Final):
                in_order.append(
                    (event.utterance, event.start_sample, event.end_sample, event.text,
                     event.words, event.finalize_id)
                )  # fmt: skip
            elif isinstance(event, NonSpeech):
                in_order.append((event.start_sample, event.end_sample))
            elif isinstance(event, EndOfTurn):
                in_order.append(("turn", event.utterance, event.end_sample))
            elif isinstance(event, SpeechStarted | SpeechStopped):
                where = getattr(event, "start_sample", 0), getattr(event, "end_sample", 0)
                speech.append((type(event), event.utterance, *where))
            elif not isinstance(event, Partial | Watermark):
                rest.append(event)
        return in_order, speech, rest


class World:
    """A router with one arena; services come and go."""

    def __init__(
        self, num_slots: int = 4, ring_samples: int = RING_SAMPLES, journal_bytes: int = 0
    ) -> None:
        self.layout = ArenaLayout(num_slots, ring_samples, journal_bytes)
        self.arena = memoryview(bytearray(self.layout.size_bytes))
        self.now_ns = 50_000_000_000
        self.begin()

    def begin(self) -> None:
        """A worker begins, without services."""
        num_slots = self.layout.num_slots
        self.metrics = Metrics()
        self.closed: list[Closed] = []
        self.services: list[MemoryService] = []
        self.router = Router(
            make_config(max_utterance_ms=2_000), Admission(SlotTable(num_slots)), self.metrics,
            self.layout, self.arena, self.new_converter,
            lambda stream, record: self.closed.append(record), "w",
        )  # fmt: skip

    def new_converter(self, hello: Hello) -> Converter | None:
        """Clients speak as the ring does."""
        return None

    def add_service(
        self, index: int = 0, *, max_streams: int = 4, models: tuple[str, ...] = ("m",), **how: Any
    ) -> MemoryService:
        service = MemoryService(self.layout, self.arena, index, **how)
        self.services.append(service)
        self.router.links[index] = service
        load = self.router.admission.services[index] = ServiceLoad()
        report = Health(self.now_ns, self.now_ns, 1.0, 0, 0, max_streams, 320, 2_000, models)
        load.take_health(report, self.now_ns)
        self.place()
        return service

    def place(self) -> None:
        while self.router.orphans.place(self.now_ns):
            pass

    def wait(self, seconds: float) -> None:
        """Time passes, services report."""
        self.now_ns += int(seconds * 1e9)
        for load in self.router.admission.services.values():
            assert load.health is not None
            load.take_health(load.health, self.now_ns)
        self.place()

    def open(self, **hello: Any) -> tuple[Stream, Listener]:
        owner = Listener()
        stream = self.router.admit(Hello(**hello), owner, self.now_ns)
        assert isinstance(stream, Stream)
        assert self.router.claim(stream, self.now_ns) is None
        return stream, owner

    def say(self, stream: Stream, pcm: bytes) -> None:
        self.now_ns += len(pcm) * 31_250
        stream.accept(pcm, self.now_ns)
        self.router.pump(stream)

    def deliver(self, service: MemoryService, count: int = 1 << 30) -> None:
        """What the service said reaches the worker."""
        while service.outbox and count:
            count -= 1
            self.router.receive(service, service.outbox.popleft(), self.now_ns)

    def kill(self, service: MemoryService) -> None:
        """What it said and was not delivered is lost."""
        self.services.remove(service)
        self.router.link_lost(service, self.now_ns)

    def rest(self) -> None:
        """Until nothing moves: rooms are made by credits, blocked audio follows."""
        moved = True
        while moved:
            before = [len(service.outbox) for service in self.services]
            for service in self.services:
                service.rest()
            moved = any(service.outbox for service in self.services) or before != [0] * len(before)
            for service in self.services:
                self.deliver(service)


def speech(*runs: tuple[float, int]) -> bytes:
    """Frames of these probabilities; samples within a frame tell their place."""
    samples = array("h")
    for probability, count in runs:
        for _ in range(count):
            samples.append(int(probability * LOUDEST))
            samples.extend((len(samples) + i) % 999 for i in range(FRAME - 1))
    return samples.tobytes()


SHORT = speech((0.0, 10), (0.9, 30), (0.0, 30))


def world_with_an_orphan(world: World) -> tuple[Stream, Listener]:
    service = world.add_service()
    stream, owner = world.open()
    world.say(stream, SHORT)
    world.rest()
    world.kill(service)
    return stream, owner
