"""Reference: fixed utterances, and what the CPU engine's encoder makes of them.

An engine is checked against it when it is built, and again when it is first loaded on another GPU
or driver: it lies in the engine folder, so that a service needs no CPU engine for that. Two
utterances for each length of bucket: one that fills it but for a part of a frame, and a shorter
one. The audio is a formula: noise and a tone under a gain, all wandering, so that neighbouring
frames differ and a decoder has something to decide.

Knows audio, features and frames; no device. Shapes: T mel rows, F bands, N frames, J width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cpu.parakeet_features import HOP_SAMPLES, log_mel_features
from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from ..weights.safetensors_file import read_safetensors
from ..weights.saving import save_tensors
from ..words import SAMPLE_RATE_HZ

GAIN_POINTS_PER_S = 12
TONE_POINTS_PER_S = 8
MISSING_ROWS = 3  # of the last frame of the longer utterance

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ReferenceUtterance:
    """Input and output of the encoder."""

    features: Array  # (T, F) normalised
    projected: Array  # (N, J)

    @property
    def num_rows(self) -> int:
        """T."""
        return len(self.features)


@dataclass(frozen=True, slots=True)
class Reference:
    """Utterances by their number of mel rows."""

    utterances: dict[int, ReferenceUtterance]

    def of(self, frames: int) -> list[ReferenceUtterance]:
        """Those for buckets of so many frames. Raises KeyError."""
        return [self.utterances[rows] for rows in lengths(frames)]


def lengths(frames: int) -> list[int]:
    """Mel rows of the utterances for a bucket."""
    return [SUBSAMPLING_FACTOR * frames - MISSING_ROWS, max(1, 5 * frames)]


def make_reference(
    frames: Iterable[int],
    encode: Callable[[Array], Array],
    done: Callable[[int, int], None] = lambda *_: None,
) -> Reference:
    """Compute it.

    Args:
        frames: of the buckets.
        encode: the CPU engine's, (T, F) to (N, J).
        done: is told how many rows are, of how many.
    """
    wanted = sorted({rows for each in frames for rows in lengths(each)})
    utterances, so_far = {}, 0
    for rows in wanted:
        features = log_mel_features(signal(rows * HOP_SAMPLES, seed=rows))
        utterances[rows] = ReferenceUtterance(features, encode(features))
        so_far += rows
        done(so_far, sum(wanted))
    return Reference(utterances)


def signal(num_samples: int, seed: int) -> NDArray[np.int16]:
    """(n,) int16 at 16 kHz, the same for the same arguments."""
    random = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    gain = _wander(random, time_s, GAIN_POINTS_PER_S, 0.0, 1.0)
    tone_hz = _wander(random, time_s, TONE_POINTS_PER_S, 100.0, 3500.0)
    phase = 2.0 * np.pi * np.cumsum(tone_hz) / SAMPLE_RATE_HZ
    noise = 0.05 * random.standard_normal(num_samples)
    steps = np.rint(32768.0 * gain * (noise + 0.2 * np.sin(phase)))
    return np.clip(steps, -32768, 32767).astype(np.int16)


def save_reference(path: Path, reference: Reference) -> None:
    """As safetensors: features.T and projected.T for each number T of rows."""
    save_tensors(dict(_arrays(reference)), path)


def load_reference(path: Path) -> Reference:
    """What save_reference() wrote. Raises ModelFileError."""
    tensors = read_safetensors(path)
    rows = [int(name.partition(".")[2]) for name in tensors if name.startswith("features.")]
    return Reference(
        {
            number: ReferenceUtterance(
                tensors[f"features.{number}"].to_float32(),
                tensors[f"projected.{number}"].to_float32(),
            )
            for number in sorted(rows)
        }
    )


def _arrays(reference: Reference) -> Iterator[tuple[str, Array]]:
    for rows, utterance in reference.utterances.items():
        yield f"features.{rows}", np.ascontiguousarray(utterance.features, np.float32)
        yield f"projected.{rows}", np.ascontiguousarray(utterance.projected, np.float32)


def _wander(
    random: np.random.Generator,
    time_s: NDArray[np.float64],
    points_per_s: int,
    low: float,
    high: float,
) -> NDArray[np.float64]:
    """A curve of straight pieces through random values."""
    end_s = float(time_s[-1]) if len(time_s) else 0.0
    num_points = int(points_per_s * end_s) + 2
    values = random.uniform(low, high, num_points)
    return np.interp(time_s, np.linspace(0.0, end_s, num_points), values)
