"""A recognition service that recognises nothing: the other end of a link, for gateway tests.

It speaks protocol/service_messages for real, over a socket, and holds the gateway to the
contracts: records are contiguous, finalize and close come exactly where the audio ends, ring
contents are what was sent. `step` does what is there to do and returns; no thread, no sleep.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from protocol.errors import ErrorCode
from protocol.framing import SERVICE_MAGIC, Frame, FrameDecoder
from protocol.ring import ArenaLayout
from protocol.service_messages import (
    Checkpoint,
    Close,
    Configure,
    Credit,
    Final,
    Finalize,
    Health,
    Leave,
    Left,
    Open,
    Partial,
    SamplesRecord,
    ServiceMessage,
    ServiceMessageType,
    StreamClosed,
    StreamError,
    decode_samples,
    decode_service_payload,
    encode_service_message,
)


@dataclass
class CountedStream:
    """One stream as the service sees it."""

    open: Open
    samples: int = 0
    pcm: bytearray = field(default_factory=bytearray)
    configured: list[Configure] = field(default_factory=list)
    finalized: list[Finalize] = field(default_factory=list)
    closed: Close | None = None


class CountingService:
    """See the module text. `auto_credit` releases audio as it comes."""

    def __init__(
        self,
        sock: socket.socket,
        arena: memoryview,
        *,
        max_streams: int = 8,
        now_ns: int = 1,
        languages: tuple[str, ...] = (),
        model: str = "tiny.en",
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.layout = ArenaLayout.from_header(arena)
        self.arena = arena
        self.max_streams = max_streams
        self.languages = languages
        self.model = model
        self.auto_credit = True
        self.auto_close = True
        self.streams: dict[tuple[int, int], CountedStream] = {}
        self.all_streams: list[CountedStream] = []
        self.sample_frames = 0
        self.records: list[SamplesRecord] = []
        self._decoder = FrameDecoder(SERVICE_MAGIC)
        self._sequence = 0
        self.health(now_ns)

    def health(self, now_ns: int) -> None:
        """A report: all is well."""
        num_open = len(self.streams)
        self.send(
            Health(
                now_ns, now_ns, 1.0, num_open, num_open, self.max_streams, 320, 30_000,
                (self.model,), self.languages,
            )
        )  # fmt: skip

    def send(self, message: ServiceMessage) -> None:
        """One message to the gateway."""
        self.sock.sendall(encode_service_message(message, self._sequence))
        self._sequence += 1

    def step(self) -> int:
        """Read once and handle what came; returns the number of frames."""
        try:
            self._decoder.receive_data(self.sock.recv(1 << 20))
        except BlockingIOError:
            return 0
        num_frames = 0
        while (frame := self._decoder.next_frame()) is not None:
            num_frames += 1
            self._handle(frame)
        return num_frames

    def _handle(self, frame: Frame) -> None:
        if frame.type == ServiceMessageType.SAMPLES:
            self.sample_frames += 1
            for record in decode_samples(frame.payload):
                self._take(record)
            return
        message = decode_service_payload(frame.type, frame.payload)
        if isinstance(message, Open):
            stream = CountedStream(message, message.first_sample)
            self.streams[message.slot, message.generation] = stream
            self.all_streams.append(stream)
            return
        if isinstance(message, Leave):  # at once, as one without any utterance
            key = message.slot, message.generation
            self.send(Checkpoint(*key, 1, self.streams.pop(key).samples, b""))
            self.send(Left(*key))
            return
        assert isinstance(message, Finalize | Close | Configure)
        stream = self.streams[message.slot, message.generation]
        assert message.at_sample == stream.samples, "a control overtook or followed its audio"
        if isinstance(message, Configure):
            stream.configured.append(message)
        elif isinstance(message, Finalize):
            stream.finalized.append(message)
            self.final(stream, finalize_id=message.finalize_id)
        else:
            stream.closed = message
            if self.auto_close:
                self.close(stream)

    def _take(self, record: SamplesRecord) -> None:
        stream = self.streams[record.slot, record.generation]
        assert record.first_sample == stream.samples, "records are not contiguous"
        assert record.num_samples > 0
        ring = self.layout.ring(self.arena, record.slot)
        stream.pcm += ring.read(record.first_sample, record.num_samples)
        stream.samples += record.num_samples
        self.records.append(record)
        if self.auto_credit:
            self.credit(stream)

    def credit(self, stream: CountedStream) -> None:
        """Release everything announced so far."""
        self.send(Credit(stream.open.slot, stream.open.generation, stream.samples, stream.samples))

    def final(self, stream: CountedStream, finalize_id: int | None = None) -> None:
        """A final over everything so far, whose text is the sample count."""
        self.send(
            Final(
                stream.open.slot, stream.open.generation, stream.samples, 1, 0, stream.samples,
                f"{stream.samples} samples", finalize_id=finalize_id,
            )
        )  # fmt: skip

    def partial(self, stream: CountedStream, text: str) -> None:
        """A draft."""
        self.send(
            Partial(
                stream.open.slot, stream.open.generation, stream.samples, 1, 0, stream.samples,
                "", text,
            )
        )  # fmt: skip

    def close(self, stream: CountedStream) -> None:
        """The last message of a stream; its slot may be used again."""
        key = stream.open.slot, stream.open.generation
        del self.streams[key]
        self.send(StreamClosed(*key, stream.samples))

    def fail(self, stream: CountedStream) -> None:
        """An error of this stream alone, then its end."""
        slot, generation = stream.open.slot, stream.open.generation
        self.send(StreamError(slot, generation, ErrorCode.INTERNAL, "engine trouble"))
