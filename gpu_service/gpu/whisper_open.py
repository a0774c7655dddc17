"""From what a user named to a GpuWhisperRecognizer: a folder of `earwire build`, or a model.

Opens the GPU. An engine folder that was made on another GPU, or with other libraries, passes the
accuracy gate again before it serves. Knows files, sizes and what is installed; recognizers.py calls
it when a server starts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..builder.accuracy import LIMITS
from ..builder.gate import ensure_judged
from ..builder.machine import of_encoder, read_machine
from ..builder.manifest import (
    PLAN,
    REBUILD,
    REFERENCE,
    Candidate,
    WhisperManifest,
    check_files,
    read_whisper_manifest,
)
from ..builder.whisper_gate import examine_whisper
from ..builder.whisper_reference import load_whisper_reference
from ..draft_policy import AGREEMENT, DraftPolicy
from ..errors import ModelError, ModelFileError
from ..weights.whisper_checkpoint import load_whisper
from .cublaslt import CublasGemms
from .device import DeviceError
from .encoder_weights import Precision
from .memory_room import room_for
from .open_device import OTHERS, open_device, tactics
from .parakeet_settings import own_precision
from .trt_compat import load_tensorrt
from .trt_window import TensorRtTrunk
from .whisper import GpuWhisperRecognizer
from .whisper_gate_backend import WhisperDeviceBackend
from .whisper_parts import WhisperSizes

log = logging.getLogger("earwire.service")


def open_whisper(
    model: str,
    sizes: WhisperSizes,
    precision: Precision | None,
    policy: DraftPolicy = AGREEMENT,
) -> GpuWhisperRecognizer:
    """A checkpoint, in a folder or from the hub, in fp16 if nothing else is wanted.

    Raises ModelError, DeviceError.
    """
    checkpoint = load_whisper(model)
    device = open_device()
    with room_for("anything of the model", OTHERS):
        gemms = CublasGemms(device)
        return GpuWhisperRecognizer(
            checkpoint, device, gemms, precision or "fp16", sizes, policy=policy
        )


def open_whisper_folder(
    folder: Path,
    sizes: WhisperSizes,
    precision: Precision | None,
    policy: DraftPolicy = AGREEMENT,
) -> GpuWhisperRecognizer:
    """What `earwire build` made. Raises ModelError, DeviceError."""
    manifest = read_whisper_manifest(folder)
    if precision not in (None, manifest.precision):
        raise ModelError(
            f"{folder} was built in {manifest.precision}",
            f"earwire build MODEL --out DIR --precision {precision}",
        )
    checkpoint = replace(load_whisper(str(folder)), model_id=manifest.model_id)
    sizes = replace(sizes, max_batch=min(sizes.max_batch, manifest.max_batch))
    device = open_device()
    with room_for("anything of the engine", OTHERS):
        recognizer = GpuWhisperRecognizer(
            checkpoint,
            device,
            CublasGemms(device, tactics(folder)),
            own_precision(manifest.precision),
            sizes,
            _trunk(folder, manifest, device, checkpoint.config.num_mels),
            policy,
        )
        _pass_the_gate(folder, manifest, device, recognizer)
    return recognizer


def _trunk(
    folder: Path, manifest: WhisperManifest, device: Any, num_mels: int
) -> TensorRtTrunk | None:
    """The encoder's layers, where they are TensorRT's. A plan is machine code: it is hashed."""
    if manifest.encoder != "tensorrt":
        return None
    trt = load_tensorrt()
    check_files(folder, manifest, [PLAN])
    buckets = manifest.plan_buckets
    try:
        return TensorRtTrunk(
            trt,
            device,
            (folder / PLAN).read_bytes(),
            [bucket.batch for bucket in buckets],
            positions=buckets[0].frames,
            num_mels=num_mels,
        )
    except DeviceError as error:
        if error.is_sticky:
            raise
        raise ModelFileError(f"{folder}: {error}", REBUILD) from error


def _pass_the_gate(
    folder: Path, manifest: WhisperManifest, device: Any, recognizer: GpuWhisperRecognizer
) -> None:
    """Check the engine's output, once on each machine that it was not made on."""

    def judge() -> Candidate:
        log.info("%s was made elsewhere: checking what it computes", folder)
        backend = WhisperDeviceBackend(manifest.encoder, recognizer.parts)
        reference = load_whisper_reference(folder / REFERENCE)
        return examine_whisper(backend, reference, LIMITS[manifest.precision])

    machine = of_encoder(read_machine(device), manifest.encoder)
    if ensure_judged(folder, manifest, machine, judge):
        log.info("%s computes right on this machine too", folder)
