"""`earwire build` of Parakeet, in order: model, reference, encoders, gate, choice, tuning, folder.

Everything is made in a folder beside the one that was asked for, which takes that name when the
engine has passed the gate; so what stands there is whole and has been checked, and a build that
fails leaves nothing. An encoder is off the device again when the next one comes. Encoders come from
a Toolchain (gpu_toolchain.py, or a fake), and what happens is told to a Progress. Knows no terminal
and no CUDA.
"""

from __future__ import annotations

import gc
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from ..cpu.parakeet_encoder import ParakeetEncoder
from ..cpu.parakeet_features import mel_bank, window
from ..errors import ModelError, ModelFileError
from ..gpu.device import DeviceError
from ..gpu.encoder_layers import Bucket
from ..gpu.parakeet_settings import GpuParakeetSettings
from ..gpu.trt_compat import TrtPrecision
from ..weights.parakeet_checkpoint import load_checkpoint
from ..weights.parakeet_weights import ParakeetWeights, prepare
from .accuracy import LIMITS
from .buckets import default_buckets, longest_frames, service_settings
from .engine_folder import as_stored, write_weights
from .gate import Backend, GateError, examine
from .machine import of_encoder
from .manifest import (
    REFERENCE,
    TIMING_CACHE,
    Candidate,
    EncoderKind,
    M,
    Machine,
    Manifest,
    engine_key,
    file_records,
    is_engine_folder,
    read_manifest,
    sha256_of,
    write_manifest,
)
from .reference import Reference, make_reference, save_reference

OWN_SOURCES = ("encoder_network.py", "network_layers.py", "network_weights.py")
SOURCES = Path(__file__).parent.parent / "gpu"  # what an engine computes with


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What was asked for."""

    model: str
    out: Path
    precision: TrtPrecision = "fp16"
    encoder: Literal["auto", "cublas", "tensorrt"] = "auto"
    max_batch: int = 64
    max_utterance_ms: int = 30_000
    tensorrt_level: int = 3
    force: bool = False
    num_threads: int = field(default_factory=lambda: os.cpu_count() or 1)


class Progress(Protocol):
    """Where a build says what it does."""

    def stage(self, title: str) -> None:
        """The next stage begins."""
        ...

    def step(self, done: int, total: int, note: str = "") -> None:
        """How far the stage is."""
        ...

    def note(self, text: str) -> None:
        """Something that should be known."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """What an encoder is made from."""

    weights: ParakeetWeights
    precision: TrtPrecision
    buckets: tuple[Bucket, ...]
    tensorrt_level: int
    timing_cache: bytes  # of an earlier build, or nothing


@dataclass(frozen=True, slots=True)
class MadeEncoder:
    """An encoder that can be tried, and what of it goes into the folder."""

    backend: Backend
    files: Mapping[str, bytes] = field(default_factory=dict)
    plan_buckets: tuple[Bucket, ...] = ()  # see Manifest


class Tools(Protocol):
    """The GPU and the libraries of this machine."""

    machine: Machine

    def obstacles(self, precision: TrtPrecision) -> Mapping[EncoderKind, str]:
        """For each encoder why it can not be built here; empty where it can."""
        ...


class Toolchain(Tools, Protocol):
    """What they make of Parakeet."""

    def make(self, kind: EncoderKind, job: Job, progress: Progress) -> MadeEncoder:
        """Build one; minutes. Raises ModelError, DeviceError."""
        ...

    def tune(
        self, weights: ParakeetWeights, settings: GpuParakeetSettings, progress: Progress
    ) -> Mapping[str, bytes]:
        """Find what makes a service of these settings faster, as files of the folder.

        Raises ModelError, DeviceError.
        """
        ...


def build(options: BuildOptions, toolchain: Toolchain, progress: Progress) -> Manifest:
    """The engine folder. Raises ModelError."""
    kinds = usable_encoders(options, toolchain.obstacles(options.precision), progress)
    progress.stage("reading the model")
    checkpoint = load_checkpoint(options.model)
    checkpoint.check_front_end(window(), mel_bank())
    buckets = default_buckets(longest_frames(options.max_utterance_ms), options.max_batch)
    settings = service_settings(options.max_utterance_ms, options.precision)
    weights_sha256 = sha256_of(checkpoint.source.files)
    key = _key(options, toolchain.machine, weights_sha256, [*buckets, *settings.buckets()])
    if (known := existing(options, key, read_manifest)) is not None:
        progress.note(f"{options.out} is up to date")
        return known
    progress.stage("preparing weights")
    weights = prepare(checkpoint, max(bucket.frames for bucket in buckets))
    reference = _reference(weights, buckets, options.num_threads, progress)
    job = Job(
        as_stored(weights, options.precision),
        options.precision,
        buckets,
        options.tensorrt_level,
        timing_cache_of(options.out),
    )
    trials = [
        tried(kind, partial(_try, kind, job, reference, toolchain, progress), progress)
        for kind in kinds
    ]
    best = choose([trial.candidate for trial in trials])
    kept = next(trial for trial in trials if trial.candidate is best)
    tuned = _tune(job.weights, settings, toolchain, progress)
    progress.stage("writing the engine")
    with Workplace(options.out) as folder:
        _write(folder, job, reference, {**kept.files, **tuned})
        manifest = Manifest(
            earwire=toolchain.machine.libraries.get("earwire", ""),
            key=key,
            model_id=checkpoint.model_id,
            weights_sha256=weights_sha256,
            config=checkpoint.config,
            max_frames=weights.max_frames,
            max_batch=options.max_batch,
            precision=options.precision,
            encoder=best.encoder,
            machine=of_encoder(toolchain.machine, best.encoder),
            candidates=tuple(trial.candidate for trial in trials),
            plan_buckets=kept.plan_buckets,
            files=file_records(folder),
        )
        write_manifest(folder, manifest)
    return manifest


@dataclass(frozen=True, slots=True)
class Trial:
    """An encoder, how it did, and what it leaves."""

    candidate: Candidate
    files: Mapping[str, bytes] = field(default_factory=dict)
    plan_buckets: tuple[Bucket, ...] = ()


def _write(folder: Path, job: Job, reference: Reference, files: Mapping[str, bytes]) -> None:
    """Everything but the manifest."""
    write_weights(folder, job.weights, job.precision)
    save_reference(folder / REFERENCE, reference)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest that passed the gate: by the geometric mean over the buckets.

    Raises GateError where none did.
    """
    passed = [candidate for candidate in candidates if not candidate.problem]
    if not passed:
        reasons = "; ".join(f"{c.encoder}: {c.problem}" for c in candidates)
        raise GateError(f"no engine was kept. {reasons}")
    return min(passed, key=mean_ms)


def mean_ms(candidate: Candidate) -> float:
    """Geometric mean of the buckets' times."""
    logs = [math.log(max(result.ms, 1e-6)) for result in candidate.results]
    return math.exp(sum(logs) / max(len(logs), 1))


def usable_encoders(
    options: BuildOptions, obstacles: Mapping[EncoderKind, str], progress: Progress
) -> list[EncoderKind]:
    """Those that were asked for and can be built here. Raises ModelError where there are none."""
    wanted = [kind for kind in obstacles if options.encoder in ("auto", kind)]
    usable = [kind for kind in wanted if not obstacles[kind]]
    if not usable:
        raise ModelError("; ".join(f"{kind}: {obstacles[kind]}" for kind in wanted))
    for kind in wanted:
        if obstacles[kind]:
            progress.note(f"without {kind}: {obstacles[kind]}")
    return usable


def _key(
    options: BuildOptions, machine: Machine, weights_sha256: str, buckets: Sequence[Bucket]
) -> str:
    inputs = {
        "sources": _sources_sha256(),
        "weights": weights_sha256,
        "precision": options.precision,
        "encoder": options.encoder,
        "buckets": [[bucket.batch, bucket.frames] for bucket in buckets],
        "level": options.tensorrt_level,
    }
    return engine_key(machine, inputs)


def _sources_sha256() -> str:
    own = [Path(__file__).with_name(name) for name in OWN_SOURCES]
    patterns = ("encoder*.py", "trt*.py", "kernels/*.cu", "kernels/*.cuh")
    paths = sorted(path for pattern in patterns for path in SOURCES.glob(pattern))
    digests = [sha256_of([path]) for path in [*own, *paths]]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def existing(options: BuildOptions, key: str, read: Callable[[Path], M]) -> M | None:
    """The engine that is there, where it is the one that would be built. Raises ModelFileError."""
    if not options.out.exists():
        return None
    if is_engine_folder(options.out):
        if options.force:
            return None
        manifest = read(options.out)
        if manifest.key == key:
            return manifest
        problem = f"{options.out} holds another engine, of {manifest.model_id}"
        raise ModelFileError(problem, "--force replaces it")
    if options.out.is_dir() and not any(options.out.iterdir()):
        return None
    raise ModelFileError(f"{options.out} is there and no engine folder", "name another folder")


def timing_cache_of(out: Path) -> bytes:
    """Of the engine that is there, or nothing."""
    path = out / TIMING_CACHE
    return path.read_bytes() if is_engine_folder(out) and path.is_file() else b""


def _reference(
    weights: ParakeetWeights, buckets: Sequence[Bucket], num_threads: int, progress: Progress
) -> Reference:
    progress.stage("computing the reference on the CPU")
    oracle = ParakeetEncoder(weights, num_threads)
    frames = sorted({bucket.frames for bucket in buckets})
    return make_reference(frames, oracle.encode_exact, progress.step)


def tried(kind: EncoderKind, attempt: Callable[[], Trial], progress: Progress) -> Trial:
    """Build and examine one; where it can not be built it is a candidate with a problem.

    Raises ModelError where the device is lost.
    """
    try:
        trial = attempt()
    except DeviceError as error:
        if error.is_sticky:
            raise ModelError(f"the GPU failed under the {kind} encoder: {error}") from error
        trial = Trial(Candidate(encoder=kind, problem=str(error)))
    except ModelError as error:
        trial = Trial(Candidate(encoder=kind, problem=str(error)))
    gc.collect()  # what it had on the device goes with it, cycles too
    if trial.candidate.problem:
        progress.note(f"{kind} is not used: {trial.candidate.problem}")
    return trial


def _try(
    kind: EncoderKind, job: Job, reference: Reference, toolchain: Toolchain, progress: Progress
) -> Trial:
    progress.stage(f"building the {kind} encoder")
    made = toolchain.make(kind, job, progress)
    progress.stage(f"checking the {kind} encoder")
    limits = LIMITS[job.precision]
    candidate = examine(made.backend, reference, job.weights.decoder, limits, progress.step)
    return Trial(candidate, made.files, made.plan_buckets)


def _tune(
    weights: ParakeetWeights,
    settings: GpuParakeetSettings,
    toolchain: Toolchain,
    progress: Progress,
) -> Mapping[str, bytes]:
    progress.stage("tuning matrix products")
    try:
        return toolchain.tune(weights, settings, progress)
    except DeviceError as error:
        raise ModelError(f"the GPU failed while products were tuned: {error}") from error


class Workplace:
    """A folder beside `out` that becomes it when the block ends well."""

    def __init__(self, out: Path) -> None:
        self._out = out.resolve()  # a link goes on naming the engine
        self._partial = self._out.with_name(f".{self._out.name}.partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return self._partial

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        old = self._out.with_name(f".{self._out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._out.exists():
            self._out.rename(old)
        self._partial.rename(self._out)
        shutil.rmtree(old, ignore_errors=True)
