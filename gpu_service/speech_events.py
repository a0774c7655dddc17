"""What an endpointer is told (VadOptions) and what it says (the events).

Pure data. Samples are 16 kHz positions in the stream. The utterances (SpeechStarted up to
SpeechStopped or Cut) and the NonSpeech intervals tile the stream: each sample lies in exactly one.
A turn is the utterances up to a silence that outlasts the patience for it (EndOfTurn).
endpointer.py makes the events; the service feeds recognizers and tells clients by them.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.audio import MAX_UTTERANCE_MS

SAMPLES_PER_MS = 16


@dataclass(frozen=True, slots=True)
class VadOptions:
    """How to cut a stream into utterances. Raises ValueError for values that contradict."""

    enabled: bool = True  # False: everything is speech, only finalize and the maximum end it
    threshold: float = 0.5  # speech starts at or above
    neg_threshold: float | None = None  # speech pauses below; None: threshold - 0.15
    min_speech_ms: int = 64  # speech frames that an utterance needs; a click has one
    min_silence_ms: int = 352  # a pause this long ends the utterance: 11 frames
    speech_pad_ms: int = 160  # kept on both sides of the speech frames
    max_utterance_ms: int = 30_000  # longer speech is cut at its best gap
    end_of_turn_ms: int | None = None  # silence this long ends the turn; None: nobody asks

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0 or not 0.0 <= self.low_threshold <= self.threshold:
            raise ValueError(
                "thresholds must be 0 <= neg_threshold <= threshold, 0 < threshold <= 1"
            )
        if min(self.min_speech_ms, self.speech_pad_ms) < 0:
            raise ValueError("min_speech_ms and speech_pad_ms can not be negative")
        if not self.speech_pad_ms <= self.min_silence_ms or self.min_silence_ms == 0:
            raise ValueError("min_silence_ms must be positive and at least speech_pad_ms")
        if self.end_of_turn_ms is not None and self.end_of_turn_ms < 0:
            raise ValueError("end_of_turn_ms can not be negative")
        if not 1_000 <= self.max_utterance_ms <= MAX_UTTERANCE_MS:
            raise ValueError(f"max_utterance_ms must be 1000 to {MAX_UTTERANCE_MS}")
        if self.max_utterance_ms < 2 * (self.min_silence_ms + self.min_speech_ms):
            raise ValueError("max_utterance_ms must be twice min_silence_ms + min_speech_ms")

    @property
    def low_threshold(self) -> float:
        """The threshold that speech has to fall below to pause."""
        if self.neg_threshold is None:
            return max(self.threshold - 0.15, 0.01 if self.threshold > 0.01 else 0.0)
        return self.neg_threshold


@dataclass(frozen=True, slots=True)
class CutRule:
    """What a model needs around a cut, where a speaker goes on beyond the longest utterance."""

    grid_samples: int = 1  # a cut lies a multiple of this behind its utterance's start
    right_samples: int = 0  # audio behind a cut that the utterance before it is decoded with
    left_samples: int = 0  # audio before a cut that the utterance behind it is decoded with


NO_CUT_RULE = CutRule()


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """An utterance is open from `start_sample`, which may lie before this moment (padding)."""

    start_sample: int
    onset_sample: int  # where its first speech frame begins
    continues: bool = False  # right after a Cut: the speaker did not pause


@dataclass(frozen=True, slots=True)
class CandidateEnd:
    """The speaker paused: if the pause lasts, the utterance ends at `end_sample`."""

    end_sample: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The pause behind the last CandidateEnd was too short: the utterance goes on."""

    at_sample: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The utterance ended at `end_sample`, the one of its last CandidateEnd if it had one."""

    end_sample: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The utterance reached the maximum and ends at `end_sample`, where the next one begins."""

    end_sample: int
    heard_sample: int  # what had been heard by then, a position like any other: no clock is in it


@dataclass(frozen=True, slots=True)
class NonSpeech:
    """Nobody speaks in [start_sample, end_sample)."""

    start_sample: int
    end_sample: int


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """Nobody spoke for the patience asked for behind the last utterance, which ended here."""

    end_sample: int


Event = SpeechStarted | CandidateEnd | SpeechResumed | SpeechStopped | Cut | NonSpeech | EndOfTurn
