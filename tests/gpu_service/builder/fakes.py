"""A toolchain without a GPU: encoders that are the CPU engine with a fault of a known size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_service.builder.build import Job, MadeEncoder, Progress
from gpu_service.builder.manifest import EncoderKind, Machine
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.errors import ModelError
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.trt_compat import TrtPrecision
from gpu_service.weights.parakeet_weights import ParakeetWeights

Array = NDArray[np.float32]
Fault = Callable[[Array], Array]

H100 = Machine(
    gpu="NVIDIA H100 80GB HBM3",
    compute_capability="9.0",
    driver="580.159.03",
    libraries={
        "earwire": "0.1.0", "cuda-bindings": "13.0.3", "nvmath-python": "1.0.0",
        "cublas": "13.1.0", "tensorrt": "11.4.0.106",
    },
)  # fmt: skip


def exact(frames: Array) -> Array:
    return frames


def off_by(relative: float) -> Fault:
    """Noise of that size, the same every time."""

    def fault(frames: Array) -> Array:
        noise = np.random.default_rng(1).standard_normal(frames.shape).astype(np.float32)
        noise *= np.linalg.norm(frames) / np.linalg.norm(noise)
        return frames + np.float32(relative) * noise

    return fault


@dataclass
class FakeBackend:
    """See Backend."""

    name: EncoderKind
    weights: ParakeetWeights
    buckets: tuple[Bucket, ...]
    fault: Fault = exact
    ms: float = 1.0

    def __post_init__(self) -> None:
        self._encoder = ParakeetEncoder(self.weights, 1)
        self.encoded: list[Bucket] = []

    def encode(self, bucket: Bucket, features: Sequence[Array]) -> Array:
        self.encoded.append(bucket)
        assert len(features) == bucket.batch
        out = np.full((bucket.batch, bucket.frames, self.weights.config.decoder_width), np.nan)
        for row, each in enumerate(features):
            frames = self.fault(self._encoder.encode_exact(each))
            out[row, : len(frames)] = frames
        return out.astype(np.float32)

    def time_ms(self, bucket: Bucket, features: Sequence[Array], num_runs: int) -> float:
        return self.ms

    def is_graph(self, bucket: Bucket) -> bool:
        return True


@dataclass
class FakeToolchain:
    """See Toolchain."""

    faults: dict[EncoderKind, Fault | Exception] = field(
        default_factory=lambda: {"cublas": exact, "tensorrt": exact}
    )
    missing: dict[EncoderKind, str] = field(default_factory=dict)
    times_ms: dict[EncoderKind, float] = field(
        default_factory=lambda: {"cublas": 1.0, "tensorrt": 2.0}
    )
    machine: Machine = H100
    tuning_error: Exception | None = None

    def __post_init__(self) -> None:
        self.made: list[EncoderKind] = []
        self.jobs: list[Job] = []
        self.tuned: list[GpuParakeetSettings] = []

    def obstacles(self, precision: TrtPrecision) -> Mapping[EncoderKind, str]:
        return {kind: self.missing.get(kind, "") for kind in ("cublas", "tensorrt")}

    def make(self, kind: EncoderKind, job: Job, progress: Progress) -> MadeEncoder:
        self.made.append(kind)
        self.jobs.append(job)
        fault = self.faults[kind]
        if isinstance(fault, Exception):
            raise fault
        backend = FakeBackend(kind, job.weights, job.buckets, fault, self.times_ms[kind])
        if kind == "cublas":
            return MadeEncoder(backend)
        files = {"encoder.plan": b"plan", "timing.cache": b"times"}
        return MadeEncoder(backend, files, job.buckets)

    def tune(
        self, weights: ParakeetWeights, settings: GpuParakeetSettings, progress: Progress
    ) -> Mapping[str, bytes]:
        if self.tuning_error is not None:
            raise self.tuning_error
        self.tuned.append(settings)
        return {"tactics.json": b"{}"}


class Told:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.notes: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def step(self, done: int, total: int, note: str = "") -> None:
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


class NoGpu:
    """A toolchain that can not be had."""

    def __call__(self) -> FakeToolchain:
        raise ModelError("this needs an NVIDIA GPU", "nvidia-smi should list one")
