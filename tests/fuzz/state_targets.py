"""Fuzz targets of what a stream leaves behind: checkpoints and flight records.

A stream that a checkpoint restores goes on, or the checkpoint is refused; a flight record that is
read is one that can be played again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gpu_service.checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.speech_events import NO_CUT_RULE, CutRule
from gpu_service.words import Hypothesis, Word
from protocol import service_messages as messages
from protocol.client_messages import Hello, MessageType, Stages, encode_payload
from protocol.flight_record import (
    FlightHead,
    FlightRecordError,
    Reason,
    RecognitionSettings,
    RecordedControl,
    RecordedEvent,
    decode_record,
    encode_head,
)
from tests.gpu_service.test_stream import CUTS, SILENCE, SPEECH, TURNS, Life
from tests.protocol.examples import CLIENT_MESSAGES, VAD

from .target import MEDIUM_BYTES, Script, Target

PATTERN = [SPEECH] * 6 + [SILENCE] * 20 + [0.375] * 4 + [SPEECH] * 80 + [SILENCE] * 40
_RULES = (NO_CUT_RULE, CUTS)
_OPTIONS = (TURNS, VadOptions(enabled=False, max_utterance_ms=1_000))


def run_checkpoint(data: bytes) -> None:
    """After a checkpoint that was taken, two seconds of audio and a close end the stream."""
    source = Script(data)
    life = _Restored(source.choice(_RULES), source.choice(_OPTIONS))
    first = source.byte()
    try:
        restore_checkpoint(life.stream, source.rest())
    except CheckpointError:
        return
    life.go_on(first % len(PATTERN))


class _Restored(Life):
    """A life whose probabilities go on from wherever the checkpoint says."""

    def __init__(self, cut_rule: CutRule, options: VadOptions) -> None:
        super().__init__([], options, cut_rule)

    def go_on(self, first: int) -> None:
        """Hear the pattern, a frame at a time; then the end."""
        start = self.stream.endpointer.next_frame
        for offset in range(64):
            end = (start + offset + 1) * FRAME_SAMPLES
            if end > self.stream.announced_sample:
                self.announce(end)
            self._hear(first + offset)
        end = max(self.stream.announced_sample, self.stream.endpointer.position_sample)
        self.stream.control(messages.Close(3, 7, end))
        self._hear(first)
        while self.recognize():
            self._hear(first)
        closed = [m for m in self.out if isinstance(m, messages.StreamClosed)]
        assert len(closed) == 1

    def recognize(self) -> bool:
        """What it says does not matter."""
        job = self.stream.next_job(0)
        if job is None:
            return False
        num_samples = job.feed_to - job.right_samples - job.utterance.start_sample
        hypothesis = Hypothesis((Word("w", 0, num_samples, 0.5),), "w", num_samples, True)
        self.out += self.stream.job_done(job, hypothesis, Stages())
        self.out += self.stream.settle()
        return True

    def _hear(self, at: int) -> None:
        count = self.stream.frames_to_hear()
        heard = [PATTERN[(at + n) % len(PATTERN)] for n in range(min(count, 1_000))]
        self.out += self.stream.hear(heard)
        self.out += self.stream.run_controls()
        self.out += self.stream.settle()
        self.recognize()


def checkpoint_seeds() -> Iterator[bytes]:
    """In silence, in an open utterance, behind a cut, while a turn may end."""
    for rule, cut_rule in enumerate(_RULES):
        for option, options in enumerate(_OPTIONS):
            for frames in (3, 5, 20, 60, 90, 130):
                life = Life(PATTERN, options, cut_rule)
                for frame in range(1, frames + 1):
                    life.announce(frame * FRAME_SAMPLES)
                    life.run_dry()
                state = take_checkpoint(life.stream, b"vad").state
                yield bytes((rule, option, frames)) + state


def run_flight_record(data: bytes) -> None:
    """The head that is read is written the same way, and every event in it is a message."""
    with contextlib.suppress(FlightRecordError):
        record = decode_record(data)
        again = decode_record(encode_head(record.head) + bytes(record.pcm))
        assert encode_head(again.head) == encode_head(record.head)
        assert record.end_sample >= record.head.first_sample
        for _, message in record.events():
            assert encode_payload(message)


def flight_record_seeds() -> Iterator[bytes]:
    """A record with controls and events."""
    controls = (
        RecordedControl(at_sample=512, finalize_id=1),
        RecordedControl(at_sample=600, vad=VAD),
        RecordedControl(at_sample=612, close_reason="client"),
    )
    events = [RecordedEvent(n, m.TYPE, encode_payload(m)) for n, m in enumerate(_RECORDED)]
    head = FlightHead(
        reason=Reason.LAG, session_id="s", dialect="native", saved_ns=9, saved_wall_ns=10,
        hello=Hello(), vad=VAD, first_sample=512, num_samples=100, controls=controls,
        server=RecognitionSettings(
            model="m", hop_ms=320, guard_ms=300, window_s=15, hotword_weight=3.0,
            max_utterance_ms=30_000,
        ),
        events=tuple(events),
    )  # fmt: skip
    yield encode_head(head) + bytes(200)


_RECORDED = tuple(CLIENT_MESSAGES[type_] for type_ in (MessageType.PARTIAL, MessageType.FINAL))

TARGETS = (
    Target("checkpoint", run_checkpoint, checkpoint_seeds, MEDIUM_BYTES),
    Target("flight_record", run_flight_record, flight_record_seeds),
)
