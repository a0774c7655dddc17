"""The counting service: what stands behind the gateway in `bench gateway`, and only there.

It speaks the service protocol and recognises nothing. It says Health twice a second, credits
every stream each 250 ms of its audio (as the real service does, so that the worker pays for it),
closes streams, holds every SAMPLES record to the contract (contiguous, right generation), and
keeps record and arrival time for later. Run as a process of its own:

    python -m bench.counting_service --fd N --out FILE.npz

The arrival time is read after recv returned, so it includes this process's wake-up: the added
latency computed from it is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time
from dataclasses import dataclass, field

import numpy as np

from protocol import service_messages as messages
from protocol.framing import SERVICE_MAGIC, FrameDecoder
from protocol.service_messages import (
    SAMPLES_RECORD,
    ServiceMessage,
    ServiceMessageType,
    decode_service_payload,
    encode_service_message,
)

RECORD_DTYPE = np.dtype(
    [
        ("slot", "<u4"), ("generation", "<u4"), ("first", "<u8"),
        ("count", "<u4"), ("reserved", "<u4"), ("receive_ns", "<u8"),
    ]
)  # fmt: skip
CREDIT_STEP_SAMPLES = 4_000
HEALTH_INTERVAL_NS = 500_000_000
RECEIVE_BYTES = 1 << 20


@dataclass(slots=True)
class Count:
    """One stream."""

    slot: int
    generation: int
    session_id: str
    heard_samples: int = 0
    credited_samples: int = 0
    breaks: int = 0  # records that did not begin where the last one ended
    closed: bool = False


@dataclass(slots=True)
class Ledger:
    """Pure part: records in, messages to send out."""

    streams: dict[int, Count] = field(default_factory=dict)  # by slot
    ended: list[Count] = field(default_factory=list)
    strays: int = 0  # records of no open stream
    payloads: list[bytes] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)

    def on_samples(self, payload: bytes, arrival_ns: int) -> list[ServiceMessage]:
        """Check and keep one SAMPLES payload; the credits it makes due."""
        self.payloads.append(payload)
        self.arrivals_ns.append(arrival_ns)
        out: list[ServiceMessage] = []
        streams = self.streams
        for slot, generation, first, count, _, _ in SAMPLES_RECORD.iter_unpack(payload):
            stream = streams.get(slot)
            if stream is None or stream.generation != generation:
                self.strays += 1
                continue
            if first != stream.heard_samples:
                stream.breaks += 1
            heard = stream.heard_samples = first + count
            if heard - stream.credited_samples >= CREDIT_STEP_SAMPLES:
                stream.credited_samples = heard
                out.append(messages.Credit(slot, generation, heard, heard))
        return out

    def on_message(self, message: ServiceMessage) -> list[ServiceMessage]:
        """Open, Finalize and Close; the answers."""
        if isinstance(message, messages.Open):
            self.streams[message.slot] = Count(
                message.slot, message.generation, message.session_id, message.first_sample
            )
        elif isinstance(message, messages.Finalize):
            return [self._answer(message)]
        elif isinstance(message, messages.Close):
            return self._close(message)
        return []

    @staticmethod
    def _answer(message: messages.Finalize) -> ServiceMessage:
        at = message.at_sample
        return messages.Final(
            message.slot, message.generation, at, 0, at, at, "", finalize_id=message.finalize_id
        )

    def _close(self, message: messages.Close) -> list[ServiceMessage]:
        stream = self.streams.pop(message.slot, None)
        if stream is None:
            return []
        stream.closed = True
        self.ended.append(stream)
        if stream.heard_samples != message.at_sample:
            stream.breaks += 1
        return [messages.StreamClosed(stream.slot, stream.generation, stream.heard_samples)]

    def all_streams(self) -> list[Count]:
        """Open and ended ones."""
        return [*self.ended, *self.streams.values()]

    def save(self, path: str) -> None:
        """Records with arrival times, and the streams, as one .npz file."""
        records = np.frombuffer(b"".join(self.payloads), RECORD_DTYPE)
        counts = [len(payload) // SAMPLES_RECORD.size for payload in self.payloads]
        arrivals = np.repeat(np.array(self.arrivals_ns, np.int64), np.array(counts, np.int64))
        streams = [
            {
                "slot": s.slot, "generation": s.generation, "session_id": s.session_id,
                "heard_samples": s.heard_samples, "breaks": s.breaks, "closed": s.closed,
            }
            for s in self.all_streams()
        ]  # fmt: skip
        about = json.dumps({"streams": streams, "strays": self.strays, "turns": len(counts)})
        np.savez(path, records=records, arrivals_ns=arrivals, about=np.array(about))


class CountingService:
    """Shell: the link's socket, a ledger behind it."""

    def __init__(self, link: socket.socket, ledger: Ledger, max_streams: int) -> None:
        self._link = link
        self._ledger = ledger
        self._max_streams = max_streams
        self._decoder = FrameDecoder(SERVICE_MAGIC)
        self._out = bytearray()
        self._sequence = 0
        self._health_due_ns = 0
        link.setblocking(False)

    def run(self) -> None:
        """Count until the worker closes the link."""
        poller = select.epoll()
        poller.register(self._link.fileno(), select.EPOLLIN)
        while True:
            self._tick(time.monotonic_ns())
            wanted = select.EPOLLIN | (select.EPOLLOUT if self._out else 0)
            poller.modify(self._link.fileno(), wanted)
            if poller.poll(0.25) and not self._receive():
                return

    def _receive(self) -> bool:
        try:
            data = self._link.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._write()
            return True
        except ConnectionError:
            return False
        arrival_ns = time.monotonic_ns()
        self._decoder.receive_data(data)
        while (frame := self._decoder.next_frame()) is not None:
            if frame.type == ServiceMessageType.SAMPLES:
                self._queue(self._ledger.on_samples(frame.payload, arrival_ns))
            elif (message := decode_service_payload(frame.type, frame.payload)) is not None:
                self._queue(self._ledger.on_message(message))
        self._write()
        return bool(data)

    def _queue(self, out: list[ServiceMessage]) -> None:
        for message in out:
            self._out += encode_service_message(message, self._sequence)
            self._sequence += 1

    def _write(self) -> None:
        if not self._out:
            return
        try:
            sent = self._link.send(self._out)
        except BlockingIOError:
            return
        except ConnectionError:
            sent = len(self._out)  # the worker is gone: recv will say so
        del self._out[:sent]

    def _tick(self, now_ns: int) -> None:
        if now_ns < self._health_due_ns:
            return
        self._health_due_ns = now_ns + HEALTH_INTERVAL_NS
        open_streams = len(self._ledger.streams)
        health = messages.Health(
            now_ns, now_ns, 0.1, open_streams, open_streams, self._max_streams, 320, 30_000,
            ("bench",),
        )  # fmt: skip
        self._queue([health])
        self._write()


def main() -> None:
    """Count, then save."""
    parser = argparse.ArgumentParser(description="The counting service of bench gateway.")
    parser.add_argument("--fd", type=int, required=True, help="the link's stream socket")
    parser.add_argument("--out", required=True, help="where to save what was counted (.npz)")
    parser.add_argument("--max-streams", type=int, default=65_536)
    options = parser.parse_args()
    ledger = Ledger()
    CountingService(socket.socket(fileno=options.fd), ledger, options.max_streams).run()
    ledger.save(options.out)


if __name__ == "__main__":
    main()
