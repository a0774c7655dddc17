"""A recognition service in memory, for tests of what happens when one dies: the real streams and
endpointers, and a recognizer whose words are a checksum of what it read in the ring.

Its probabilities of speech are the samples themselves, so that audio which was overwritten or
announced in the wrong place changes what it says. Nothing happens but in `turn`; what it says
waits in `outbox` until somebody passes it on, and dies with it if nobody does.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from dataclasses import dataclass, field

from gateway.stream import Control, Stream
from gpu_service import stream as service_stream
from gpu_service.checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from gpu_service.config import ServiceConfig
from gpu_service.endpointer import FRAME_SAMPLES
from gpu_service.session import new_stream
from gpu_service.speech_events import CutRule
from gpu_service.utterance import Job
from gpu_service.words import Hypothesis, Word
from protocol.client_messages import Stages
from protocol.errors import ErrorCode
from protocol.ring import ArenaLayout, Ring
from protocol.service_messages import (
    Leave,
    Left,
    Open,
    SamplesRecord,
    StreamClosed,
    StreamError,
    StreamMessage,
)

CONFIG = ServiceConfig(index=0, control_fd=-1, max_utterance_ms=2_000, hop_ms=64, guard_ms=0)
CUTS = CutRule(grid_samples=1_280, right_samples=6_400, left_samples=12_800)
LOUDEST = 1_000  # the sample value of certain speech


@dataclass(eq=False)
class Seat:
    """One stream and the recognizer's memory of its open utterance."""

    stream: service_stream.Stream
    ring: Ring
    fed: bytearray = field(default_factory=bytearray)
    num_pieces: int = 0  # drafts so far: what a draft says depends on it, as it does for real


class MemoryService:
    """See the module text; it is a router.Link as well."""

    def __init__(
        self,
        layout: ArenaLayout,
        arena: memoryview,
        index: int = 0,
        *,
        cuts: bool = False,
        model: str = "m",
    ) -> None:
        self.index = index
        self.dirty: list[Stream] = []
        self.queued_bytes = 0
        self.outbox: deque[StreamMessage] = deque()
        self.opened: list[Open] = []
        self._layout = layout
        self._arena = arena
        self._step_counts = layout.step_counts(arena)
        self._cut_rule = CUTS if cuts else CutRule()
        self._model = model  # whose state its checkpoints carry over cuts
        self._seats: dict[int, Seat] = {}

    # What the router calls

    def send(self, message: Open | Control | Leave) -> None:
        self.flush()
        if isinstance(message, Open):
            self._open(message)
            return
        seat = self._seats.get(message.slot)
        if seat is None:
            return  # refused
        if isinstance(message, Leave):
            seat.stream.leave(message.at_once)
            return
        assert message.generation == seat.stream.generation
        assert message.at_sample == seat.stream.announced_sample, "not in its place"
        seat.stream.control(message)

    def announce(self, record: SamplesRecord) -> None:
        assert record.num_samples > 0
        if record.slot not in self._seats:
            return  # refused
        stream = self._seats[record.slot].stream
        assert record.first_sample == stream.announced_sample, "a gap, or twice"
        stream.announce(*record[2:])

    def enqueue_ns(self, receive_ns: int) -> int:
        return receive_ns

    def flush(self) -> None:
        """Announce what streams wrote."""
        dirty, self.dirty = self.dirty, []
        for stream in dirty:
            self.announce(stream.take_record())

    # What it does

    def turn(self, max_frames: int = 64, *, decode: bool = True) -> None:
        """Listen to some frames of every stream, decode at most one job of each."""
        self.flush()
        for seat in tuple(self._seats.values()):
            self._listen(seat, max_frames)
            self._settle(seat)
            if decode and self._seats.get(seat.stream.slot) is seat:  # it may have left
                self._decode(seat)
                self._settle(seat)

    def turn_of(self, slot: int) -> None:
        """Listen to one stream and decode a job of it."""
        self.flush()
        seat = self._seats[slot]
        self._listen(seat, 64)
        self._settle(seat)
        self._decode(seat)

    def begin_step(self, slot: int) -> None:
        """A step with this stream begins, and it will die in it."""
        self._step_counts[slot] |= 1

    def rest(self) -> None:
        """Turn until nothing moves."""
        before = -1
        while (now := self._progress()) != before:
            before = now
            self.turn()

    def _progress(self) -> int:
        return len(self.outbox) + sum(s.stream.endpointer.next_frame for s in self._seats.values())

    def _open(self, message: Open) -> None:
        self.opened.append(message)
        stream = new_stream(message, CONFIG, self._cut_rule, self._model)
        if message.checkpoint:
            try:
                restore_checkpoint(stream, message.checkpoint)
            except CheckpointError as error:
                key = message.slot, message.generation
                self.outbox.append(StreamError(*key, ErrorCode.SERVICE_LOST, str(error)))
                self.outbox.append(StreamClosed(*key, 0))
                return
        assert stream.announced_sample >= message.first_sample
        stream.announced_sample = message.first_sample  # another model needs no context
        self._seats[message.slot] = Seat(stream, self._layout.ring(self._arena, message.slot))
        self._step_counts[message.slot] += self._step_counts[message.slot] & 1

    def _listen(self, seat: Seat, max_frames: int) -> None:
        stream = seat.stream
        count = min(stream.frames_to_hear(), max_frames)
        if count:
            self.outbox.extend(stream.hear(self._probabilities(seat, count)))
        while stream.has_due_control:
            self.outbox.extend(stream.run_controls())
            self.outbox.extend(stream.settle())

    def _probabilities(self, seat: Seat, count: int) -> list[float]:
        if not seat.stream.options.enabled:
            return [1.0] * count
        first = seat.stream.endpointer.next_frame * FRAME_SAMPLES
        samples = array("h", seat.ring.read(first, count * FRAME_SAMPLES))
        loudness = (abs(samples[i]) / LOUDEST for i in range(0, len(samples), FRAME_SAMPLES))
        return array("f", loudness).tolist()  # as checkpoints keep them

    def _decode(self, seat: Seat) -> None:
        job = seat.stream.next_job(0)
        if job is None:
            return
        slot = seat.stream.slot
        self._step_counts[slot] += 1
        self.outbox.extend(seat.stream.job_done(job, _hypothesis(seat, job), Stages()))
        self._step_counts[slot] += 1

    def _settle(self, seat: Seat) -> None:
        stream = seat.stream
        self.outbox.extend(stream.settle())
        may_leave = stream.may_leave
        if (stream.take_committed() and stream.can_checkpoint) or may_leave:
            checkpoint = take_checkpoint(stream, b"")
            stream.checkpoint_sample = checkpoint.sample
            self.outbox.append(checkpoint)
        if may_leave:
            self.outbox.append(Left(stream.slot, stream.generation))
            self._seats.pop(stream.slot)
            return
        credit = stream.credit()
        if credit is not None:
            self.outbox.append(credit)
        if stream.closed:
            self._seats.pop(stream.slot, None)


def _hypothesis(seat: Seat, job: Job) -> Hypothesis:
    """What a recognizer would say that hears every sample."""
    utterance = job.utterance
    if job.restart or job.feed_from == utterance.context_sample:
        seat.fed.clear()
    seat.fed += seat.ring.read(job.feed_from, job.feed_to - job.feed_from)
    num_samples = job.feed_to - job.right_samples - utterance.start_sample
    heard = zlib.crc32(bytes(seat.fed) + utterance.carry)
    if job.kind == "final":
        carry = b"%d" % heard if job.right_samples else b""
        seat.fed.clear()
        seat.num_pieces = 0
        text = f"u{utterance.number} {heard:08x}"
        words = (Word(text, 0, num_samples, 0.9),)
        return Hypothesis(words, text, num_samples, True, carry=carry)
    seat.num_pieces += 1
    texts = [f"u{utterance.number}", *(f"d{i}" for i in range(seat.num_pieces))]
    drafted = tuple(Word(text, 0, num_samples // 2, 0.9) for text in texts)
    return Hypothesis(drafted, " ".join(texts), num_samples, False)
