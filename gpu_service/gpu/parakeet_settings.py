"""How a server runs Parakeet-TDT on a GPU, and which buckets that makes. Pure.

A bucket is a batch of so many rows of so many encoder frames, a graph of its own. What a final is
computed in depends on its length alone, its batch is the same however many finals there are: so
nothing but an utterance's own audio can change a bit of its final. Drafts take the smallest bucket
that they fit in together. settings_for() fits the settings to an engine that was built.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..batch_buckets import bucket_of, buckets_below
from ..builder.manifest import Manifest
from ..decoding.tokens import FRAME_SAMPLES
from ..errors import ModelError
from ..parakeet_rules import CUT_RULE, MAX_PIECE_FRAMES, ParakeetRules
from ..words import SAMPLE_RATE_HZ
from .encoder_layers import Bucket
from .encoder_weights import VECTOR, Precision

# Of finals, up to the longest one: in steps of 1.3 s, and of a quarter at most above 20 s.
FINAL_FRAMES = (*range(16, 256, 16), *range(256, 512, 64), *range(512, 4096, 128))
INCREMENT_FRAMES = (10, 12, 16, 24, 40)  # for hops of 160 ms, 320 ms, ..., and for late drafts
MAX_DRAFTS = 256  # of one run: more of them would only take as much longer
WINDOW_FRAMES = 64  # windows are multiples of it


@dataclass(frozen=True, slots=True)
class GpuParakeetSettings(ParakeetRules):
    """See ParakeetRules."""

    precision: Precision = "fp16"
    max_streams: int = 32
    hop_ms: int = 160  # of most sessions: the smallest bucket of increments is made for it
    final_batch: int = 4  # utterances of one run of the encoder; a full one costs as one does
    max_finals: int = 16  # of one step
    max_drafts: int = MAX_DRAFTS
    draft_rows: int = 4096  # frames of one run, over all drafts in it
    final_frames: tuple[int, ...] = ()  # of all buckets of finals; empty: FINAL_FRAMES
    max_step_ms: float = 40.0
    staging_samples: int = 1 << 22  # of audio that the device can not read where it lies, 8 MB

    @property
    def num_slots(self) -> int:
        """Sessions on the device: the streams', and those of probes and of restarts."""
        return self.max_streams + 4

    @property
    def max_bucket_frames(self) -> int:
        """Of the longest final, a multiple of VECTOR."""
        return -(-self.max_samples // FRAME_SAMPLES // VECTOR) * VECTOR

    @property
    def most_frames(self) -> int:
        """The longest sequence that attention sees, cached frames included."""
        return max(self.max_bucket_frames, self.left_frames + self._longest_increment)

    @property
    def _longest_increment(self) -> int:
        return MAX_PIECE_FRAMES + self.look_ahead_frames + 1

    # -- buckets ---------------------------------------------------------------------------

    def final_bucket(self, num_frames: int) -> Bucket:
        """Where a final of so many frames is computed."""
        return Bucket(self.final_batch, _smallest(self._final_sizes(), num_frames))

    def draft_bucket(self, num_frames: int, count: int) -> Bucket:
        """The smallest bucket for `count` drafts of up to so many new frames each.

        `count` may not be more than most_drafts().
        """
        frames = self.draft_frames(num_frames)
        return Bucket(_smallest(self._draft_batches(frames), count), frames)

    def draft_frames(self, num_frames: int) -> int:
        """Frames of the bucket that a draft of so many new frames goes to."""
        return _smallest(self._draft_sizes(), num_frames)

    def most_drafts(self, bucket_frames: int) -> int:
        """How many drafts one run of that many frames takes."""
        return self._draft_batches(bucket_frames)[-1]

    def draft_buckets(self) -> list[Bucket]:
        """All there are."""
        return [
            Bucket(batch, frames)
            for frames in self._draft_sizes()
            for batch in self._draft_batches(frames)
        ]

    def final_buckets(self) -> list[Bucket]:
        """All there are."""
        return [Bucket(self.final_batch, frames) for frames in self._final_sizes()]

    def buckets(self) -> list[Bucket]:
        """All there are."""
        return [*self.final_buckets(), *self.draft_buckets()]

    def _final_sizes(self) -> list[int]:
        longest = self.max_bucket_frames
        return list(self.final_frames) or [*(n for n in FINAL_FRAMES if n < longest), longest]

    def _draft_batches(self, bucket_frames: int) -> list[int]:
        """How many drafts the buckets of that many frames take."""
        most = max(1, min(self.max_drafts, self.draft_rows // bucket_frames))
        fewer = buckets_below(most)
        return [*fewer, most] if most in (self.max_drafts, bucket_of(most)) else fewer

    def _draft_sizes(self) -> list[int]:
        if self.draft == "window":
            longest = self.max_bucket_frames
            return [*range(WINDOW_FRAMES, longest, WINDOW_FRAMES), longest]
        hop_frames = math.ceil(self.hop_ms * SAMPLE_RATE_HZ / 1000 / FRAME_SAMPLES)
        # A hop, the look-ahead, a frame that is not full and one that the hop came late by.
        ordinary = hop_frames + self.look_ahead_frames + 2
        longest = self._longest_increment
        return [*(n for n in INCREMENT_FRAMES if ordinary <= n < longest), longest]


def settings_for(
    folder: Path,
    manifest: Manifest,
    settings: GpuParakeetSettings,
    precision: Precision | None,
) -> GpuParakeetSettings:
    """The settings as the engine can keep them. Raises ModelError where it can not."""
    if precision not in (None, manifest.precision):
        raise ModelError(
            f"{folder} was built in {manifest.precision}",
            f"earwire build MODEL --out DIR --precision {precision}",
        )
    if settings.most_frames > manifest.max_frames:
        longest_ms = _longest_utterance_ms(manifest.max_frames)
        raise ModelError(
            f"{folder} was built for utterances of {longest_ms} ms",
            f"use --max-utterance-ms {longest_ms}, or build it for longer ones",
        )
    settings = replace(settings, precision=own_precision(manifest.precision))
    if manifest.encoder != "tensorrt":
        return settings
    return with_final_buckets(settings, manifest.plan_buckets)


def own_precision(precision: str) -> Precision:
    """What our kernels compute in: in half too, beside a TensorRT that does in bfloat16."""
    return "fp32" if precision == "fp32" else "fp16"


def with_final_buckets(
    settings: GpuParakeetSettings, buckets: Sequence[Bucket]
) -> GpuParakeetSettings:
    """Finals in the buckets that there are: in the smallest batch that is a batch and serves the
    longest utterance. Raises ModelError where there is none.
    """
    longest = settings.max_bucket_frames
    batches = sorted({b.batch for b in buckets if b.frames >= longest})
    if not batches:
        raise ModelError(f"the engine has no bucket of {longest} frames", "build it again")
    batch = next((b for b in batches if b >= settings.final_batch), batches[-1])
    frames = tuple(sorted(b.frames for b in buckets if b.batch == batch))
    return replace(settings, final_batch=batch, final_frames=frames)


def _longest_utterance_ms(max_frames: int) -> int:
    around = CUT_RULE.left_samples + 2 * CUT_RULE.right_samples
    return (max_frames * FRAME_SAMPLES - around) * 1000 // SAMPLE_RATE_HZ


def _smallest(sizes: Sequence[int], at_least: int) -> int:
    return next(size for size in sizes if size >= at_least)
