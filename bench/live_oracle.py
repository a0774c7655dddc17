"""Finals of `bench live` against the oracle: the CPU engine in single precision, on the same audio.

For Parakeet. A sample of all finals, spread evenly over the streams, is decoded again from the
recording: features, ONNX Runtime's encoder, the host's search. An engine in half precision may
decide otherwise where two choices lie close together; so beside the finals that differ stands the
oracle's margin at the first difference (gpu_margins.py). A small one is rounding, a large one a
fault. The tokens' ids, frames and durations are compared, as native finals list them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint, load_checkpoint

from .audio_source import Recording
from .gpu_margins import first_difference, margin_at, said
from .live_log import Shown, StreamLog

CLOSE_MARGIN = 0.25  # logits of half precision differ by so much where their error is largest


@dataclass(frozen=True, slots=True)
class Sampled:
    """One final, and the audio it is of."""

    final: Shown
    samples: NDArray[np.int16]


def sample_finals(
    logs: Sequence[StreamLog], recordings: Sequence[Recording], share: float, longest: int
) -> list[Sampled]:
    """Every 1/share-th final with text, at least one; those of cut utterances are left out.

    `longest`: samples of an utterance that was not cut for its length.
    """
    finals = [
        (shown, recording)
        for log, recording in zip(logs, recordings, strict=True)
        for shown in log.finals
        if shown.end_sample - shown.start_sample < longest
    ]
    step = max(1, round(1 / share))
    return [
        Sampled(shown, np.frombuffer(rec.pcm, np.int16)[shown.start_sample : shown.end_sample])
        for shown, rec in finals[step // 2 :: step] or finals[:1]
    ]


class Oracle:
    """Whole utterances, one at a time."""

    def __init__(self, checkpoint: ParakeetCheckpoint, longest_samples: int) -> None:
        from gpu_service.cpu.parakeet_encoder import open_encoder

        frames = -(-longest_samples // FRAME_SAMPLES) + 1
        num_threads = len(os.sched_getaffinity(0))
        self._encoder, self._weights = open_encoder(checkpoint, frames, num_threads)
        self._decoder = TdtDecoder(self._weights)

    def compare(self, sampled: Sampled) -> Comparison:
        """Decode the audio again, and look where the two part."""
        from gpu_service.cpu.parakeet_features import log_mel_features

        frames = self._encoder.encode_exact(log_mel_features(sampled.samples))
        tokens, _ = self._decoder.decode(frames, self._decoder.start())
        truth, found = said(tokens), [(t.id, t.frame, t.duration) for t in sampled.final.tokens]
        place = first_difference(found, truth)
        margin = None if place is None else margin_at(self._weights, frames, truth, place)
        ids, found_ids = ([id_ for id_, _, _ in row] for row in (truth, found))
        return Comparison(len(ids), _num_differing(ids, found_ids), margin)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One final against the oracle's."""

    num_tokens: int  # of the oracle
    num_differing: int  # ids, by the longest matching blocks
    margin: float | None  # at the first difference in id, frame or duration; None without one


def _num_differing(truth: Sequence[int], found: Sequence[int]) -> int:
    blocks = SequenceMatcher(None, truth, found, autojunk=False).get_matching_blocks()
    return max(len(truth), len(found)) - sum(block.size for block in blocks)


def summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """For the JSON line."""
    margins = sorted(_margins(comparisons))
    tokens = sum(comparison.num_tokens for comparison in comparisons)
    differing = sum(comparison.num_differing for comparison in comparisons)
    return {
        "finals": len(comparisons),
        "equal": len(comparisons) - len(margins),
        "tokens": tokens,
        "tokens_differing": differing,
        "tokens_differing_share": round(differing / max(1, tokens), 4),
        "margins_at_first_difference": [round(margin, 4) for margin in margins],
        "differing_beyond_rounding": sum(margin > CLOSE_MARGIN for margin in margins),
    }


def _margins(comparisons: Sequence[Comparison]) -> Iterator[float]:
    return (c.margin for c in comparisons if c.margin is not None)


def check_finals(
    logs: Sequence[StreamLog],
    recordings: Sequence[Recording],
    model: str,
    share: float,
    longest: int,
) -> dict[str, Any]:
    """The sample, decoded again. Raises ModelError."""
    oracle = Oracle(load_checkpoint(model), longest)
    return summary([oracle.compare(s) for s in sample_finals(logs, recordings, share, longest)])
