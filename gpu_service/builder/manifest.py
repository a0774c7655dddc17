"""Manifest: what an engine folder holds, for which machine it was made, and how it was checked.

    DIR/manifest.json           this, written last
    DIR/encoder.safetensors     prepared weights of the encoder, matrices in the precision
    DIR/decoder.safetensors     of the decoder, float32
    DIR/vocabulary.json         pieces by id, or null
    DIR/reference.safetensors   fixed features, and what the CPU engine makes of them
    DIR/encoder.plan            TensorRT's engine, where that is the encoder
    DIR/timing.cache            and what its build measured, for the next one
    DIR/tactics.json            the fastest algorithms of our own kernels' products

Whisper's folder has, in the place of weights and vocabulary, a checkpoint in transformers' form:
config.json, generation_config.json, tokenizer.json, model.safetensors.

Reading checks that every file is there in its size; check_files() hashes them, which whoever
runs the plan has to do first. A folder is good for the GPU model and libraries that it was made
with: differences() says what is another one. Pure but for reading files; the service imports it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..errors import ModelFileError, ModelNotFoundError
from ..gpu.encoder_layers import Bucket
from ..gpu.trt_compat import TrtPrecision
from ..weights.parakeet_config import ParakeetConfig

FORMAT = 1
MANIFEST = "manifest.json"
ENCODER_WEIGHTS, DECODER_WEIGHTS = "encoder.safetensors", "decoder.safetensors"
VOCABULARY, REFERENCE = "vocabulary.json", "reference.safetensors"
PLAN, TIMING_CACHE = "encoder.plan", "timing.cache"
GEMM_TACTICS = "tactics.json"
MAX_MANIFEST_BYTES = 4 << 20
HASH_PIECE_BYTES = 16 << 20
REBUILD = "build it again on this machine: earwire build MODEL --out DIR"

EncoderKind = Literal["cublas", "tensorrt"]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the manifest's parts."""


class Machine(_Struct, frozen=True, kw_only=True):
    """What decides how fast and how exactly an engine computes."""

    gpu: str  # "NVIDIA H100 80GB HBM3"
    compute_capability: str  # "9.0"
    driver: str  # "580.159.03"
    libraries: dict[str, str]  # version by distribution


class FileRecord(_Struct, frozen=True, kw_only=True):
    """One file of the folder."""

    sha256: str
    num_bytes: int


class BucketResult(_Struct, frozen=True, kw_only=True):
    """How one bucket did."""

    bucket: Bucket
    relative_error: float
    cosine: float  # of the worst frame
    ms: float  # on the device
    is_graph: bool = True  # whether it runs as one CUDA graph


class DecisionResult(_Struct, frozen=True, kw_only=True):
    """What the decoder would decide on the encoder's frames, led along the reference's path."""

    count: int
    flips: int  # decided otherwise
    worst_margin: float  # of the flips: the reference's best logit before its second, in deviations


class Candidate(_Struct, frozen=True, kw_only=True):
    """One encoder that was built and checked."""

    encoder: EncoderKind
    results: tuple[BucketResult, ...] = ()
    decisions: DecisionResult | None = None
    problem: str = ""  # why it can not be used; empty where it can


class EngineManifest(_Struct, frozen=True, kw_only=True):
    """What is said of an engine folder of any family."""

    format: int = FORMAT
    earwire: str  # version that built it
    key: str  # of engine_key()
    model_id: str
    weights_sha256: str  # of the model's own files
    max_batch: int
    precision: TrtPrecision
    encoder: EncoderKind  # which one runs
    machine: Machine
    candidates: tuple[Candidate, ...]
    plan_buckets: tuple[Bucket, ...] = ()  # of PLAN: bucket i is profile i; none: no such file
    files: dict[str, FileRecord]

    @property
    def chosen(self) -> Candidate:
        """The candidate that runs."""
        return next(c for c in self.candidates if c.encoder == self.encoder)


class Manifest(EngineManifest, frozen=True, kw_only=True):
    """Of Parakeet-TDT."""

    family: Literal["parakeet"] = "parakeet"
    config: ParakeetConfig
    max_frames: int  # the longest sequence of the encoder


class WhisperManifest(EngineManifest, frozen=True, kw_only=True):
    """Of Whisper; the folder is a checkpoint in transformers' form besides."""

    family: Literal["whisper"]


M = TypeVar("M", bound=EngineManifest)


def engine_key(machine: Machine, inputs: Mapping[str, Any]) -> str:
    """sha256 of all that decides the result of a build; equal keys make equal engines.

    Args:
        inputs: sources, weights, precision, buckets, settings: plain values.
    """
    libraries = sorted(machine.libraries.items())
    machine_part = [
        machine.gpu,
        machine.compute_capability,
        machine.driver.split(".")[0],
        libraries,
    ]
    text = json.dumps([FORMAT, machine_part, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_engine_folder(path: Path) -> bool:
    """Whether `earwire build` made it."""
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Parakeet's manifest, once every file that it names is there. Raises ModelError."""
    return _read(folder, Manifest)


def read_whisper_manifest(folder: Path) -> WhisperManifest:
    """Whisper's manifest, once every file that it names is there. Raises ModelError."""
    return _read(folder, WhisperManifest)


def is_whisper_engine(folder: Path) -> bool:
    """Which of the two manifests an engine folder has. Raises ModelError for neither."""
    return bool(_values(folder).get("family") == "whisper")


def _read(folder: Path, kind: type[M]) -> M:
    path = folder / MANIFEST
    values = _values(folder)
    version = values.get("format")
    if version != FORMAT:
        raise ModelFileError(f"{path} is of format {version}, not {FORMAT}", REBUILD)
    try:
        manifest = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ModelFileError(f"{path} is damaged: {error}", REBUILD) from error
    for name, record in manifest.files.items():
        _check_size(folder, name, record)
    return manifest


def _values(folder: Path) -> dict[str, Any]:
    """The manifest as it is written."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelNotFoundError(f"{folder} is no engine folder: {error}", REBUILD) from error
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{path} is damaged: {error}", REBUILD) from error


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Into the folder."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST).write_bytes(data)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Of everything that lies in the folder, the manifest left out."""
    return {
        path.name: FileRecord(sha256=sha256_of([path]), num_bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }


def check_files(folder: Path, manifest: EngineManifest, names: Iterable[str]) -> None:
    """Raise ModelFileError for a file that is not the one that was built and checked."""
    for name in names:
        record = manifest.files.get(name)
        if record is None or sha256_of([folder / name]) != record.sha256:
            raise ModelFileError(f"{folder / name} is not the file that was checked", REBUILD)


def sha256_of(paths: Iterable[Path]) -> str:
    """Hex digest of files one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(HASH_PIECE_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def differences(manifest: EngineManifest, machine: Machine) -> list[str]:
    """In what a machine differs from the one that the folder was made on; for people."""
    made = manifest.machine
    pairs = [
        ("GPU", made.gpu, machine.gpu),
        ("compute capability", made.compute_capability, machine.compute_capability),
        ("driver", made.driver, machine.driver),
        *(
            (name, version, machine.libraries.get(name, "missing"))
            for name, version in sorted(made.libraries.items())
        ),
    ]
    return [f"{name} {there} here, {then} then" for name, then, there in pairs if there != then]


def _check_size(folder: Path, name: str, record: FileRecord) -> None:
    if name != Path(name).name or name in ("", ".", ".."):
        raise ModelFileError(f"{folder / MANIFEST} names {name!r:.80}, no file of its folder")
    try:
        num_bytes = (folder / name).stat().st_size
    except OSError as error:
        raise ModelNotFoundError(f"{folder} has no {name}", REBUILD) from error
    if num_bytes != record.num_bytes:
        raise ModelFileError(f"{folder / name} has {num_bytes} bytes, not {record.num_bytes}")
