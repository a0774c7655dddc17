"""Endpointer: where utterances begin and end, from one speech probability per 32 ms frame.

Pure, one object per stream. Frame k is samples [512 k, 512 k + 512) of the stream, whatever the
chunks it came in. Every decision depends on the probabilities and their positions alone, so the
same audio gives the same utterances at any pace (docs/ARCHITECTURE.md, determinism). The events
tile the stream: each sample lies in one utterance or in one NonSpeech, without gap or overlap.
Utterances follow each other in a turn until a silence outlasts its patience, which is counted from
the last speech frame; a sound that may yet be speech is waited for.

It knows no audio, no model, no clock. The service feeds it from vad.py, and feeds the recognizer
from its events. Where threshold and hysteresis come from: Silero's get_speech_timestamps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from .speech_events import NO_CUT_RULE
from .speech_events import SAMPLES_PER_MS as SAMPLES_PER_MS
from .speech_events import CandidateEnd as CandidateEnd
from .speech_events import Cut as Cut
from .speech_events import CutRule as CutRule
from .speech_events import EndOfTurn as EndOfTurn
from .speech_events import Event as Event
from .speech_events import NonSpeech as NonSpeech
from .speech_events import SpeechResumed as SpeechResumed
from .speech_events import SpeechStarted as SpeechStarted
from .speech_events import SpeechStopped as SpeechStopped
from .speech_events import VadOptions as VadOptions

FRAME_SAMPLES = 512  # 32 ms at 16 kHz: the frame of Silero's model
NON_SPEECH_REPORT_SAMPLES = 10_000 * SAMPLES_PER_MS  # long silence is reported in such pieces
CUT_WINDOW_FRAMES = 9  # a gap's depth: its probabilities over 288 ms under a triangle


class State(Enum):
    """Where the endpointer is."""

    SILENCE = "silence"
    PENDING = "pending"  # speech frames, too few of them to be an utterance yet
    SPEECH = "speech"


@dataclass(slots=True)
class PresentUtterance:
    """The open (or pending) utterance."""

    start_sample: int
    onset_sample: int
    num_speech_frames: int = 0
    pause_sample: int | None = None  # where the pause began that lasts now
    has_candidate: bool = False  # a CandidateEnd stands for this pause


@dataclass(frozen=True, slots=True)
class PresentTurn:
    """A turn that ends unless somebody speaks soon."""

    quiet_sample: int  # where its last speech ended: patience counts from here
    end_sample: int  # where its last utterance ended, padding included


@dataclass(slots=True)
class Endpointer:
    """The state machine of one stream: push() a probability per frame, collect the events.

    Memory is bounded by the probabilities of two longest utterances.
    """

    options: VadOptions
    cut_rule: CutRule = NO_CUT_RULE
    next_frame: int = 0  # the frame that push() expects
    state: State = State.SILENCE
    tiled_sample: int = 0  # everything before it lies in a reported interval
    utterance: PresentUtterance = field(default_factory=lambda: PresentUtterance(0, 0))
    turn: PresentTurn | None = None
    probabilities: list[float] = field(default_factory=list)  # the last ones, up to now
    _events: list[Event] = field(default_factory=list)

    @property
    def position_sample(self) -> int:
        """The end of the frames seen so far."""
        return self.next_frame * FRAME_SAMPLES

    @property
    def utterance_start(self) -> int | None:
        """The first sample of the open utterance, None where none is announced."""
        return self.utterance.start_sample if self.state is State.SPEECH else None

    def released_sample(self) -> int:
        """The earliest sample that a later event can still name."""
        if self.state is not State.SILENCE:
            return self.utterance.start_sample
        pad = self.options.speech_pad_ms * SAMPLES_PER_MS
        return max(self.tiled_sample, self.position_sample - pad)

    def safe_sample(self) -> int:
        """The end of what a recognizer may hear of the open utterance: the frames seen, but no
        more of a pause than its padding. A SpeechStopped never lies before it; a Cut may.
        """
        position = self.position_sample
        return (
            position if self.state is State.SILENCE else min(position, self._padded_end(position))
        )

    @property
    def is_too_long(self) -> bool:
        """More was heard of the open utterance than may be, by a model that hears more: the next
        frame or finalize() cuts it."""
        if self.state is State.SILENCE:
            return False
        return self.safe_sample() - self.utterance.start_sample > self._max_samples

    def push_all(self, probabilities: Iterable[float]) -> list[Event]:
        """push() for several frames."""
        return [event for probability in probabilities for event in self.push(probability)]

    def push(self, probability: float) -> list[Event]:
        """Take the speech probability (0..1) of the next frame; return what it decides."""
        frame_start = self.next_frame * FRAME_SAMPLES
        self.next_frame += 1
        self._remember(probability)
        if probability >= self.options.threshold or not self.options.enabled:
            self._on_speech_frame(frame_start)
        elif self.state is not State.SILENCE:
            self._on_low_frame(frame_start, probability)
        if self.state is not State.SILENCE:
            self._limit_utterance()
        if self.state is State.SILENCE:
            if self.turn is not None:
                self._await_end_of_turn(self.turn)
            self._report_long_silence()
        return self._take_events() if self._events else []

    def finalize(self, at_sample: int) -> list[Event]:
        """End everything at `at_sample`, inside the next frame: an open utterance, or a pending
        one however short, stops there or at the end of its padding; the rest is NonSpeech.
        The frame grid stays, and what follows begins at `at_sample`.

        Raises ValueError unless 0 <= at_sample - position_sample < FRAME_SAMPLES: push the whole
        frames first.
        """
        if not 0 <= at_sample - self.position_sample < FRAME_SAMPLES:
            raise ValueError(f"finalize at {at_sample} with frames up to {self.position_sample}")
        unheard = self.state is State.SILENCE and at_sample > self.tiled_sample
        if unheard and not self.options.enabled:
            self._open_utterance(self.tiled_sample, self.tiled_sample)
        if self.state is not State.SILENCE:
            self._announce()
            self._limit_utterance()  # it may have begun with a model that hears more
        if self.state is not State.SILENCE:
            self._stop(min(at_sample, self._padded_end(at_sample)))
        self._report_non_speech(at_sample)
        return self._take_events()

    # -- one frame -------------------------------------------------------------------------

    def _on_speech_frame(self, frame_start: int) -> None:
        if self.state is State.SILENCE:
            self._open_utterance(self._padded_start(frame_start), frame_start)
        utterance = self.utterance
        if utterance.has_candidate:
            self._events.append(SpeechResumed(frame_start))
        utterance.pause_sample = None
        utterance.has_candidate = False
        utterance.num_speech_frames += 1
        if self.state is State.PENDING:
            speech_samples = utterance.num_speech_frames * FRAME_SAMPLES
            enough_samples = self.options.min_speech_ms * SAMPLES_PER_MS
            if speech_samples >= enough_samples or not self.options.enabled:
                self._announce()

    def _on_low_frame(self, frame_start: int, probability: float) -> None:
        utterance = self.utterance
        if utterance.pause_sample is None:
            if probability >= self.options.low_threshold:
                return  # hysteresis: between the thresholds speech goes on
            utterance.pause_sample = frame_start
        silence = self.position_sample - utterance.pause_sample
        end = self._padded_end(self.position_sample)
        is_known = self.state is State.SPEECH and end <= self.position_sample
        if is_known and not utterance.has_candidate:
            utterance.has_candidate = True
            self._events.append(CandidateEnd(end))
        if silence < self.options.min_silence_ms * SAMPLES_PER_MS:
            return
        if self.state is State.PENDING:
            self.state = State.SILENCE  # too short to be speech: it stays in the non-speech
        else:
            self._stop(end)

    def _limit_utterance(self) -> None:
        """Cut the present utterance before the next frame could make it too long.

        A model that wants audio behind a cut gets it: the utterance is heard so much longer, and
        one that ends within it is not cut at all.
        """
        max_samples = self._max_samples
        utterance = self.utterance
        if self.position_sample + FRAME_SAMPLES - utterance.start_sample <= max_samples:
            return
        self._announce()
        end = self._padded_end(self.position_sample)
        if utterance.has_candidate and end - utterance.start_sample <= max_samples:
            self._stop(end)
            return
        half = self.options.max_utterance_ms * SAMPLES_PER_MS // 2
        cut = self._on_grid(self._best_gap(utterance.start_sample + half))
        self._events.append(Cut(cut, self.position_sample))
        self.tiled_sample = cut
        if utterance.pause_sample is not None and not self._has_speech_after(cut):
            self._fall_silent(cut)
            return
        self.utterance = PresentUtterance(cut, cut, pause_sample=utterance.pause_sample)
        self._events.append(SpeechStarted(cut, cut, continues=True))

    def _await_end_of_turn(self, turn: PresentTurn) -> None:
        """End the turn when its patience is over; forget it when nobody asks for turns."""
        patience_ms = self.options.end_of_turn_ms
        if patience_ms is None:
            self.turn = None
        elif self.position_sample - turn.quiet_sample >= patience_ms * SAMPLES_PER_MS:
            self.turn = None
            self._events.append(EndOfTurn(turn.end_sample))

    def _report_long_silence(self) -> None:
        known = self.position_sample - self.options.speech_pad_ms * SAMPLES_PER_MS
        if known - self.tiled_sample >= NON_SPEECH_REPORT_SAMPLES:
            self._report_non_speech(known)

    # -- small moves -----------------------------------------------------------------------

    def _open_utterance(self, start_sample: int, onset_sample: int) -> None:
        self.state = State.PENDING
        self.utterance = PresentUtterance(start_sample, onset_sample)

    def _announce(self) -> None:
        """Turn a pending utterance into an open one."""
        if self.state is State.PENDING:
            self.state = State.SPEECH
            self.turn = None  # somebody speaks again
            self._report_non_speech(self.utterance.start_sample)
            self._events.append(
                SpeechStarted(self.utterance.start_sample, self.utterance.onset_sample)
            )

    def _stop(self, end_sample: int) -> None:
        self._events.append(SpeechStopped(end_sample))
        self.tiled_sample = end_sample
        self._fall_silent(end_sample)

    def _fall_silent(self, end_sample: int) -> None:
        """The utterance ended; unless all sound is taken for speech, so may the turn."""
        self.state = State.SILENCE
        if self.options.enabled:
            pause = self.utterance.pause_sample
            self.turn = PresentTurn(end_sample if pause is None else pause, end_sample)

    def _report_non_speech(self, end_sample: int) -> None:
        if end_sample > self.tiled_sample:
            self._events.append(NonSpeech(self.tiled_sample, end_sample))
            self.tiled_sample = end_sample

    def _padded_start(self, onset_sample: int) -> int:
        if not self.options.enabled:
            return self.tiled_sample
        return max(self.tiled_sample, onset_sample - self.options.speech_pad_ms * SAMPLES_PER_MS)

    def _padded_end(self, otherwise: int) -> int:
        """The end of the utterance if the present pause lasts, `otherwise` without a pause."""
        pause = self.utterance.pause_sample
        if pause is None:
            return otherwise
        return pause + self.options.speech_pad_ms * SAMPLES_PER_MS

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    @property
    def _max_samples(self) -> int:
        """What may be heard of one utterance."""
        return self.options.max_utterance_ms * SAMPLES_PER_MS + self.cut_rule.right_samples

    # -- the best gap ----------------------------------------------------------------------

    def _remember(self, probability: float) -> None:
        max_frames = -(-self._max_samples // FRAME_SAMPLES)
        self.probabilities.append(probability)
        if len(self.probabilities) > 2 * max_frames:
            del self.probabilities[:max_frames]

    def _best_gap(self, from_sample: int) -> int:
        """The middle of the frame around which speech is least likely, from `from_sample` on,
        with as much audio behind it as the cut rule wants.

        The triangle makes long gaps win and finds their middle; ties go to the later frame.
        """
        oldest_frame = self.next_frame - len(self.probabilities)
        half = CUT_WINDOW_FRAMES // 2
        behind = max(half, math.ceil(self.cut_rule.right_samples / FRAME_SAMPLES))
        first = max(from_sample // FRAME_SAMPLES + 1 - oldest_frame, half)
        longest = self.utterance.start_sample + self.options.max_utterance_ms * SAMPLES_PER_MS
        end = (longest - FRAME_SAMPLES // 2) // FRAME_SAMPLES + 1 - oldest_frame
        best, best_depth = first, math.inf
        for middle in range(first, min(end, len(self.probabilities) - behind)):
            depth = math.fsum(
                (half + 1 - abs(offset)) * self.probabilities[middle + offset]
                for offset in range(-half, half + 1)
            )
            if depth <= best_depth:
                best, best_depth = middle, depth
        return (oldest_frame + best) * FRAME_SAMPLES + FRAME_SAMPLES // 2

    def _on_grid(self, cut_sample: int) -> int:
        start = self.utterance.start_sample
        return cut_sample - (cut_sample - start) % self.cut_rule.grid_samples

    def _has_speech_after(self, sample: int) -> bool:
        oldest_frame = self.next_frame - len(self.probabilities)
        later = self.probabilities[max(0, sample // FRAME_SAMPLES - oldest_frame) :]
        return any(probability >= self.options.threshold for probability in later)
