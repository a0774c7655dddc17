"""Where tokens were heard: warping, its path, and what AlignAtt believes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.whisper_alignment import (
    aligned_begins,
    attended_positions,
    attention_matrix,
    median_filtered,
    num_positions_of,
    token_begins,
    warping_path,
)


def scores_at(positions: list[int], num_positions: int, num_heads: int = 2) -> np.ndarray:
    """Heads that listen around a position at each step, each a little differently."""
    at = np.arange(num_positions, dtype=np.float32)
    scores = [
        [-((at - position) ** 2) / (8.0 + head) for head in range(num_heads)]
        for position in positions
    ]
    return np.array(scores, np.float32)


def cheapest(costs: np.ndarray) -> float:
    """By trying every way."""
    steps, positions = costs.shape

    def ways(step: int, position: int) -> float:
        if step < 0 or position < 0:
            return np.inf
        if step == position == 0:
            return costs[0, 0]
        before = min(
            ways(step - 1, position - 1), ways(step - 1, position), ways(step, position - 1)
        )
        return costs[step, position] + before

    return ways(steps - 1, positions - 1)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_path_is_the_cheapest_way_and_goes_step_by_step(
    steps: int, positions: int, seed: int
) -> None:
    costs = np.random.default_rng(seed).standard_normal((steps, positions))
    path = warping_path(costs)
    assert costs[path[:, 0], path[:, 1]].sum() == pytest.approx(cheapest(costs))
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [steps - 1, positions - 1]
    for (step, position), (next_step, next_position) in itertools.pairwise(path.tolist()):
        assert (next_step - step, next_position - position) in {(0, 1), (1, 0), (1, 1)}


def test_tokens_begin_where_they_are_listened_to() -> None:
    heard = [5, 30, 50, 70, 90]
    begins = aligned_begins(scores_at(heard, 120), 4, 100)
    assert len(begins) == 5
    assert all(abs(begin - at) <= 13 for begin, at in zip(begins[1:], heard[1:], strict=True))
    assert begins[0] == 0, "what is before the first token is its own"
    assert list(begins) == sorted(begins)


def test_a_text_without_an_end_ends_with_the_audio() -> None:
    begins = aligned_begins(scores_at([5, 30, 60], 100), 3, 90)
    assert begins[-1] == 90
    assert aligned_begins(scores_at([], 10), 0, 7).tolist() == [7]
    assert token_begins(np.array([[0, 0], [0, 1], [1, 2], [2, 3]]), 1, 9).tolist() == [0, 2]


def test_few_steps_are_taken_as_they_are() -> None:
    """Two steps deviate from their mean by the same everywhere."""
    matrix = attention_matrix(scores_at([10, 40], 60))
    assert matrix.argmax(axis=1) == pytest.approx([10, 40], abs=3)
    assert matrix.min() >= 0
    found = attended_positions(scores_at([10, 40, 20, 55], 60), 50)
    assert found[:3] == pytest.approx([10, 40, 20], abs=4)
    assert attended_positions(scores_at([], 60), 50) == []


def test_a_median_takes_out_what_stands_alone() -> None:
    values = np.zeros((1, 20), np.float32)
    values[0, 9] = 1.0
    assert not median_filtered(values).any()
    assert median_filtered(values[:, :3]) is not None
    np.testing.assert_array_equal(median_filtered(values[:, 9:12]), values[:, 9:12])


def test_positions_of_audio() -> None:
    assert [num_positions_of(n, 1500) for n in (1, 320, 321, 480_000)] == [2, 2, 3, 1500]
