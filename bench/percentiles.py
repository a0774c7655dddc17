"""Percentiles, by nearest rank: every number shown was measured, none is interpolated.

With fewer than 100 values p99 is the largest one, with fewer than 20 p95 is; so `count` travels
with every summary and tables show it. A mean is never reported: it hides the tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ascending values that at least `percent` % of them do not exceed.

    Raises ValueError when there are none.
    """
    if not ordered:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Summary:
    """Percentiles of one quantity; the unit is the caller's."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    def as_fields(self, digits: int = 3) -> dict[str, float]:
        """For the JSON line."""
        return {name: round(value, digits) for name, value in asdict(self).items()}


def summarize(values: Iterable[float]) -> Summary | None:
    """None when there are no values: a missing number must not look like 0."""
    ordered = sorted(float(value) for value in values)
    if not ordered:
        return None
    p50, p95, p99 = (percentile(ordered, p) for p in (50, 95, 99))
    return Summary(len(ordered), p50, p95, p99, ordered[-1])


def fields(summaries: dict[str, Summary | None], digits: int = 3) -> dict[str, object]:
    """Several summaries for the JSON line; null where nothing was measured."""
    return {name: s.as_fields(digits) if s else None for name, s in summaries.items()}
