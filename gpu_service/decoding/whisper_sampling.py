"""Choosing a token: the most probable, or at random by a temperature, always the same way.

Random numbers are counted, not drawn: token v at step t of a row has its own, a function of (seed,
t, v) alone, so any batch and any device choose the same. Gumbel's trick makes sampling an argmax
over the vocabulary: of logit / T - log(-log u). The generator is Philox 2x32 with 10 rounds (Salmon
et al., SC 2011). Called by the oracle, and by tests of kernels that do the same arithmetic.

Shapes: V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULTIPLIER = np.uint64(0xD256D193)
WEYL = 0x9E3779B9
ROUNDS = 10
MASK = np.uint64(0xFFFFFFFF)
HALF_STEP = 2.0**-25  # so that u is never 0 and never 1

Logits = NDArray[np.float32]


def random_bits(seed: int, step: int, tokens: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """32 bits for each of some tokens at one step."""
    high = tokens.astype(np.uint64)
    low = np.full_like(high, step)
    key = seed & 0xFFFFFFFF
    for _ in range(ROUNDS):
        product = low * MULTIPLIER
        low, high = (product >> np.uint64(32)) ^ np.uint64(key) ^ high, product & MASK
        key = (key + WEYL) & 0xFFFFFFFF
    return low.astype(np.uint32)


def gumbel_noise(seed: int, step: int, size: int) -> NDArray[np.float32]:
    """(V,) of Gumbel's distribution."""
    bits = random_bits(seed, step, np.arange(size, dtype=np.uint32))
    uniform = (bits >> np.uint32(8)).astype(np.float64) * 2.0**-24 + HALF_STEP
    noise: NDArray[np.float32] = (-np.log(-np.log(uniform))).astype(np.float32)
    return noise


def choose(logits: Logits, temperature: float, seed: int, step: int) -> tuple[int, float]:
    """A token and its log probability, of (V,) logits where banned tokens are -inf.

    The probability is the model's own, whatever the temperature. Of equals, the lowest id.
    """
    keys = logits
    if temperature > 0.0:
        noise = gumbel_noise(seed, step, len(logits))
        keys = logits / np.float32(temperature) + noise
    token = int(np.argmax(keys))
    top = float(logits.max())
    total = top + float(np.log(np.exp(logits.astype(np.float64) - top).sum()))
    return token, float(logits[token]) - total
