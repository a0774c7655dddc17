"""From what a user named to a GpuParakeetRecognizer: a folder of `earwire build`, or a model.

Opens the GPU. An engine folder that was made on another GPU, or with other libraries, passes the
accuracy gate again before it serves. Knows files, settings and what is installed; recognizers.py
calls it when a server starts.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..builder.engine_folder import read_weights
from ..builder.gate import Backend, ensure_checked
from ..builder.machine import of_encoder, read_machine
from ..builder.manifest import Manifest, read_manifest
from ..cpu.parakeet_features import mel_bank, window
from ..weights.parakeet_checkpoint import load_checkpoint
from ..weights.parakeet_weights import ParakeetWeights, prepare
from .cublaslt import CublasGemms
from .encoder_weights import Precision
from .gate_backend import DeviceBackend, FixedStore, cublas_backend
from .memory_room import room_for
from .open_device import OTHERS, open_device, tactics
from .parakeet import GpuParakeetRecognizer
from .parakeet_parts import EncoderOpener
from .parakeet_settings import GpuParakeetSettings, own_precision, settings_for

log = logging.getLogger("earwire.service")


def open_model(
    model: str, settings: GpuParakeetSettings, precision: Precision | None
) -> GpuParakeetRecognizer:
    """A checkpoint, in a folder, in a .nemo file or from the hub, in fp16 if nothing else is
    wanted. Raises ModelError, DeviceError.
    """
    checkpoint = load_checkpoint(model)
    checkpoint.check_front_end(window(), mel_bank())
    settings = replace(settings, precision=precision or "fp16")
    device = open_device()
    weights = prepare(checkpoint, settings.most_frames)
    with room_for("anything of the model", OTHERS):
        gemms = CublasGemms(device)
        return GpuParakeetRecognizer(checkpoint.model_id, weights, device, gemms, settings)


def open_engine_folder(
    folder: Path, settings: GpuParakeetSettings, precision: Precision | None
) -> GpuParakeetRecognizer:
    """What `earwire build` made. Raises ModelError, DeviceError."""
    manifest = read_manifest(folder)
    settings = settings_for(folder, manifest, settings, precision)
    device = open_device()
    weights = read_weights(folder, manifest)
    with room_for("anything of the engine", OTHERS):
        _pass_the_gate(folder, manifest, weights, device)
        return GpuParakeetRecognizer(
            manifest.model_id, weights, device, CublasGemms(device, tactics(folder)), settings,
            open_encoder=_encoder_opener(folder, manifest, device),
        )  # fmt: skip


def _encoder_opener(folder: Path, manifest: Manifest, device: Any) -> EncoderOpener | None:
    """How to open the encoder of finals, where it is TensorRT's."""
    if manifest.encoder != "tensorrt":
        return None
    from .trt_engine import open_tensorrt

    return lambda store: open_tensorrt(folder, manifest, device, store)


def _pass_the_gate(folder: Path, manifest: Manifest, weights: ParakeetWeights, device: Any) -> None:
    """Check the engine's output, once on each machine that it was not made on."""
    machine = of_encoder(read_machine(device), manifest.encoder)
    backend = partial(_gate_backend, folder, manifest, weights, device)
    if ensure_checked(folder, manifest, machine, weights.decoder, backend):
        log.info("%s computes right on this machine too", folder)


def _gate_backend(
    folder: Path, manifest: Manifest, weights: ParakeetWeights, device: Any
) -> Backend:
    log.info("%s was made elsewhere: checking what it computes", folder)
    buckets = [result.bucket for result in manifest.chosen.results]
    opener = _encoder_opener(folder, manifest, device)
    if opener is None:
        precision = own_precision(manifest.precision)
        gemms = CublasGemms(device, tactics(folder))
        return cublas_backend(device, gemms, weights, precision, buckets)
    store = FixedStore(device, max(bucket.frames for bucket in buckets))
    return DeviceBackend("tensorrt", device, store, opener(store), buckets)
