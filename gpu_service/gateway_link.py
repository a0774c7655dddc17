"""The service's end of one worker's control socket: frames in, messages out, never blocking.

Shell only. It decodes frames into messages and keeps what the socket does not take yet, up to
MAX_OUT_BYTES: a worker that stops reading its results is given up, because buffering them without
end would only hide it. It knows no stream; service.py routes by (slot, generation).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from protocol.errors import EarwireError, RemoteProtocolError
from protocol.framing import SEQUENCE_MASK, SERVICE_MAGIC, FrameDecoder
from protocol.ring import MAX_STEP_COUNT, ArenaLayout, Ring
from protocol.service_messages import (
    SamplesRecord,
    ServiceMessage,
    ServiceMessageType,
    decode_samples,
    decode_service_payload,
    encode_service_message,
)
from protocol.shm import map_arena

READ_BYTES = 256 * 1024
MAX_OUT_BYTES = 8 * 1024 * 1024


class LinkLostError(EarwireError):
    """The worker is gone, does not read, or sent nonsense; its streams end here."""


class GatewayLink:
    """One worker: its socket, its arena, what is queued for it."""

    def __init__(self, peer: int, epoch: int, connection: socket.socket, arena_fd: int) -> None:
        self.peer = peer
        self.epoch = epoch
        self._socket = connection
        self._socket.setblocking(False)
        self._layout: ArenaLayout
        self._layout, self._view = map_arena(arena_fd)
        self._step_counts = self._layout.step_counts(self._view)
        self._decoder = FrameDecoder(SERVICE_MAGIC)
        self._out = bytearray()
        self._next_sequence = 0

    def fileno(self) -> int:
        """For the poller."""
        return self._socket.fileno()

    @property
    def num_slots(self) -> int:
        """Slots of the worker's arena."""
        return self._layout.num_slots

    @property
    def arena(self) -> memoryview:
        """All of the worker's rings."""
        return self._view

    @property
    def wants_write(self) -> bool:
        """True while the socket has not taken everything."""
        return bool(self._out)

    def ring(self, slot: int) -> Ring:
        """The samples of a slot, in place."""
        return self._layout.ring(self._view, slot)

    def step_begins(self, slot: int) -> None:
        """A recognition step with this slot's stream begins; its count is odd from here on."""
        self._step_counts[slot] |= 1

    def step_ended(self, slot: int) -> None:
        """None runs with this slot's stream, also if a service died in one."""
        count = self._step_counts[slot]
        self._step_counts[slot] = (count + (count & 1)) & MAX_STEP_COUNT

    def receive(self) -> Iterator[ServiceMessage | SamplesRecord]:
        """Read once and yield what is complete. Raises LinkLostError."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLostError(str(error)) from error
        if not data:
            raise LinkLostError("the worker closed its link")
        self._decoder.receive_data(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                if frame.type == ServiceMessageType.SAMPLES:
                    yield from decode_samples(frame.payload)
                elif (message := decode_service_payload(frame.type, frame.payload)) is not None:
                    yield message
        except RemoteProtocolError as error:
            raise LinkLostError(str(error)) from error

    def send(self, message: ServiceMessage) -> None:
        """Queue a message; `flush` writes. Raises LinkLostError when too much is queued."""
        self._out += encode_service_message(message, self._next_sequence)
        self._next_sequence = (self._next_sequence + 1) & SEQUENCE_MASK
        if len(self._out) > MAX_OUT_BYTES:
            raise LinkLostError(f"the worker left {len(self._out)} bytes of results unread")

    def flush(self) -> None:
        """Write what the socket takes. Raises LinkLostError."""
        if not self._out:
            return
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkLostError(str(error)) from error
        del self._out[:sent]

    def close(self) -> None:
        """Close the socket; the mapping goes with the last reference to the arena."""
        self._socket.close()
