"""A service without a thread: the worker's ends of its sockets, and one turn after the other."""

from __future__ import annotations

import os
import socket
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_service.config import ServiceConfig
from gpu_service.engine import Engine
from gpu_service.recognizer import Recognizer
from gpu_service.service import Service
from gpu_service.vad import Vad
from protocol import service_messages as messages
from protocol.client_messages import VadOptions
from protocol.framing import SERVICE_MAGIC, FrameDecoder
from protocol.ring import ArenaLayout
from protocol.service_messages import (
    SamplesRecord,
    ServiceMessage,
    decode_service_payload,
    encode_samples,
    encode_service_message,
)
from protocol.shm import create_arena, map_arena, send_message
from protocol.supervisor_messages import Link

R = TypeVar("R", bound=Recognizer)

LAYOUT = ArenaLayout(num_slots=4, ring_samples=16_000 * 4)
NO_VAD = VadOptions(enabled=False)
CHUNK = 1_600


class Worker:
    """One worker's ends of its socket and arena."""

    def __init__(self, parent: socket.socket) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        arena_fd = create_arena(LAYOUT)
        _, self.arena = map_arena(arena_fd)
        send_message(parent, Link(0, 0), (theirs.fileno(), arena_fd))
        theirs.close()
        os.close(arena_fd)
        self.decoder = FrameDecoder(SERVICE_MAGIC)
        self.sequence = 0
        self.positions: dict[int, int] = {}

    def send(self, message: ServiceMessage) -> None:
        self.sock.sendall(encode_service_message(message, self.sequence))
        self.sequence += 1

    def open(self, slot: int, generation: int = 1, *, tokens: bool = False) -> None:
        self.positions[slot] = 0
        self.send(messages.Open(slot, generation, "s", tokens=tokens, vad=NO_VAD, hop_ms=100))

    def speak(self, slot: int, num_samples: int = CHUNK, generation: int = 1) -> None:
        """Samples that count, so that it can be told which ones arrive."""
        first = self.positions[slot]
        self.say(slot, np.arange(first, first + num_samples, dtype=np.int16), generation)

    def say(self, slot: int, samples: NDArray[np.int16], generation: int = 1) -> None:
        """The next samples of a stream."""
        first, num_samples = self.positions[slot], len(samples)
        pcm = samples.astype("<i2")
        LAYOUT.ring(self.arena, slot).write(first, pcm.tobytes())
        record = SamplesRecord(slot, generation, first, num_samples, 7)
        self.sock.sendall(encode_samples([record], self.sequence))
        self.sequence += 1
        self.positions[slot] += num_samples

    def close(self, slot: int, generation: int = 1) -> None:
        self.send(messages.Close(slot, generation, self.positions[slot]))

    def received(self) -> list[ServiceMessage]:
        """Everything that came, but for health."""
        try:
            self.decoder.receive_data(self.sock.recv(1 << 20))
        except BlockingIOError:
            return []
        heard = []
        while (frame := self.decoder.next_frame()) is not None:
            message = decode_service_payload(frame.type, frame.payload)
            if message is not None and not isinstance(message, messages.Health):
                heard.append(message)
        return heard


class Rig(Generic[R]):
    """A service, run turn by turn, and what makes workers for it."""

    def __init__(self, recognizer: R) -> None:
        self.parent, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.recognizer = recognizer
        config = ServiceConfig(index=0, control_fd=-1, max_streams=4)
        self.service = Service(config, Engine(recognizer, Vad(4), 4), control)

    def worker(self) -> Worker:
        worker = Worker(self.parent)
        self.turn()
        return worker

    def turn(self) -> None:
        """One turn that does not wait for anything to come in."""
        self.service._busy = True
        self.service._turn()

    def run_dry(self) -> None:
        """Until nothing is left to do."""
        for _ in range(30):
            self.turn()
            if self.service._step is None and not self.service._busy:
                return
        raise AssertionError("it never rests")


def of_type(heard: list[ServiceMessage], kind: type) -> list[ServiceMessage]:
    return [message for message in heard if isinstance(message, kind)]
