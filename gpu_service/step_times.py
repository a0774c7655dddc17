"""StepTimes: what steps of the recognizer take, learnt from those that were made.

Pure. Work is counted by kind and size (a draft of half a second, a final of eight); what a number
of one kind takes together is remembered for the buckets of batch_buckets.py, in which an engine
that works in batches computes. What was never measured is guessed from its neighbours, and never
below them: twice the number takes at most twice the time.

scheduler.py asks how much fits into a time and reports what a step took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .batch_buckets import bucket_of

RAMP = 0.2  # weight of the newest step in the mean
MAX_SURPRISE = 3.0  # a step of more than so many means counts as that: others disturbed it


class Kind(NamedTuple):
    """Jobs that cost alike."""

    name: str  # "draft" or "final"
    size: int  # each next one is of twice the audio


@dataclass(slots=True)
class StepTimes:
    """Mean times of batches, by kind and by the bucket of their number."""

    _mean_ns: dict[Kind, dict[int, float]] = field(default_factory=dict)  # by bucket

    def expected_ns(self, work: Mapping[Kind, int]) -> float:
        """What a step of so many of each kind will take, rather too long than too short."""
        return sum(self._expected_ns(kind, bucket_of(count)) for kind, count in work.items())

    def at_least_ns(self, kind: Kind, count: int) -> float:
        """What a batch of one kind takes, if one beyond what was measured takes no longer."""
        measured = self._mean_ns.get(kind)
        if not measured:
            return 0.0
        below = [bucket for bucket in measured if bucket <= bucket_of(count)]
        return measured[max(below, default=min(measured))]

    def knows(self, kind: Kind) -> bool:
        """Whether a step with this kind was ever made."""
        return kind in self._mean_ns

    def smallest(self, name: str) -> Kind:
        """Of the kinds of this name that are known, the one of the least audio."""
        return min((kind for kind in self._mean_ns if kind.name == name), default=Kind(name, 0))

    def took(self, work: Mapping[Kind, int], elapsed_ns: float) -> None:
        """Learn from a step. Of a mixed one, what is new took what the others leave of the time;
        where nothing is new, all of them share it as they were expected to.
        """
        keys = {kind: bucket_of(count) for kind, count in work.items()}
        expected = {kind: self._expected_ns(kind, bucket) for kind, bucket in keys.items()}
        total = sum(expected.values())
        new = [kind for kind, part in expected.items() if not part]
        for kind in new:
            self._learn(kind, keys[kind], max(0.0, elapsed_ns - total) / len(new))
        if not new:
            for kind, part in expected.items():
                self._learn(kind, keys[kind], elapsed_ns * part / total)

    def decay(self, name: str, factor: float) -> None:
        """Believe less of what steps of this name took: it was long ago."""
        for kind, means in self._mean_ns.items():
            if kind.name == name:
                for bucket in means:
                    means[bucket] *= factor

    def _learn(self, kind: Kind, bucket: int, elapsed_ns: float) -> None:
        means = self._mean_ns.setdefault(kind, {})
        known = means.get(bucket) or elapsed_ns
        elapsed_ns = min(elapsed_ns, MAX_SURPRISE * known)
        means[bucket] = known + RAMP * (elapsed_ns - known)

    def _expected_ns(self, kind: Kind, bucket: int) -> float:
        measured = self._mean_ns.get(kind)
        if not measured:
            return self._of_a_smaller_size(kind, bucket)
        known = measured.get(bucket)
        smaller = max((b for b in measured if b < bucket), default=None)
        if smaller is None:
            return measured[min(measured)]  # of this bucket, or of more jobs than there ever were
        most = self._expected_ns(kind, smaller) * bucket / smaller
        return most if known is None else min(known, most)

    def _of_a_smaller_size(self, kind: Kind, bucket: int) -> float:
        others = [k for k in self._mean_ns if k.name == kind.name and k.size < kind.size]
        if not others:
            return 0.0
        return self._expected_ns(max(others), bucket) * 2.0 ** (kind.size - max(others).size)
