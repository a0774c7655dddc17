"""Which buckets there are: each length and each batch is served, and none is too large."""

from __future__ import annotations

import pytest

from gpu_service.builder.buckets import (
    MAX_BUCKET_FRAMES,
    default_buckets,
    longest_frames,
)
from gpu_service.builder.manifest import Bucket
from gpu_service.parakeet_rules import ParakeetRules


def test_the_longest_run_is_an_utterance_with_its_context() -> None:
    frames = longest_frames(30_000)
    assert frames % 8 == 0
    assert frames >= ParakeetRules(max_utterance_samples=480_000).max_frames > frames - 8


def test_alone_every_length_is_served() -> None:
    buckets = default_buckets(552, 64)
    assert [b.frames for b in buckets if b.batch == 1] == [8, 32, 104, 200, 392, 552]
    assert {b.batch for b in buckets} == {1, 8, 64}


@pytest.mark.parametrize("max_batch", [1, 5, 8, 64, 128, 512])
def test_no_bucket_is_larger_than_the_memory_that_is_meant_for_it(max_batch: int) -> None:
    buckets = default_buckets(552, max_batch)
    assert all(b.rows <= MAX_BUCKET_FRAMES for b in buckets if b.batch > 1)
    assert len(set(buckets)) == len(buckets)
    assert max(b.batch for b in buckets) == max_batch


def test_a_short_limit_has_few() -> None:
    assert default_buckets(32, 1) == (Bucket(1, 8), Bucket(1, 32))
