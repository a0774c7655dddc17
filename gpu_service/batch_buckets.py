"""Batch buckets: for how many jobs at once an engine that works in batches has a graph each.

Pure. A batch is computed in the smallest bucket that it fits into, so within one more jobs cost
nothing. Twice as many jobs take hardly longer while weights are most of what is read, and nearly
twice as long behind that: from 64 on there is a bucket between two powers of two. Without it 130
drafts of Parakeet took as long as 256 (a few per cent of a graph's memory are the price).

parakeet_settings.py makes the buckets, step_times.py learns what they take.
"""

from __future__ import annotations

HALF_STEPS_FROM = 64


def bucket_of(count: int) -> int:
    """The jobs that the smallest bucket for `count` of them takes: 1, 2, 4 ... 64, 96, 128, 192."""
    power = 1 << max(0, count - 1).bit_length()
    between = power // 4 * 3
    return between if count <= between and power > HALF_STEPS_FROM else power


def buckets_below(count: int) -> list[int]:
    """All that take fewer jobs than `count`, ascending."""
    found, bucket = [], 1
    while bucket < count:
        found.append(bucket)
        bucket = bucket_of(bucket + 1)
    return found
