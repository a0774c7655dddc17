"""One link to one recognition service: a non-blocking Unix stream socket and its buffers.

Shell. It announces what streams wrote in one SAMPLES frame a loop turn, keeps the order contract
(any other message goes behind all samples written before it), and passes decoded messages on. It
decides nothing about streams: the router does. The worker makes one per service and calls `flush`
before every sleep.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from protocol.errors import RemoteProtocolError
from protocol.framing import SEQUENCE_MASK, SERVICE_MAGIC, FrameDecoder
from protocol.service_messages import (
    MAX_SAMPLES_RECORDS,
    Close,
    Configure,
    Finalize,
    Health,
    Leave,
    Open,
    SamplesRecord,
    StreamMessage,
    decode_service_payload,
    encode_samples,
    encode_service_message,
)

from .event_loop import EventLoop
from .stream import Stream

RECEIVE_BYTES = 256 * 1024  # taken from the socket a turn
# While this much waits, samples are not announced: their records then merge in the streams, so
# that a stalled service costs no memory here; the rings fill and the clients are slowed down.
HOLD_SAMPLES_ABOVE_BYTES = 64 * 1024
MAX_OUT_BYTES = 4 * 1024 * 1024  # a service that lets this much wait is as good as dead
MAX_ENQUEUE_TIMES = 4_096  # loop turns whose announcement time is remembered


class ServiceLink:
    """See the module text. `index` is the service's, `epoch` counts its restarts."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        index: int,
        epoch: int,
        on_health: Callable[[ServiceLink, Health], None],
        on_message: Callable[[ServiceLink, StreamMessage], None],
        on_lost: Callable[[ServiceLink, str], None],
    ) -> None:
        self.index = index
        self.epoch = epoch
        self.dirty: list[Stream] = []  # streams with samples to announce; a stream once at most
        self._loop = loop
        self._sock = sock
        self._on_health = on_health
        self._on_message = on_message
        self._on_lost = on_lost
        self._decoder = FrameDecoder(SERVICE_MAGIC)
        self._out = bytearray()
        self._next_sequence = 0
        self._is_lost = False
        self._receive_buffer = bytearray(RECEIVE_BYTES)
        self._receive_view = memoryview(self._receive_buffer)
        self._enqueue_times: dict[int, int] = {}  # receive_ns -> enqueue_ns, oldest first
        sock.setblocking(False)
        loop.register(sock.fileno(), self._on_readable, self.flush)

    @property
    def queued_bytes(self) -> int:
        """What the service has not taken yet."""
        return len(self._out)

    # Sending

    def send(self, message: Open | Finalize | Close | Configure | Leave) -> None:
        """Queue a message behind all samples written so far."""
        if self._is_lost:
            return
        self._announce()
        self._out += encode_service_message(message, self._take_sequence())

    def announce(self, record: SamplesRecord) -> None:
        """Queue the announcement of one stream's samples, before its next control."""
        if not self._is_lost:
            self._out += encode_samples([record], self._take_sequence())

    def flush(self) -> None:
        """Announce and write what the socket takes; called before every sleep."""
        if self._is_lost:
            return
        if self.dirty and len(self._out) <= HOLD_SAMPLES_ABOVE_BYTES:
            self._announce()
        if self._out:
            self._write()

    def enqueue_ns(self, receive_ns: int) -> int:
        """When audio received at `receive_ns` was announced; 0 when that is forgotten."""
        return self._enqueue_times.get(receive_ns, 0)

    def _announce(self) -> None:
        dirty, self.dirty = self.dirty, []
        for start in range(0, len(dirty), MAX_SAMPLES_RECORDS):
            records = [
                stream.take_record() for stream in dirty[start : start + MAX_SAMPLES_RECORDS]
            ]
            self._out += encode_samples(records, self._take_sequence())
        if dirty:
            times = self._enqueue_times
            times[dirty[-1].receive_ns] = self._loop.read_clock()
            if len(times) > MAX_ENQUEUE_TIMES:
                del times[next(iter(times))]

    def _take_sequence(self) -> int:
        sequence = self._next_sequence
        self._next_sequence = (sequence + 1) & SEQUENCE_MASK
        return sequence

    def _write(self) -> None:
        # SYNC POINT: this send publishes the ring bytes written before it; the service's recv of
        # the frame observes them. Both are system calls, which order memory on both sides.
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(f"write: {error.strerror}")
            return
        del self._out[:sent]
        if len(self._out) > MAX_OUT_BYTES:
            self._lose(f"{len(self._out)} bytes wait for it")
            return
        self._loop.modify(self._sock.fileno(), read=True, write=bool(self._out))

    # Receiving

    def _on_readable(self) -> None:
        try:
            received = self._sock.recv_into(self._receive_view)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f"read: {error.strerror}")
            return
        if not received:
            self._lose("it closed the link")
            return
        self._decoder.receive_data(self._receive_view[:received])
        try:
            self._deliver_all()
        except RemoteProtocolError as error:
            self._lose(str(error))

    def _deliver_all(self) -> None:
        while not self._is_lost and (frame := self._decoder.next_frame()) is not None:
            message = decode_service_payload(frame.type, frame.payload)
            if isinstance(message, Health):
                self._on_health(self, message)
            elif message is not None and not isinstance(
                message, Open | Finalize | Close | Configure | Leave
            ):
                self._on_message(self, message)

    def close(self) -> None:
        """Let go of the socket; nothing is sent or received any more."""
        if not self._is_lost:
            self._is_lost = True
            self._loop.unregister(self._sock.fileno())
            self._sock.close()

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self.close()
            self._on_lost(self, reason)
