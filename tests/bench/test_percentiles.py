"""bench/percentiles.py: nearest rank, and nothing out of nothing."""

from __future__ import annotations

import pytest

from bench.percentiles import fields, percentile, summarize


def test_percentiles_are_values_that_were_measured() -> None:
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]


def test_few_values_give_the_largest_as_tail() -> None:
    summary = summarize([3.0, 1.0, 2.0])
    assert summary is not None
    assert (summary.count, summary.p50, summary.p95, summary.p99, summary.max) == (3, 2, 3, 3, 3)


def test_lowest_rank_is_the_first_value() -> None:
    assert percentile([7.0, 8.0], 0) == 7.0


def test_no_values_are_not_zero() -> None:
    assert summarize([]) is None
    assert fields({"ttft": None}) == {"ttft": None}
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_fields_are_rounded() -> None:
    assert fields({"x": summarize([1.23456])}, 1)["x"] == {
        "count": 1, "p50": 1.2, "p95": 1.2, "p99": 1.2, "max": 1.2,
    }  # fmt: skip
