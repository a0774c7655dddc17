"""GatewayLink: frames to messages over a real socket pair, and what ends a link."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gpu_service.gateway_link import MAX_OUT_BYTES, GatewayLink, LinkLostError
from protocol import service_messages as messages
from protocol.ring import ArenaLayout
from protocol.service_messages import SamplesRecord, encode_samples, encode_service_message
from protocol.shm import create_arena, map_arena

LAYOUT = ArenaLayout(num_slots=2, ring_samples=1_000)
CREDIT = messages.Credit(0, 1, 100, 50)


class Pair:
    """A link and the worker's end of its socket and arena."""

    def __init__(self) -> None:
        ours, self.worker = socket.socketpair()
        arena = create_arena(LAYOUT)
        _, self.arena = map_arena(arena)
        self.link = GatewayLink(0, 0, ours, arena)
        os.close(arena)

    def close(self) -> None:
        self.link.close()
        self.worker.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_messages_come_in_order_whatever_the_split(pair: Pair) -> None:
    records = [SamplesRecord(0, 1, 0, 320, 5), SamplesRecord(1, 1, 320, 320, 6)]
    finalize = messages.Finalize(0, 1, 9, 320)
    data = encode_samples(records, 0) + encode_service_message(finalize, 1)
    heard: list[object] = []
    for index in range(len(data)):
        pair.worker.send(data[index : index + 1])
        heard += pair.link.receive()
    assert heard == [*records, finalize]
    assert list(pair.link.receive()) == []  # nothing there: no wait, no error


def test_the_arena_is_the_workers(pair: Pair) -> None:
    assert pair.link.num_slots == 2
    LAYOUT.ring(pair.arena, 1).write(998, b"abcdefgh")
    assert pair.link.ring(1).read(998, 4) == b"abcdefgh"


def test_what_is_sent_is_flushed_and_decodes(pair: Pair) -> None:
    pair.link.flush()  # nothing queued
    pair.link.send(CREDIT)
    assert pair.link.wants_write
    pair.link.flush()
    assert not pair.link.wants_write
    assert pair.worker.recv(4096) == encode_service_message(CREDIT, 0)


def test_a_worker_that_does_not_read_is_given_up(pair: Pair) -> None:
    checkpoint = messages.Checkpoint(0, 1, 1, 0, bytes(60_000))

    def send_until_refused() -> None:
        for _ in range(MAX_OUT_BYTES // 30_000):
            pair.link.send(checkpoint)
            pair.link.flush()

    with pytest.raises(LinkLostError, match="unread"):
        send_until_refused()


def test_a_closed_link_and_nonsense_end_it(pair: Pair) -> None:
    pair.worker.send(b"EW" + bytes(14))
    with pytest.raises(LinkLostError, match="bad_magic"):
        list(pair.link.receive())
    pair.worker.close()
    with pytest.raises(LinkLostError):
        list(pair.link.receive())


def test_steps_are_counted_where_a_worker_can_read_them(pair: Pair) -> None:
    counts = LAYOUT.step_counts(pair.arena)
    pair.link.step_ended(1)  # none was running
    assert list(counts) == [0, 0]
    pair.link.step_begins(1)
    assert list(counts) == [0, 1]
    pair.link.step_ended(1)
    pair.link.step_begins(1)
    assert list(counts) == [0, 3]
    counts[1] = 2**32 - 1
    pair.link.step_ended(1)
    assert list(counts) == [0, 0]
