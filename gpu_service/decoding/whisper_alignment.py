"""Where in the audio Whisper's tokens were heard: by what its aligned heads listened to.

Two uses of the same attention. Word times of finals: dynamic time warping over it (openai/whisper,
timing.py). And where each token of a draft was heard, for draft_policy.py. Pure numpy: scores in,
positions out; used by the GPU's engine, and in part by the CPU's.

Shapes: S steps (tokens that were chosen), A heads, N positions of 20 ms.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_POSITION = 320
MEDIAN_WIDTH = 7
MIN_NORMALISED = 3  # steps; fewer have no deviation to speak of

Array = NDArray[np.float32]
Positions = NDArray[np.int64]


def num_positions_of(num_samples: int, most: int) -> int:
    """Positions that so much audio has, and the one behind it; at most so many."""
    return min(most, -(-num_samples // SAMPLES_PER_POSITION) + 1)


def attention_matrix(scores: Array) -> Array:
    """(S, N) of (S, A, N) scores: each head's share of each position, normalised over the steps,
    smoothed, and the mean of the heads.
    """
    shares = _centred(scores)
    if len(shares) >= MIN_NORMALISED:
        shares = shares / np.maximum(shares.std(axis=0, keepdims=True), 1e-8)
    return np.asarray(median_filtered(shares).mean(axis=1), np.float32)


def _centred(scores: Array) -> Array:
    """(S, A, N) each head's share of each position, less what it gives it at every step."""
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    if len(shares) >= MIN_NORMALISED:
        shares = shares - shares.mean(axis=0, keepdims=True)
    return np.asarray(shares, np.float32)


def median_filtered(values: Array) -> Array:
    """Along the last axis, its ends reflected. What is too short for that stays as it is."""
    half = MEDIAN_WIDTH // 2
    if values.shape[-1] <= half:
        return values
    edges = [(0, 0)] * (values.ndim - 1) + [(half, half)]
    padded = np.pad(values, edges, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_WIDTH, axis=-1)
    return np.asarray(np.median(windows, axis=-1), np.float32)


# ------------------------------------------------------------------------ word times


def warping_path(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """(L, 2) pairs of step and position along the cheapest way through (S, N) costs.

    From the first pair to the last, one step, one position or both further at a time.
    """
    num_steps, num_positions = costs.shape
    total = np.full((num_steps + 1, num_positions + 1), np.inf)
    total[0, 0] = 0.0
    for step in range(num_steps):
        # total[j] = cost[j] + min(entered[j], total[j - 1]), without a loop over j: the least of
        # the ways that enter this step at some k up to j, and go on along it.
        entered = np.minimum(total[step, :-1], total[step, 1:])
        along = np.cumsum(costs[step])
        best = np.minimum.accumulate(entered - (along - costs[step]))
        total[step + 1, 1:] = along + best
    return _traced(total)


def _traced(total: NDArray[np.float64]) -> NDArray[np.int64]:
    """Back from the end; of equal ways the one along positions."""
    step, position = total.shape[0] - 1, total.shape[1] - 1
    path = []
    while step > 0 and position > 0:
        path.append((step - 1, position - 1))
        both, up, left = (
            total[step - 1, position - 1], total[step - 1, position], total[step, position - 1]
        )  # fmt: skip
        if both < up and both < left:
            step, position = step - 1, position - 1
        elif up < both and up < left:
            step -= 1
        else:
            position -= 1
    return np.array(path[::-1], np.int64).reshape(-1, 2)


def token_begins(path: NDArray[np.int64], num_tokens: int, num_positions: int) -> Positions:
    """(num_tokens + 1,): the position where a warping path enters each token, and the end.

    Args:
        path: (L, 2) pairs of token and position.
    """
    begins = np.full(num_tokens + 1, num_positions, np.int64)
    for token, position in path[::-1]:
        if token <= num_tokens:
            begins[token] = position
    return begins


def aligned_begins(scores: Array, num_tokens: int, num_positions: int) -> Positions:
    """(num_tokens + 1,) positions where text tokens begin, and where the last ends.

    Args:
        scores: (S, A, N) of the steps that chose them; one more, of what came behind the last, says
            where that ends.
    """
    if num_tokens == 0:
        return np.full(1, num_positions, np.int64)
    matrix = attention_matrix(scores[..., :num_positions])
    path = warping_path(-matrix.astype(np.float64))
    return token_begins(path, num_tokens, num_positions)


# ---------------------------------------------------------------------- where heard


def attended_positions(scores: Array, num_positions: int) -> list[int]:
    """(S,) where each step of (S, A, N) scores listened most.

    Not divided by deviations, as word times are: where no step listens, they are next to nothing.
    """
    if len(scores) == 0:
        return []
    matrix = median_filtered(_centred(scores[..., :num_positions])).mean(axis=1)
    positions: list[int] = matrix.argmax(axis=1).tolist()
    return positions
