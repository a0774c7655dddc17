"""Which streams the recognizer serves next, and how often drafts may come.

Pure. A stream offers at most one job at a time (stream.py), so pending work is bounded by the
number of streams. Finals go first, oldest audio first: somebody waits for them. Candidates follow,
because they are finals computed early. Drafts share what is left: when the engine cannot give
every speaker a draft each hop, the hop grows for all of them alike instead of a queue growing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .stream import Stream
from .utterance import Job

RAMP = 0.2  # weight of the newest step in the mean
DRAFT_SHARE = 0.6  # of the engine's time that drafts may take; the rest is for finals
MAX_HOP_SAMPLES = 48_000  # 3 s: beyond this a draft is no longer news
SAMPLES_PER_NS = 16_000 / 1e9

_URGENCY = {"final": 0, "candidate": 1, "draft": 2}


@dataclass(frozen=True, slots=True)
class Assignment:
    """One stream's job in the next step."""

    stream: Stream
    job: Job


@dataclass(slots=True)
class Scheduler:
    """Picks batches and stretches the hop by the measured cost of a draft.

    `max_batch`: how many jobs the engine works on at the same time. A CPU engine has as many as it
    has cores; more in one step would only keep the first of them waiting for the last. Drafts that
    it computes as one batch may be more, when no final is due.
    """

    max_batch: int = 1
    max_drafts: int = 1
    draft_cost_ns: float = 0.0  # mean engine time of one draft
    step_ns: float = 0.0  # mean engine time of one step
    speakers: int = 0  # streams with an open utterance at the last pick

    @property
    def hop_samples(self) -> int:
        """The shortest interval of drafts that the engine can keep for every present speaker."""
        bearable = self.draft_cost_ns * self.speakers / DRAFT_SHARE * SAMPLES_PER_NS
        return min(MAX_HOP_SAMPLES, int(bearable))

    def pick(self, streams: Iterable[Stream]) -> list[Assignment]:
        """The next step: the most urgent jobs there are; empty when nothing is due."""
        streams = list(streams)
        self.speakers = sum(stream.is_speaking for stream in streams)
        hop = self.hop_samples
        offers = [
            Assignment(stream, job)
            for stream in streams
            if (job := stream.next_job(hop)) is not None
        ]
        offers.sort(key=_urgency)
        only_drafts = bool(offers) and offers[0].job.kind == "draft"
        return offers[: max(self.max_batch, self.max_drafts) if only_drafts else self.max_batch]

    def step_took(self, assignments: list[Assignment], elapsed_ns: int) -> None:
        """Learn from a finished step."""
        self.step_ns += RAMP * (elapsed_ns - self.step_ns)
        if all(assignment.job.kind == "draft" for assignment in assignments):
            cost = elapsed_ns / len(assignments)
            self.draft_cost_ns += RAMP * (cost - self.draft_cost_ns)


def _urgency(offer: Assignment) -> tuple[int, int, int]:
    # Streams have clocks of their own; the time of receipt is the one they share. Among equals
    # the draft that is furthest behind its audio goes first.
    behind = offer.job.utterance.drafted_sample - offer.job.feed_to
    since = offer.stream.receive_ns if offer.job.kind == "final" else 0
    return (_URGENCY[offer.job.kind], since, behind)
