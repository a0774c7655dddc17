"""DecoderWeights: its sizes."""

from __future__ import annotations

from .networks import random_weights


def test_sizes_follow_the_arrays() -> None:
    weights = random_weights(0, width=12, num_layers=3)
    assert (weights.width, weights.num_layers) == (12, 3)
