"""Tuning: the fastest algorithm of every product that a service plans, found once.

It does what a service does when it starts, with products that try the library's proposals before
they choose. So exactly those of every bucket are tuned, and every kernel is in the disk cache when
a service starts. About ten products a bucket, eight proposals each, a millisecond or two for each
of them. Knows no library: `gemms` is a CublasGemms that tunes.
"""

from __future__ import annotations

from ..gpu.device import Device
from ..gpu.gemm import Gemms
from ..gpu.parakeet_parts import load_parts
from ..gpu.parakeet_settings import GpuParakeetSettings, own_precision
from ..gpu.whisper_parts import load_whisper_parts
from ..weights.parakeet_weights import ParakeetWeights
from .build import Progress
from .whisper_build import WhisperJob


def plan_products(
    device: Device,
    gemms: Gemms,
    weights: ParakeetWeights,
    settings: GpuParakeetSettings,
    progress: Progress,
) -> None:
    """Have every product planned. Raises ModelError where memory is too little, DeviceError."""
    parts = load_parts(device, gemms, weights, settings)
    finals, drafts = settings.final_buckets(), settings.draft_buckets()
    for number, bucket in enumerate([*finals, *drafts]):
        note = f"{bucket.batch} x {bucket.frames} frames"
        progress.step(number, len(finals) + len(drafts), note)
        prepare = parts.encoder.prepare if number < len(finals) else parts.increments.prepare
        prepare(bucket)


def plan_whisper_products(
    device: Device, gemms: Gemms, job: WhisperJob, progress: Progress
) -> None:
    """Have every product of a Whisper service planned. Raises as plan_products() does."""
    precision = own_precision(job.precision)
    parts = load_whisper_parts(job.checkpoint, device, gemms, precision, job.sizes)
    batches = parts.encoder.batches
    for number, batch in enumerate(batches):
        progress.step(number, len(batches), f"{batch} windows")
        parts.encoder.prepare(batch)
        parts.decoder.prepare(batch)
        parts.decoder.prepare_prompts(batch)
