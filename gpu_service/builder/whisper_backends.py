"""Whisper's two encoders as `earwire build` makes them: our own kernels' and TensorRT's.

The decoder is ours in both. What comes out can be examined (whisper_gate.py).
"""

from __future__ import annotations

from typing import Any

from ..gpu.device import Device
from ..gpu.encoder_layers import Bucket
from ..gpu.gemm import Gemms
from ..gpu.parakeet_settings import own_precision
from ..gpu.trt_compat import Dialect
from ..gpu.trt_window import TensorRtTrunk, window_shapes
from ..gpu.whisper_encoder import batches_up_to
from ..gpu.whisper_gate_backend import WhisperDeviceBackend
from ..gpu.whisper_parts import load_whisper_parts
from .build import Progress
from .manifest import PLAN, TIMING_CACHE
from .tensorrt_plan import build_network_plan
from .whisper_build import MadeWhisper, WhisperJob
from .whisper_network import WhisperNetwork, whisper_network_weights


def make_own_whisper(device: Device, gemms: Gemms, job: WhisperJob) -> MadeWhisper:
    """The encoder of our own kernels. Raises ModelError, DeviceError."""
    assert job.precision != "bf16"
    parts = load_whisper_parts(job.checkpoint, device, gemms, job.precision, job.sizes)
    return MadeWhisper(WhisperDeviceBackend("cublas", parts))


def make_tensorrt_whisper(
    trt: Any, device: Device, gemms: Gemms, job: WhisperJob, progress: Progress
) -> MadeWhisper:
    """TensorRT's encoder, a plan with a profile for each batch. Raises ModelError, DeviceError."""
    config, positions = job.checkpoint.config, job.sizes.positions
    weights = whisper_network_weights(job.checkpoint, job.precision, positions)

    def put(dialect: Dialect, network: Any) -> object:
        encoder = WhisperNetwork(trt, dialect, network, config, weights, job.precision)
        encoder.build(positions)
        return encoder

    batches = batches_up_to(job.sizes.max_batch)
    built = build_network_plan(
        trt,
        put,
        [window_shapes(batch, positions, config.num_mels) for batch in batches],
        job.precision,
        job.tensorrt_level,
        job.timing_cache,
        lambda phase, done, total: progress.step(done, total, phase),
    )
    trunk = TensorRtTrunk(
        trt, device, built.data, batches, positions=positions, num_mels=config.num_mels
    )
    precision = own_precision(job.precision)
    parts = load_whisper_parts(job.checkpoint, device, gemms, precision, job.sizes, trunk)
    files = {PLAN: built.data, TIMING_CACHE: built.timing_cache}
    buckets = tuple(Bucket(batch, positions) for batch in batches)
    return MadeWhisper(WhisperDeviceBackend("tensorrt", parts), files, buckets)
