"""The two encoders as `earwire build` makes them: our own kernels' and TensorRT's.

The only module of the builder that knows both. What comes out can be examined (gate.py).
"""

from __future__ import annotations

from typing import Any

from ..gpu.device import Device
from ..gpu.gate_backend import DeviceBackend, FixedStore, cublas_backend
from ..gpu.gemm import Gemms
from ..gpu.trt import TensorRtEncoder
from .build import Job, MadeEncoder, Progress
from .manifest import PLAN, TIMING_CACHE
from .network_weights import network_weights
from .tensorrt_plan import build_plan


def make_cublas(device: Device, gemms: Gemms, job: Job) -> MadeEncoder:
    """The encoder of our own kernels. Raises DeviceError."""
    assert job.precision != "bf16"
    return MadeEncoder(cublas_backend(device, gemms, job.weights, job.precision, job.buckets))


def make_tensorrt(trt: Any, device: Device, job: Job, progress: Progress) -> MadeEncoder:
    """TensorRT's encoder, a plan with a profile for each bucket. Raises ModelError, DeviceError."""
    built = build_plan(
        trt,
        job.weights.config,
        network_weights(job.weights, job.precision),
        job.buckets,
        job.precision,
        job.tensorrt_level,
        job.timing_cache,
        lambda phase, done, total: progress.step(done, total, phase),
    )
    store = FixedStore(device, max(bucket.frames for bucket in job.buckets))
    encoder = TensorRtEncoder(
        trt,
        device,
        built.data,
        job.buckets,
        store,
        max_frames=job.weights.max_frames,
        output_width=job.weights.config.decoder_width,
    )
    backend = DeviceBackend("tensorrt", device, store, encoder, job.buckets)
    files = {PLAN: built.data, TIMING_CACHE: built.timing_cache}
    return MadeEncoder(backend, files, job.buckets)
