"""Batch buckets: ascending, none skipped, never far more than asked for."""

from __future__ import annotations

import pytest

from gpu_service.batch_buckets import bucket_of, buckets_below


def test_powers_of_two_and_half_steps_from_64_on() -> None:
    assert buckets_below(300) == [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256]
    assert buckets_below(1) == []


@pytest.mark.parametrize("count", range(1, 600))
def test_a_batch_is_in_the_smallest_bucket_that_takes_it(count: int) -> None:
    bucket = bucket_of(count)
    assert bucket == min(b for b in buckets_below(2_000) if b >= count)
    assert bucket == bucket_of(bucket)
    assert bucket < 2 * count


def test_nothing_fits_into_the_smallest() -> None:
    assert bucket_of(0) == bucket_of(1) == 1
