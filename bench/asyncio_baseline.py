"""The baseline of `bench gateway`: a plain asyncio + websockets server doing the gateway's job.

What one would write first: a coroutine a connection, `async for message in websocket`, JSON and
base64 for Together's dialect, PCM appended to a buffer a session, and the same SAMPLES records to
the same counting service. It is given what helps it: no compression, no keepalive pings, one
announcement per loop turn instead of one a message. It does less than the gateway: no resampling,
no backpressure, no credits, no time-outs.

Its receive time is taken when the message reaches the handler, behind websockets' own parsing and
queue, so compare it with the gateway from the *send* time.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import json
import socket
import time
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from protocol import service_messages as messages
from protocol.audio import RING_RATE_HZ, RING_SAMPLE_BYTES
from protocol.service_messages import SamplesRecord, encode_samples, encode_service_message

KEEP_BYTES = RING_RATE_HZ * RING_SAMPLE_BYTES  # one second, as the gateway's ring in this bench


@dataclass(slots=True)
class Session:
    """One connection's audio."""

    slot: int
    received: int = 0  # samples
    buffer: bytearray = field(default_factory=bytearray)


class Baseline:
    """All sessions and the link to the counting service."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._sequence = 0
        self._next_slot = 0
        self._dirty: dict[int, SamplesRecord] = {}

    async def handle(self, websocket: ServerConnection) -> None:
        """One connection from its handshake to its end."""
        session = Session(self._next_slot)
        self._next_slot += 1
        session_id = f"b{session.slot}"
        self._send(messages.Open(session.slot, 1, session_id))
        created = {"type": "session.created", "session": {"id": session_id}}
        with contextlib.suppress(ConnectionClosed):
            await websocket.send(json.dumps(created))
            async for message in websocket:
                self._take(session, message)
        self._flush()
        self._send(messages.Close(session.slot, 1, session.received, "client"))

    def _take(self, session: Session, message: str | bytes) -> None:
        if isinstance(message, str):
            event = json.loads(message)
            if event["type"] != "input_audio_buffer.append":
                return
            message = base64.b64decode(event["audio"])
        session.buffer += message
        if len(session.buffer) > KEEP_BYTES:
            del session.buffer[: len(session.buffer) - KEEP_BYTES]
        num_samples = len(message) // RING_SAMPLE_BYTES
        self._announce(session.slot, session.received, num_samples)
        session.received += num_samples

    def _announce(self, slot: int, first: int, num_samples: int) -> None:
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        waiting = self._dirty.get(slot)
        if waiting is not None:
            first, num_samples = waiting.first_sample, waiting.num_samples + num_samples
        self._dirty[slot] = SamplesRecord(slot, 1, first, num_samples, time.monotonic_ns())

    def _flush(self) -> None:
        if self._dirty:
            records, self._dirty = self._dirty, {}
            self._writer.write(encode_samples(records.values(), self._take_sequence()))

    def _send(self, message: messages.ServiceMessage) -> None:
        self._writer.write(encode_service_message(message, self._take_sequence()))

    def _take_sequence(self) -> int:
        sequence = self._sequence
        self._sequence += 1
        return sequence


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def run(link: socket.socket, port_holder: socket.socket) -> None:
    """Serve until the parent closes stdin, which kills this process."""
    reader, writer = await asyncio.open_unix_connection(sock=link)
    discarding = asyncio.create_task(_discard(reader))
    baseline = Baseline(writer)
    async with serve(
        baseline.handle, sock=port_holder, compression=None, ping_interval=None, backlog=4096
    ):
        print("ready", flush=True)
        gc.collect()
        gc.freeze()
        await discarding


def main() -> None:
    """Inherits the link and a bound TCP socket."""
    parser = argparse.ArgumentParser(description="The asyncio baseline of bench gateway.")
    parser.add_argument("--link-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    options = parser.parse_args()
    listener = socket.socket(fileno=options.listen_fd)
    asyncio.run(run(socket.socket(fileno=options.link_fd), listener))


if __name__ == "__main__":
    main()
