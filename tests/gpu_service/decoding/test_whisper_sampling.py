"""Random numbers that are counted: the same everywhere, and random enough."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.decoding.whisper_sampling import choose, gumbel_noise, random_bits

NEVER = -np.inf


def plain_philox(seed: int, step: int, token: int) -> int:
    """The generator once more, one number at a time."""
    low, high, key = step, token, seed
    for _ in range(10):
        product = low * 0xD256D193
        low, high = (product >> 32) ^ key ^ high, product & 0xFFFFFFFF
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    return low


def test_the_generator_is_philox() -> None:
    tokens = np.array([0, 1, 51865], np.uint32)
    for seed, step in ((0, 0), (7, 3), (0xFFFFFFFF, 447)):
        expected = [plain_philox(seed, step, int(token)) for token in tokens]
        assert random_bits(seed, step, tokens).tolist() == expected


def test_philox_says_what_its_authors_published() -> None:
    """Random123's known answers for philox2x32-10: counter 0 0, key 0."""
    assert random_bits(0, 0, np.array([0], np.uint32))[0] == 0xFF1DAE59
    full = 0xFFFFFFFF
    assert random_bits(full, full, np.array([full], np.uint32))[0] == 0x2C3F628B


def test_noise_is_gumbels() -> None:
    noise = gumbel_noise(1, 2, 50_000)
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.05)
    assert not np.array_equal(noise, gumbel_noise(1, 3, 50_000))


def test_cold_is_the_most_probable_and_the_lowest_of_equals() -> None:
    logits = np.array([0.0, 2.0, 2.0, NEVER], np.float32)
    token, log_probability = choose(logits, 0.0, 0, 0)
    assert token == 1
    assert log_probability == pytest.approx(2.0 - np.log(1.0 + 2.0 * np.exp(2.0)), abs=1e-6)


def test_hot_follows_the_probabilities_and_never_what_is_banned() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3, 0.0]) + 1e-300).astype(np.float32)
    logits[3] = NEVER
    counts = np.bincount([choose(logits, 1.0, 5, step)[0] for step in range(4000)], minlength=4)
    assert counts / 4000 == pytest.approx([0.1, 0.6, 0.3, 0.0], abs=0.03)
    # The probability is the model's, not the temperature's.
    assert choose(logits, 0.2, 5, 0)[1] == pytest.approx(np.log(0.6), abs=1e-5)
