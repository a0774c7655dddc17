"""bench/gpu_margins.py: where decodings part, and how clear the choice was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.gpu_margins import first_difference, flips, margin_at, num_differing, said
from gpu_service.builder.accuracy import reference_steps
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.tdt_weights import DecoderWeights
from tests.gpu_service.decoding.networks import random_frames, random_weights

WEIGHTS = random_weights(3)
FRAMES = random_frames(1, 40)


def tokens(weights: DecoderWeights = WEIGHTS) -> list[tuple[int, int, int]]:
    decoder = TdtDecoder(weights)
    return said(decoder.decode(FRAMES, decoder.start())[0])


def test_the_first_difference() -> None:
    truth = tokens()
    assert len(truth) > 5
    assert first_difference(truth, truth) is None
    assert first_difference(truth[:3], truth) == 3
    other = [*truth[:2], (0, 99, 0), *truth[3:]]
    assert first_difference(other, truth) == 2
    assert num_differing(other, truth) == 2


def test_the_margin_is_what_flips_the_token() -> None:
    """Taken from the label's bias, less than the margin changes nothing there, much more does."""
    truth = tokens()
    margin = margin_at(WEIGHTS, FRAMES, truth, 0)
    assert margin > 0
    for taken, is_equal in ((0.9 * margin, True), (100.0, False)):
        bias = WEIGHTS.head_bias.copy()
        bias[truth[0][0]] -= taken
        changed = tokens(replace(WEIGHTS, head_bias=bias))
        assert (changed[0] == truth[0]) == is_equal


def test_the_margin_of_a_token_is_of_its_own_steps() -> None:
    truth = tokens()
    steps = reference_steps(WEIGHTS, FRAMES)
    margins = [margin_at(WEIGHTS, FRAMES, truth, i) for i in range(len(truth) + 1)]
    by_step = []
    for step in steps:
        label, duration = (
            np.sort(part)[::-1] for part in np.split(step.logits, [WEIGHTS.blank_id + 1])
        )
        by_step.append(min(label[0] - label[1], duration[0] - duration[1]))
    assert min(margins) == np.float32(min(by_step))


def test_the_same_weights_and_frames_flip_nothing() -> None:
    same = flips(WEIGHTS, FRAMES, WEIGHTS, FRAMES)
    assert same.count == 0
    assert same.num_decisions == len(reference_steps(WEIGHTS, FRAMES))


def test_flips_are_counted_along_the_oracles_path() -> None:
    noise = 0.05 * random_frames(9, 40)
    found = flips(WEIGHTS, FRAMES, WEIGHTS, FRAMES + noise)
    assert 0 < found.count < found.num_decisions
    assert all(margin > 0 for margin in found.margins)
    both = found + found
    assert (both.count, both.num_decisions) == (2 * found.count, 2 * found.num_decisions)
