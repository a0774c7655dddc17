"""Service: a real engine behind a real link, from Open to StreamClosed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gpu_service.config import ServiceConfig
from gpu_service.cpu.whisper import WhisperRecognizer
from gpu_service.engine import Engine
from gpu_service.service import Service
from gpu_service.vad import Vad
from protocol import service_messages as messages
from protocol.errors import ErrorCode
from protocol.framing import SERVICE_MAGIC, FrameDecoder
from protocol.ring import ArenaLayout
from protocol.service_messages import (
    SamplesRecord,
    decode_service_payload,
    encode_samples,
    encode_service_message,
)
from protocol.shm import create_arena, map_arena, receive_message, send_message
from protocol.supervisor_messages import Alive, Link, Ready, Stop

from .speech import two_cities

NUM_SAMPLES = 16_000 * 5
LAYOUT = ArenaLayout(num_slots=2, ring_samples=16_000 * 10)


class Worker:
    """The other end: what a gateway worker and the parent say to a service."""

    def __init__(self, engine: Engine) -> None:
        self.parent, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(30)
        arena_fd = create_arena(LAYOUT)
        _, self.arena = map_arena(arena_fd)
        send_message(self.parent, Link(0, 0), (theirs.fileno(), arena_fd))
        theirs.close()
        os.close(arena_fd)
        self.decoder = FrameDecoder(SERVICE_MAGIC)
        self.sequence = 0
        config = ServiceConfig(index=0, control_fd=-1, max_streams=1)
        self.thread = threading.Thread(target=Service(config, engine, control).run)
        self.thread.start()

    def send(self, message: messages.ServiceMessage) -> None:
        self.sock.sendall(encode_service_message(message, self.sequence))
        self.sequence += 1

    def announce(self, slot: int, num_samples: int) -> None:
        record = SamplesRecord(slot, 1, 0, num_samples, 7)
        self.sock.sendall(encode_samples([record], self.sequence))
        self.sequence += 1

    def receive_until(self, last: type) -> list[messages.ServiceMessage]:
        """All messages up to and with the first of type `last`."""
        heard: list[messages.ServiceMessage] = []
        while not heard or not isinstance(heard[-1], last):
            frame = self.decoder.next_frame()
            if frame is None:
                self.decoder.receive_data(self.sock.recv(65_536))
                continue
            message = decode_service_payload(frame.type, frame.payload)
            assert message is not None
            heard.append(message)
        return heard

    def close(self) -> None:
        send_message(self.parent, Stop())
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.parent.close()
        self.sock.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(Engine(WhisperRecognizer("tiny.en"), Vad(1), max_streams=1))
    yield worker
    worker.close()


def test_health_precedes_ready(worker: Worker) -> None:
    said = []
    while not said or not isinstance(said[-1], Ready):
        received = receive_message(worker.parent)
        assert received is not None
        said.append(received[0])
    assert said[-1] == Ready("tiny.en")
    worker.sock.setblocking(False)  # it is there already
    (health,) = worker.receive_until(messages.Health)
    worker.sock.settimeout(30)
    assert isinstance(health, messages.Health)
    assert health.last_step_ns > 0
    assert (health.models, health.languages) == (("tiny.en",), ("en",))


def test_a_stream_from_open_to_closed(worker: Worker) -> None:
    LAYOUT.ring(worker.arena, 0).write(0, two_cities()[:NUM_SAMPLES].tobytes())
    worker.send(messages.Open(0, 1, "s"))
    worker.announce(0, NUM_SAMPLES)
    worker.send(messages.Finalize(0, 1, 3, NUM_SAMPLES))
    worker.send(messages.Close(0, 1, NUM_SAMPLES))
    heard = worker.receive_until(messages.StreamClosed)
    finals = [m for m in heard if isinstance(m, messages.Final)]
    assert "best of times" in finals[0].text
    assert [f.finalize_id for f in finals if f.finalize_id is not None] == [3]
    assert any(isinstance(m, messages.Checkpoint) for m in heard)
    assert heard[-1] == messages.StreamClosed(0, 1, NUM_SAMPLES)


def test_a_stream_that_leaves_goes_on_elsewhere(worker: Worker) -> None:
    """With a checkpoint, and its seat is free; here it comes back at once, and asks for what only
    another model knows."""
    LAYOUT.ring(worker.arena, 0).write(0, two_cities()[:NUM_SAMPLES].tobytes())
    worker.send(messages.Open(0, 1, "s"))
    worker.announce(0, NUM_SAMPLES)
    worker.send(messages.Finalize(0, 1, 3, NUM_SAMPLES))
    worker.receive_until(messages.Final)
    worker.send(messages.Leave(0, 1))
    checkpoint, left = worker.receive_until(messages.Left)[-2:]
    assert left == messages.Left(0, 1)
    assert isinstance(checkpoint, messages.Checkpoint)
    assert (checkpoint.sample <= NUM_SAMPLES, checkpoint.controls) == (True, 1)
    worker.send(messages.Finalize(0, 1, 4, NUM_SAMPLES))  # too late: that is for the next one
    worker.send(messages.Open(0, 1, "s", checkpoint.sample, checkpoint.state, language="xx"))
    worker.send(messages.Close(0, 1, NUM_SAMPLES))
    assert worker.receive_until(messages.StreamClosed)[-1] == messages.StreamClosed(
        0, 1, NUM_SAMPLES
    )


def test_more_streams_than_seats_are_refused_and_the_seat_is_free_again(worker: Worker) -> None:
    worker.send(messages.Open(0, 2, "a"))
    worker.send(messages.Open(1, 1, "b"))
    refused = worker.receive_until(messages.StreamClosed)
    assert [m.code for m in refused if isinstance(m, messages.StreamError)] == [
        ErrorCode.AT_CAPACITY
    ]
    worker.send(messages.Close(0, 2, 0))
    assert worker.receive_until(messages.StreamClosed)[-1] == messages.StreamClosed(0, 2, 0)


def test_unknown_languages_and_damaged_checkpoints_are_refused(worker: Worker) -> None:
    worker.send(messages.Open(0, 3, "c", language="xx"))
    worker.send(messages.Open(0, 4, "d", checkpoint=b"nonsense"))
    for code in (ErrorCode.BAD_MESSAGE, ErrorCode.SERVICE_LOST):
        heard = worker.receive_until(messages.StreamClosed)
        assert [m.code for m in heard if isinstance(m, messages.StreamError)] == [code]


def test_who_was_admitted_to_another_model_goes_without_what_this_one_cannot(
    worker: Worker,
) -> None:
    """It had no audio, and so no checkpoint, when its model was replaced."""
    worker.send(messages.Open(0, 6, "f", language="xx", was_admitted=True))
    worker.send(messages.Close(0, 6, 0))
    heard = worker.receive_until(messages.StreamClosed)
    assert not [m for m in heard if isinstance(m, messages.StreamError)]


def test_it_shows_its_parent_that_it_lives(worker: Worker) -> None:
    worker.parent.settimeout(30)
    begin_ns = time.monotonic_ns()
    while True:
        received = receive_message(worker.parent)
        assert received is not None
        if isinstance(received[0], Alive) and received[0].turn_ns > begin_ns:
            return


def test_messages_of_a_stream_that_is_gone_are_dropped(worker: Worker) -> None:
    worker.send(messages.Finalize(0, 1, 9, 0))
    worker.send(messages.Open(0, 5, "e"))
    worker.send(messages.Close(0, 5, 0))
    heard = worker.receive_until(messages.StreamClosed)
    assert not [m for m in heard if isinstance(m, messages.Final)]
