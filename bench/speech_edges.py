"""Where speech begins and ends in a recording, from its energy alone. Pure; times in samples.

The server decides endpoints with Silero; measuring it against Silero would hide Silero's delays.
So this looks at the level of 10 ms frames only: the noise floor is their 10th percentile, speech is
what rises MARGIN_DB above it (and is not more than RANGE_DB below the loudest frames). Runs shorter
than MIN_RUN_MS are clicks; gaps shorter than MAX_GAP_MS belong to the speech around them.

How it can be wrong: good for a close microphone and for synthetic speech, to some 20 ms. Soft
beginnings (f, h, th) can be found up to 50 ms late, and music or traffic counts as speech. Late
onsets make TTFT look better; late ends make TTFS look better. The
JSON line states the edges that were used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
FRAME_SAMPLES = 160
MARGIN_DB = 12.0
RANGE_DB = 45.0
FLOOR_DB = -75.0  # digital silence is taken for this
MIN_RUN_MS = 100
MAX_GAP_MS = 200


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """[start, end) in samples."""

    start: int
    end: int


def frame_levels_db(pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Level of each whole 10 ms frame against full scale; its mean is taken out first."""
    frames = pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].astype(np.float64) / 32_768
    frames = frames.reshape(-1, FRAME_SAMPLES)
    frames -= frames.mean(axis=1, keepdims=True)
    power = (frames**2).mean(axis=1)
    levels: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, 10 ** (FLOOR_DB / 10)))
    return levels


def threshold_db(levels: npt.NDArray[np.float64]) -> float:
    """Above this a frame is speech. The noise floor and the peak are percentiles, so that a click
    or a dropout does not move them."""
    floor, peak = np.percentile(levels, [10, 98])
    return float(max(floor + MARGIN_DB, peak - RANGE_DB))


def find_speech(pcm: npt.NDArray[np.int16]) -> list[Interval]:
    """The stretches of speech, in order. Empty for silence and for steady noise."""
    levels = frame_levels_db(pcm)
    if not len(levels):
        return []
    loud = levels > threshold_db(levels)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], loud.astype(np.int8), [0]))))
    runs = [
        Interval(int(a) * FRAME_SAMPLES, int(b) * FRAME_SAMPLES)
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]
    return merge(runs)


def merge(runs: list[Interval]) -> list[Interval]:
    """Join runs over short gaps, then drop what is too short to be speech."""
    joined: list[Interval] = []
    for run in runs:
        if joined and run.start - joined[-1].end < MAX_GAP_MS * RATE_HZ // 1000:
            joined[-1] = Interval(joined[-1].start, run.end)
        else:
            joined.append(run)
    return [run for run in joined if run.end - run.start >= MIN_RUN_MS * RATE_HZ // 1000]


def inside(speech: list[Interval], start: int, end: int) -> list[Interval]:
    """The stretches that share a sample with [start, end)."""
    return [run for run in speech if run.end > start and run.start < end]
