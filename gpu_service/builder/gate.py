"""The accuracy gate: runs an encoder over its buckets and compares it with the reference.

Called after a build, for each encoder that was built, and by a service that finds its engine folder
on another GPU or driver than it was made on. What is close enough is accuracy.py's to say. It knows
an encoder only as a Backend, which tests fake.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..decoding.tdt_weights import DecoderWeights
from ..errors import ModelError
from ..gpu.encoder_layers import Bucket
from .accuracy import (
    LIMITS,
    Limits,
    Step,
    closeness,
    decisions,
    merged,
    problems,
    reference_steps,
)
from .manifest import (
    REBUILD,
    REFERENCE,
    BucketResult,
    Candidate,
    EncoderKind,
    EngineManifest,
    Machine,
    Manifest,
    check_files,
    differences,
)
from .reference import Reference, load_reference

Array = NDArray[np.float32]
Done = Callable[[int, int], None]  # so many of how many
MAX_TIMED_RUNS = 20
CHECKED = "checked-{}.json"  # in the folder: machines on which the gate was passed


class GateError(ModelError):
    """An encoder's output is too far from the reference's."""


class Backend(Protocol):
    """An encoder on a device, with features that are given to it."""

    name: EncoderKind
    buckets: tuple[Bucket, ...]

    def encode(self, bucket: Bucket, features: Sequence[Array]) -> Array:
        """At most B utterances (T, F) -> (B, N, J). Raises DeviceError."""
        ...

    def time_ms(self, bucket: Bucket, features: Sequence[Array], num_runs: int) -> float:
        """The median time on the device. Raises DeviceError."""
        ...

    def is_graph(self, bucket: Bucket) -> bool:
        """Whether the bucket runs as one CUDA graph."""
        ...


def examine(
    backend: Backend,
    reference: Reference,
    decoder: DecoderWeights,
    limits: Limits,
    done: Done = lambda *_: None,
) -> Candidate:
    """Compare and time every bucket. `problem` of the answer says what is too far away."""
    results, decided = [], []
    known: dict[int, list[Step]] = {}
    for number, bucket in enumerate(backend.buckets):
        utterances = reference.of(bucket.frames)
        batch = [utterances[row % len(utterances)] for row in range(bucket.batch)]
        features = [utterance.features for utterance in batch]
        answer = backend.encode(bucket, features)
        found = [answer[row, : len(u.projected)] for row, u in enumerate(batch)]
        close = closeness(found, [utterance.projected for utterance in batch])
        results.append(
            BucketResult(
                bucket=bucket,
                relative_error=close.relative_error,
                cosine=close.cosine,
                ms=backend.time_ms(bucket, features, MAX_TIMED_RUNS),
                is_graph=backend.is_graph(bucket),
            )
        )
        for utterance, frames in list(zip(batch, found, strict=True))[: len(utterances)]:
            if utterance.num_rows not in known:
                known[utterance.num_rows] = reference_steps(decoder, utterance.projected)
            decided.append(decisions(decoder, known[utterance.num_rows], frames))
        done(number + 1, len(backend.buckets))
    total = merged(decided)
    return Candidate(
        encoder=backend.name,
        results=tuple(results),
        decisions=total,
        problem="; ".join(problems(limits, results, total)),
    )


def ensure_checked(
    folder: Path,
    manifest: Manifest,
    machine: Machine,
    decoder: DecoderWeights,
    open_backend: Callable[[], Backend],
) -> bool:
    """Let an engine folder pass the gate once on a machine that it was not made on.

    Returns whether the gate had to be run. Raises GateError, ModelFileError.
    """

    def judge() -> Candidate:
        reference = load_reference(folder / REFERENCE)
        return examine(open_backend(), reference, decoder, LIMITS[manifest.precision])

    return ensure_judged(folder, manifest, machine, judge)


def ensure_judged(
    folder: Path, manifest: EngineManifest, machine: Machine, judge: Callable[[], Candidate]
) -> bool:
    """Have an engine of any family judged, once on a machine that it was not made on.

    Returns whether it had to be. Raises GateError, ModelFileError.
    """
    if not differences(manifest, machine):
        return False
    mark = folder / CHECKED.format(_fingerprint(manifest, machine))
    if mark.is_file():
        return False
    check_files(folder, manifest, [REFERENCE])
    candidate = judge()
    if candidate.problem:
        raise GateError(
            f"{folder} does not compute right on {machine.gpu}: {candidate.problem}", REBUILD
        )
    with contextlib.suppress(OSError):  # a folder that is only readable is checked at every start
        mark.write_bytes(msgspec.json.encode(candidate))
    return True


def _fingerprint(manifest: EngineManifest, machine: Machine) -> str:
    data = manifest.key.encode() + msgspec.json.encode(machine, order="sorted")
    return hashlib.sha256(data).hexdigest()[:16]
