"""ServiceLink: one SAMPLES frame a turn, order, hold and loss, over a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from gateway.event_loop import EventLoop
from gateway.service_link import (
    HOLD_SAMPLES_ABOVE_BYTES,
    MAX_ENQUEUE_TIMES,
    MAX_OUT_BYTES,
    ServiceLink,
)
from gateway.stream import Stream
from protocol.client_messages import Hello
from protocol.framing import SERVICE_MAGIC, FrameDecoder, encode_frame
from protocol.ring import Ring
from protocol.service_messages import (
    Close,
    Credit,
    Finalize,
    Health,
    Open,
    SamplesRecord,
    StreamMessage,
    decode_samples,
    decode_service_payload,
    encode_service_message,
)

from .rig import ManualClock

SAMPLES = 2


class Owner:
    """Nobody listens."""

    dialect_name = "test"

    def deliver(self, event: object) -> None:
        """Nothing."""

    def resume(self) -> None:
        """Nothing."""

    def stream_ended(self) -> None:
        """Nothing."""


@dataclass
class Wired:
    """A link, its loop and clock, and the service's end as a decoder."""

    loop: EventLoop
    clock: ManualClock
    link: ServiceLink
    peer: socket.socket
    health: list[Health] = field(default_factory=list)
    messages: list[StreamMessage] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    decoder: FrameDecoder = field(default_factory=lambda: FrameDecoder(SERVICE_MAGIC))

    def stream(self, slot: int = 0) -> Stream:
        stream = Stream("s", Hello(), Owner(), None)
        stream.attach(slot, 1, Ring(memoryview(bytearray(1 << 20))), self.link)
        return stream

    def turn(self) -> None:
        self.loop.wake()
        self.loop.run_once()

    def frames(self) -> list[object]:
        """Everything that arrived: lists of records, and messages."""
        try:
            while True:
                self.decoder.receive_data(self.peer.recv(1 << 20))
        except BlockingIOError:
            pass
        frames: list[object] = []
        while (frame := self.decoder.next_frame()) is not None:
            if frame.type == SAMPLES:
                frames.append(list(decode_samples(frame.payload)))
            else:
                frames.append(decode_service_payload(frame.type, frame.payload))
        return frames


@pytest.fixture
def wired() -> Iterator[Wired]:
    clock = ManualClock()
    loop = EventLoop(clock)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    health: list[Health] = []
    messages: list[StreamMessage] = []
    lost: list[str] = []
    link = ServiceLink(
        loop, ours, 0, 0,
        lambda _, report: health.append(report),
        lambda _, message: messages.append(message),
        lambda _, reason: lost.append(reason),
    )  # fmt: skip
    loop.before_sleep.append(link.flush)
    yield Wired(loop, clock, link, theirs, health, messages, lost)
    link.close()
    link.close()
    theirs.close()
    loop.close()


def test_one_frame_with_a_record_for_each_stream(wired: Wired) -> None:
    one, two = wired.stream(0), wired.stream(1)
    for stream in (one, two, one):
        stream.write(bytes(640), 7)
    wired.turn()
    assert wired.frames() == [[SamplesRecord(0, 1, 0, 640, 7), SamplesRecord(1, 1, 0, 320, 7)]]
    wired.turn()
    assert wired.frames() == []


def test_messages_go_behind_the_samples_before_them(wired: Wired) -> None:
    stream = wired.stream()
    wired.link.send(Open(0, 1, "s"))
    stream.write(bytes(640), 7)
    wired.link.send(Finalize(0, 1, 3, 320))
    stream.write(bytes(640), 8)
    wired.turn()
    assert wired.frames() == [
        Open(0, 1, "s"), [SamplesRecord(0, 1, 0, 320, 7)], Finalize(0, 1, 3, 320),
        [SamplesRecord(0, 1, 320, 320, 8)],
    ]  # fmt: skip


def test_a_stalled_service_gets_merged_records_later(wired: Wired) -> None:
    stream = wired.stream()
    while wired.link.queued_bytes <= HOLD_SAMPLES_ABOVE_BYTES:
        wired.link.send(Open(0, 1, "s", checkpoint=bytes(60_000)))
        wired.link.flush()
    queued = wired.link.queued_bytes
    for _ in range(3):
        stream.write(bytes(640), 9)
        wired.link.flush()
    assert wired.link.queued_bytes <= queued
    frames: list[object] = []
    while wired.link.queued_bytes:
        frames += wired.frames()
        wired.turn()
    wired.turn()
    frames += wired.frames()
    assert frames[-1] == [SamplesRecord(0, 1, 0, 960, 9)]


def test_a_service_that_never_reads_is_lost(wired: Wired) -> None:
    for _ in range(MAX_OUT_BYTES // 60_000 + 20):
        wired.link.send(Open(0, 1, "s", checkpoint=bytes(60_000)))
        wired.link.flush()
    assert len(wired.lost) == 1
    wired.link.send(Close(0, 1, 0))
    wired.link.flush()
    assert wired.lost == wired.lost[:1]


def test_messages_in_any_split(wired: Wired) -> None:
    report = Health(1, 2, 3.0, 0, 0, 1, 320, 30_000)
    data = encode_service_message(report, 0) + encode_service_message(Credit(0, 1, 5, 5), 1)
    for byte in data:
        wired.peer.send(bytes([byte]))
        wired.turn()
    assert wired.health == [report]
    assert wired.messages == [Credit(0, 1, 5, 5)]


def test_unknown_and_misdirected_messages_are_skipped(wired: Wired) -> None:
    wired.peer.send(encode_frame(SERVICE_MAGIC, 0x7F, 0, b""))
    wired.peer.send(encode_service_message(Close(0, 1, 0), 1))
    wired.turn()
    assert not wired.messages
    assert not wired.lost


@pytest.mark.parametrize("how", ["closed", "nonsense", "bad payload", "reset"])
def test_a_link_is_lost_once(wired: Wired, how: str) -> None:
    if how == "nonsense":
        wired.peer.send(b"HTTP/1.1 200 OK\r\n")
    elif how == "bad payload":
        wired.peer.send(encode_frame(SERVICE_MAGIC, 0x49, 0, b"\xc1"))
    else:
        if how == "reset":  # unread data makes close a reset
            wired.link.send(Close(0, 1, 0))
            wired.link.flush()
        wired.peer.close()
    wired.turn()
    wired.turn()
    assert len(wired.lost) == 1


def test_a_write_to_a_dead_service(wired: Wired) -> None:
    wired.peer.close()
    wired.link.send(Close(0, 1, 0))
    wired.link.flush()
    assert len(wired.lost) == 1


def test_when_audio_was_announced_is_remembered_for_a_while(wired: Wired) -> None:
    stream = wired.stream()
    stream.write(bytes(2), 5)
    wired.link.flush()
    assert wired.link.enqueue_ns(5) == wired.clock.now_ns
    for number in range(MAX_ENQUEUE_TIMES):
        stream.write(bytes(2), 100 + number)
        wired.link.flush()
        wired.frames()
    assert wired.link.enqueue_ns(5) == 0
