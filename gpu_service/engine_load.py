"""EngineLoad: where the engine's time goes, and what may be promised of the rest. Pure.

Two measures. How long finals that are due wait before they begin: when that is too long, drafts
get a smaller share of the time, at last none, and no new streams come in; when finals are on time
again, the share grows back within seconds. And what a second of heard audio costs in finals, which
says how many streams fit on an engine that does one step after the other.

scheduler.py reports what it sees and asks; `review` is called at a steady pace.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.audio import RING_RATE_HZ

from .endpointer import FRAME_SAMPLES

LATE_FINAL_NS = 500_000_000  # a final that was due for so long and has not begun is late
MAX_DRAFT_SHARE = 0.6  # of the engine's time; the rest is for finals
SMALLEST_DRAFT_SHARE = 0.04  # below it drafts are given up
SHARE_STEP = 0.05  # what a review without late finals gives back
STREAMS_SHARE = 0.8  # of the engine's time that all streams together may need
WINDOW_SECONDS = 60.0  # of heard audio that the means are taken over
PRIOR_SECONDS = 5.0  # of heard audio that a probe counts for


@dataclass(slots=True)
class EngineLoad:
    """See the module text."""

    draft_share: float = MAX_DRAFT_SHARE  # of the engine's time that drafts may take
    longest_wait_ns: int = 0  # of a final, since the last review
    probe_ns: float = 0.0  # the shortest probe: one small draft
    _heard_s: float = 0.0
    _spoken_s: float = 0.0  # of this, in utterances
    _final_ns: float = 0.0  # engine time of the finals of this
    _is_guess: bool = True  # nothing but probes so far

    def final_waits(self, wait_ns: int) -> None:
        """A final of a live stream is due since so long, and begins now or has not begun."""
        self.longest_wait_ns = max(self.longest_wait_ns, wait_ns)

    def review(self) -> None:
        """Twice a second: adapt the share of drafts to how late finals were."""
        if self.longest_wait_ns > LATE_FINAL_NS:
            self.draft_share /= 2
            if self.draft_share < SMALLEST_DRAFT_SHARE:
                self.draft_share = 0.0
        else:
            self.draft_share = min(MAX_DRAFT_SHARE, self.draft_share + SHARE_STEP)
        self.longest_wait_ns = 0

    @property
    def is_strained(self) -> bool:
        """Finals were late within the last seconds."""
        return self.draft_share < MAX_DRAFT_SHARE

    @property
    def is_late(self) -> bool:
        """Finals were late again and again: nobody else should come in."""
        return self.draft_share < MAX_DRAFT_SHARE / 2

    # What audio costs

    def probed(self, elapsed_ns: float) -> None:
        """A probe took so long. Until audio is heard, a second of it is guessed to cost one."""
        self.probe_ns = min(elapsed_ns, self.probe_ns or elapsed_ns)
        if self._is_guess:
            self._heard_s = self._spoken_s = PRIOR_SECONDS
            self._final_ns = PRIOR_SECONDS * self.probe_ns

    def heard(self, num_frames: int, *, is_speech: bool) -> None:
        """So many VAD frames of a stream were listened to."""
        seconds = num_frames * FRAME_SAMPLES / RING_RATE_HZ
        self._is_guess = False
        self._heard_s += seconds
        self._spoken_s += seconds * is_speech
        if self._heard_s > WINDOW_SECONDS:
            self._heard_s /= 2
            self._spoken_s /= 2
            self._final_ns /= 2

    def finals_took(self, elapsed_ns: float) -> None:
        """Of a step, the part that went to finals and to what may become one."""
        self._final_ns += elapsed_ns

    def bearable_streams(self, draft_ns: float, longest_hop_ns: float) -> int | None:
        """How many live streams fit, with drafts at the longest hop; None: nothing is known."""
        if self._heard_s < PRIOR_SECONDS:
            return None
        drafts = self._spoken_s / self._heard_s * (draft_ns or self.probe_ns) / longest_hop_ns
        share = self._final_ns / 1e9 / self._heard_s + drafts
        return int(STREAMS_SHARE / share) if share > 0 else None
