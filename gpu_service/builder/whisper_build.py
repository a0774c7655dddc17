"""`earwire build` for Whisper: the sequence of build.py, with a checkpoint for weights.

The folder is a checkpoint in transformers' form, in the engine's precision; encoders are built and
checked from what was written, so they are what a service will make of the files. Encoders come
from a WhisperToolchain (gpu_toolchain.py, or a fake). Knows no terminal and no CUDA.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import ModelError
from ..gpu.device import DeviceError
from ..gpu.encoder_layers import Bucket
from ..gpu.trt_compat import TrtPrecision
from ..gpu.whisper_parts import WhisperSizes
from ..weights.whisper_checkpoint import WhisperCheckpoint, load_whisper
from ..weights.whisper_folder import write_whisper_folder
from .accuracy import LIMITS
from .build import (
    SOURCES,
    BuildOptions,
    Progress,
    Tools,
    Trial,
    Workplace,
    choose,
    existing,
    timing_cache_of,
    tried,
    usable_encoders,
)
from .machine import of_encoder
from .manifest import (
    REFERENCE,
    EncoderKind,
    Machine,
    WhisperManifest,
    engine_key,
    file_records,
    read_whisper_manifest,
    sha256_of,
    write_manifest,
)
from .whisper_gate import WhisperBackend, examine_whisper
from .whisper_reference import WhisperUtterance, make_whisper_reference, save_whisper_reference

MAX_BATCH = 32  # windows of one run: a service has no more
SOURCE_PATTERNS = ("whisper*.py", "trt*.py", "kernels/whisper*.cu", "kernels/*.cuh")
OWN_SOURCES = ("whisper_network.py", "network_layers.py", "network_weights.py")


@dataclass(frozen=True, slots=True)
class WhisperJob:
    """What an encoder is made from."""

    checkpoint: WhisperCheckpoint  # of the engine folder
    precision: TrtPrecision
    sizes: WhisperSizes
    tensorrt_level: int
    timing_cache: bytes  # of an earlier build, or nothing


@dataclass(frozen=True, slots=True)
class MadeWhisper:
    """An engine that can be tried, and what of it goes into the folder."""

    backend: WhisperBackend
    files: Mapping[str, bytes] = field(default_factory=dict)
    plan_buckets: tuple[Bucket, ...] = ()  # see EngineManifest


class WhisperToolchain(Tools, Protocol):
    """What the GPU and the libraries of this machine make of Whisper."""

    def make_whisper(self, kind: EncoderKind, job: WhisperJob, progress: Progress) -> MadeWhisper:
        """Build one; minutes. Raises ModelError, DeviceError."""
        ...

    def tune_whisper(self, job: WhisperJob, progress: Progress) -> Mapping[str, bytes]:
        """Find what makes a service faster, as files of the folder.

        Raises ModelError, DeviceError.
        """
        ...


def build_whisper(
    options: BuildOptions,
    toolchain: WhisperToolchain,
    progress: Progress,
    sizes: WhisperSizes | None = None,
) -> WhisperManifest:
    """The engine folder. `sizes` are others in tests only. Raises ModelError."""
    kinds = usable_encoders(options, toolchain.obstacles(options.precision), progress)
    sizes = (sizes or WhisperSizes(max_batch=min(options.max_batch, MAX_BATCH))).fitted()
    progress.stage("reading the model")
    source = load_whisper(options.model)
    weights_sha256 = sha256_of(source.source.files)
    key = _key(options, toolchain.machine, weights_sha256, sizes)
    if (known := existing(options, key, read_whisper_manifest)) is not None:
        progress.note(f"{options.out} is up to date")
        return known
    progress.stage("computing the reference on the CPU")
    reference = make_whisper_reference(source, sizes.positions, progress.step)
    timing_cache = timing_cache_of(options.out)
    with Workplace(options.out) as folder:
        progress.stage("writing weights")
        matrices = np.float16 if options.precision == "fp16" else np.float32
        write_whisper_folder(folder, source, matrices)
        save_whisper_reference(folder / REFERENCE, reference)
        job = WhisperJob(
            load_whisper(str(folder)), options.precision, sizes, options.tensorrt_level,
            timing_cache,
        )  # fmt: skip
        trials = [
            tried(kind, partial(_try, kind, job, reference, toolchain, progress), progress)
            for kind in kinds
        ]
        best = choose([trial.candidate for trial in trials])
        kept = next(trial for trial in trials if trial.candidate is best)
        tuned = _tune(job, toolchain, progress)
        progress.stage("writing the engine")
        for name, data in {**kept.files, **tuned}.items():
            (folder / name).write_bytes(data)
        manifest = WhisperManifest(
            earwire=toolchain.machine.libraries.get("earwire", ""),
            key=key,
            model_id=source.model_id,
            weights_sha256=weights_sha256,
            family="whisper",
            max_batch=sizes.max_batch,
            precision=options.precision,
            encoder=best.encoder,
            machine=of_encoder(toolchain.machine, best.encoder),
            candidates=tuple(trial.candidate for trial in trials),
            plan_buckets=kept.plan_buckets,
            files=file_records(folder),
        )
        write_manifest(folder, manifest)
    return manifest


def _key(options: BuildOptions, machine: Machine, weights_sha256: str, sizes: WhisperSizes) -> str:
    own = [Path(__file__).with_name(name) for name in OWN_SOURCES]
    paths = sorted(path for pattern in SOURCE_PATTERNS for path in SOURCES.glob(pattern))
    digests = [sha256_of([path]) for path in [*own, *paths]]
    inputs = {
        "family": "whisper",
        "sources": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "weights": weights_sha256,
        "precision": options.precision,
        "encoder": options.encoder,
        "batch": sizes.max_batch,
        "positions": sizes.positions,
        "level": options.tensorrt_level,
    }
    return engine_key(machine, inputs)


def _try(
    kind: EncoderKind,
    job: WhisperJob,
    reference: Sequence[WhisperUtterance],
    toolchain: WhisperToolchain,
    progress: Progress,
) -> Trial:
    progress.stage(f"building the {kind} encoder")
    made = toolchain.make_whisper(kind, job, progress)
    progress.stage(f"checking the {kind} encoder")
    candidate = examine_whisper(made.backend, reference, LIMITS[job.precision], progress.step)
    return Trial(candidate, made.files, made.plan_buckets)


def _tune(job: WhisperJob, toolchain: WhisperToolchain, progress: Progress) -> Mapping[str, bytes]:
    progress.stage("tuning matrix products")
    try:
        return toolchain.tune_whisper(job, progress)
    except DeviceError as error:
        raise ModelError(f"the GPU failed while products were tuned: {error}") from error
