"""trends.py: a slope is seen where there is one, and its interval where there is only noise."""

from __future__ import annotations

import random

import pytest

from bench.trends import NUM_BLOCKS, after_warm_up, trend


def series(slope_per_h: float, noise: float, count: int = 600) -> list[tuple[float, float]]:
    rng = random.Random(1)
    return [(float(t), 100 + slope_per_h * t / 3_600 + rng.gauss(0, noise)) for t in range(count)]


def test_a_line_without_noise_is_found() -> None:
    found = trend(series(36.0, 0.0))
    assert found is not None
    assert found.slope == pytest.approx(36.0)
    assert found.low == pytest.approx(found.high)
    assert not found.is_flat
    assert found.fields()["is_flat"] is False


def test_noise_is_flat_and_growth_is_not() -> None:
    noise, growth = trend(series(0.0, 1.0)), trend(series(30.0, 1.0))
    assert noise is not None
    assert growth is not None
    assert noise.is_flat
    assert not growth.is_flat
    assert growth.low < 30.0 < growth.high


def test_a_constant_is_flat() -> None:
    found = trend([(float(t), 7.0) for t in range(100)])
    assert found is not None
    assert (found.mean, found.slope, found.is_flat) == (7.0, 0.0, True)


def test_too_little_is_no_trend() -> None:
    assert trend([]) is None
    assert trend([(1.0, 2.0)] * 50) is None
    assert trend([(float(t), 1.0) for t in range(NUM_BLOCKS - 1)]) is None


def test_the_warm_up_is_left_out() -> None:
    points = [(float(t), 0.0) for t in range(11)]
    assert after_warm_up(points, 0.3)[0] == (3.0, 0.0)
    assert after_warm_up([], 0.3) == []


def test_a_page_is_no_growth_of_memory_and_a_leak_is() -> None:
    page, leak = trend(series(0.5, 0.001)), trend(series(60.0, 1.0))
    assert page is not None
    assert leak is not None
    assert page.grows()  # told from zero,
    assert not page.grows(0.01)  # and less than 1 of 100 in the ten minutes that it took
    assert leak.grows(0.05)
    assert not leak.grows(0.15)
