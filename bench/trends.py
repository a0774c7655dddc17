"""Whether a quantity grows: a straight line through a series, with the doubt about its slope. Pure.

Neighbouring samples of a running server are alike, so a line through all of them would be too sure
of itself. The series is cut into NUM_BLOCKS stretches of time; the line goes through their means,
and the interval of its slope is Student's for that many points.

Ten series are looked at together. With 95 % for each, one of ten that are flat would be called
rising in 22 of 100 runs; the interval is made for all of them (Bonferroni), 99.5 % for each.

How it can be wrong: a step (a restart, a cache that fills once) is no slope, but bends the line;
the plot shows it. A slope below the interval's width is not seen: the width is reported beside it.
A process's memory is so steady that one page is a slope that can be told from zero, and allocators
ask for far more than a page at a time: for memory, grows() takes the share of the mean that counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

NUM_BLOCKS = 20
T_ALL = 3.197  # Student's, NUM_BLOCKS - 2 degrees of freedom, two-sided 1 - 0.05 / 10
S_PER_H = 3_600

Point = tuple[float, float]  # seconds, value


@dataclass(frozen=True, slots=True)
class Trend:
    """Slopes are per hour; the interval is low..high; the series took `hours`."""

    mean: float
    slope: float
    low: float
    high: float
    count: int
    hours: float

    @property
    def is_flat(self) -> bool:
        """The slope can not be told from zero."""
        return self.low <= 0 <= self.high

    def grows(self, share: float = 0.0) -> bool:
        """It rose, and surely (see the module text) by more than this share of its mean."""
        return self.low * self.hours > share * self.mean

    def fields(self, digits: int = 4) -> dict[str, object]:
        """For JSON."""
        rounded = {
            name: round(value, digits) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        return {**rounded, "is_flat": self.is_flat}


def after_warm_up(points: Sequence[Point], share: float) -> list[Point]:
    """Without the first `share` of the time."""
    if not points:
        return []
    begin, end = points[0][0], points[-1][0]
    return [point for point in points if point[0] >= begin + share * (end - begin)]


def trend(points: Sequence[Point]) -> Trend | None:
    """None for a series with fewer points than blocks, or one that takes no time."""
    blocks = _block_means(points)
    if len(blocks) < NUM_BLOCKS:
        return None
    count = len(blocks)
    mean_t = math.fsum(t for t, _ in blocks) / count
    mean_v = math.fsum(v for _, v in blocks) / count
    spread = math.fsum((t - mean_t) ** 2 for t, _ in blocks)
    slope = math.fsum((t - mean_t) * (v - mean_v) for t, v in blocks) / spread
    rest = math.fsum((v - mean_v - slope * (t - mean_t)) ** 2 for t, v in blocks)
    doubt = T_ALL * math.sqrt(rest / (count - 2) / spread)
    mean = math.fsum(v for _, v in points) / len(points)
    low, high = (slope - doubt) * S_PER_H, (slope + doubt) * S_PER_H
    hours = (points[-1][0] - points[0][0]) / S_PER_H
    return Trend(mean, slope * S_PER_H, low, high, len(points), hours)


def _block_means(points: Sequence[Point]) -> list[Point]:
    """Of each stretch of time that has points."""
    if not points or points[-1][0] <= points[0][0]:
        return []
    begin, length = points[0][0], points[-1][0] - points[0][0]
    blocks: dict[int, list[Point]] = {}
    for point in points:
        number = min(int((point[0] - begin) / length * NUM_BLOCKS), NUM_BLOCKS - 1)
        blocks.setdefault(number, []).append(point)
    return [
        (math.fsum(t for t, _ in some) / len(some), math.fsum(v for _, v in some) / len(some))
        for some in blocks.values()
    ]
