"""What `bench.overload` counts, and the bounds of each latency class. Pure.

A talker notes each text it gets: how long after its last sample was due, and for a draft how long
after the one before it (or the beginning of the utterance). A text counts for the class that the
server had told the session. The last GRACE_S before the server says that it is a worse one do not
count: it says so when the load was worse for a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from protocol.client_messages import LatencyClass

from .percentiles import Summary, summarize

GRACE_S = 3.0
# p95, in ms. A draft covers what was heard when it began, so it is never old, only rare.
MAX_GAP_MS = {LatencyClass.FULL: 1_000.0, LatencyClass.SLOW: 4_000.0}
MAX_DRAFT_LAG_MS = 1_500.0
MAX_FINAL_LAG_MS = 2_500.0  # 352 ms of silence, half a second of waiting, two steps on two cores
MIN_COUNT = 20  # of fewer values the largest is p95: they are told and not judged
_ORDER = (LatencyClass.FULL, LatencyClass.SLOW, LatencyClass.FINALS_ONLY)


@dataclass(frozen=True, slots=True)
class Text:
    """A draft or a final, as it was heard."""

    at_s: float
    latency_class: LatencyClass
    is_final: bool
    lag_ms: float
    gap_ms: float = 0.0  # of a draft


@dataclass(slots=True)
class Notes:
    """Of one admitted session."""

    token: str
    texts: list[Text] = field(default_factory=list)
    changes: list[tuple[float, LatencyClass]] = field(default_factory=list)  # when it was told

    @property
    def latency_class(self) -> LatencyClass:
        """As it was told last."""
        return self.changes[-1][1] if self.changes else LatencyClass.FULL

    def counted(self, since_s: float) -> list[Text]:
        """Without what came before that, or just before worse news."""
        worse = [
            at_s
            for (_, before), (at_s, after) in zip(self.changes, self.changes[1:], strict=False)
            if _ORDER.index(after) > _ORDER.index(before)
        ]
        return [
            text
            for text in self.texts
            if text.at_s >= since_s
            and not any(at_s - GRACE_S <= text.at_s <= at_s for at_s in worse)
        ]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One session that was not let in."""

    at_s: float
    token: str
    code: str
    retry_after_ms: int | None

    @property
    def is_clean(self) -> bool:
        """The client knows why and when to come again."""
        return self.code == "at_capacity" and bool(self.retry_after_ms)


@dataclass(frozen=True, slots=True)
class ClassMarks:
    """One latency class over all sessions; None: nothing of the kind was heard."""

    latency_class: LatencyClass
    gaps: Summary | None
    draft_lags: Summary | None
    final_lags: Summary | None

    @property
    def problems(self) -> list[str]:
        """Bounds that did not hold."""
        name = self.latency_class.value
        bounds = (
            ("drafts are too far apart", self.gaps, MAX_GAP_MS.get(self.latency_class, 0.0)),
            ("drafts are late", self.draft_lags, MAX_DRAFT_LAG_MS),
            ("finals are late", self.final_lags, MAX_FINAL_LAG_MS),
        )
        return [
            f"{name}: {what}: p95 {found.p95:.0f} ms, over {bound:.0f}"
            for what, found, bound in bounds
            if found is not None and found.count >= MIN_COUNT and found.p95 > bound
        ]


def marks(notes: Iterable[Notes], since_s: float = 0.0) -> list[ClassMarks]:
    """Of every class that was told."""
    texts = [text for session in notes for text in session.counted(since_s)]
    return [
        _marks_of(latency_class, [t for t in texts if t.latency_class is latency_class])
        for latency_class in _ORDER
        if any(t.latency_class is latency_class for t in texts)
    ]


def _marks_of(latency_class: LatencyClass, texts: Sequence[Text]) -> ClassMarks:
    drafts = [text for text in texts if not text.is_final]
    return ClassMarks(
        latency_class,
        summarize(text.gap_ms for text in drafts),
        summarize(text.lag_ms for text in drafts),
        summarize(text.lag_ms for text in texts if text.is_final),
    )
