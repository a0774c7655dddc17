"""Which buckets an engine is built, checked and tuned for.

Built and checked: from a fifth of a second to the longest utterance, alone, in small batches and in
full ones. Each is a profile of TensorRT's, and costs its share of the build; the encoder of our own
kernels takes any multiple of 8 frames at run time, and is checked at these. Tuned: for those that a
service of default settings prepares. Pure.
"""

from __future__ import annotations

from ..gpu.encoder_layers import Bucket
from ..gpu.encoder_weights import VECTOR
from ..gpu.parakeet_settings import GpuParakeetSettings, own_precision
from ..gpu.trt_compat import TrtPrecision
from ..parakeet_rules import ParakeetRules
from ..words import SAMPLE_RATE_HZ

FRAMES = (8, 32, 104, 200, 392)  # 0.64, 2.6, 8.3, 16 and 31 s
SMALL_BATCH = 8
MAX_BUCKET_FRAMES = 128 * 200  # of all its utterances: 34 minutes of audio


def longest_frames(max_utterance_ms: int) -> int:
    """Frames of the longest run: an utterance with the context at its cuts, in whole vectors."""
    samples = max_utterance_ms * SAMPLE_RATE_HZ // 1000
    frames = ParakeetRules(max_utterance_samples=samples).max_frames
    return -(-frames // VECTOR) * VECTOR


def default_buckets(max_frames: int, max_batch: int) -> tuple[Bucket, ...]:
    """Ordered by batch, then by frames."""
    frames = sorted({n for n in FRAMES if n < max_frames} | {max_frames})
    batches = sorted({1, min(SMALL_BATCH, max_batch), max_batch})
    return tuple(
        Bucket(batch, n)
        for batch in batches
        for n in frames
        if batch == 1 or batch * n <= MAX_BUCKET_FRAMES
    )


def service_settings(max_utterance_ms: int, precision: TrtPrecision) -> GpuParakeetSettings:
    """Of a service of default settings for as many streams as there may be.

    One for fewer streams, or with a longer hop, has some of its buckets and no others.
    """
    samples = max_utterance_ms * SAMPLE_RATE_HZ // 1000
    return GpuParakeetSettings(max_utterance_samples=samples, precision=own_precision(precision))
