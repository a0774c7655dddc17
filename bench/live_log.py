"""What a client of `bench live` saw: texts with their arrival times. Pure data, for any dialect."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.client_messages import Closed, Stages, Token, Word

from .pacing import Schedule


@dataclass(frozen=True, slots=True)
class Shown:
    """One partial or final as the client received it; positions are 16 kHz samples."""

    received_ns: int
    utterance: int
    text: str
    is_final: bool
    start_sample: int
    end_sample: int
    words: tuple[Word, ...] = ()
    revised: bool | None = None  # None: the dialect does not say
    finalize_id: int | None = None
    stages: Stages | None = None
    tokens: tuple[Token, ...] = ()  # of a final, where they were asked for


@dataclass(slots=True)
class StreamLog:
    """One stream from its first to its last event."""

    schedule: Schedule
    shown: list[Shown] = field(default_factory=list)
    lags_ns: list[int] = field(default_factory=list)
    finalize_ns: int | None = None  # scheduled time of the one finalize at the end
    answer_ns: int | None = None  # when its final arrived
    closed: Closed | None = None
    error: str | None = None

    @property
    def finals(self) -> list[Shown]:
        """Finals with text, in order."""
        return [shown for shown in self.shown if shown.is_final and shown.text.strip()]

    @property
    def text(self) -> str:
        """All of them."""
        return " ".join(shown.text.strip() for shown in self.finals)
