"""Engines: what the sections of bench/gpu.py share, made when it is asked for.

One engine is on the device at a time: a rig in some precision, or a recognizer with some settings.
Asking for another one frees it. The prepared weights stay on the host, for the next rig.
"""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from gpu_service.builder.machine import read_machine
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.parakeet import GpuParakeetRecognizer
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare

from .gpu_audio import Samples
from .gpu_rig import Rig, RigSizes, bucket_frames, make_rig
from .gpu_section import Progress


@dataclass(slots=True)
class Engines:
    """See the top of this file."""

    device: Device
    gemms: Gemms
    checkpoint: ParakeetCheckpoint
    base: Samples  # the recording that all audio is made of
    sizes: RigSizes
    single_batch: int  # clips of a run in single precision, for comparing only
    progress: Progress
    _weights: ParakeetWeights | None = None
    _rig: Rig | None = None
    _recognizer: GpuParakeetRecognizer | None = None

    def prepare_weights(self, most_frames: int = 0) -> ParakeetWeights:
        """What every engine uploads, for sequences of the rig or longer ones. Needs no device."""
        most_frames = max(most_frames, self.sizes.most_positions)
        if self._weights is None or self._weights.max_frames < most_frames:
            self._weights = prepare(self.checkpoint, most_frames)
            self.progress.say("weights prepared")
        return self._weights

    def rig(self, precision: Precision) -> Rig:
        """The engine without a recognizer. Raises DeviceError."""
        if self._rig is None or self._rig.precision != precision:
            self.free()
            weights = self.prepare_weights()
            sizes = self.sizes if precision == "fp16" else self._single_sizes()
            self._rig = make_rig(self.device, self.gemms, weights, precision, sizes)
            self.progress.say(f"engine in {precision} ready")
        return self._rig

    def recognizer(self, settings: GpuParakeetSettings) -> GpuParakeetRecognizer:
        """A warm recognizer of these settings. Raises DeviceError."""
        if self._recognizer is None or self._recognizer.settings != settings:
            self.free()
            recognizer = GpuParakeetRecognizer(
                self.checkpoint.model_id,
                self.prepare_weights(settings.most_frames),
                self.device,
                self.gemms,
                settings,
            )
            self.progress.say(f"recognizer for {settings.max_streams} streams loaded")
            recognizer.warm_up()
            self._recognizer = recognizer
        return self._recognizer

    def free(self) -> None:
        """Take what there is from the device."""
        self._rig = self._recognizer = None
        gc.unfreeze()
        gc.collect()

    def free_bytes(self) -> int:
        """Of the device's memory; 0 where it can not say."""
        ask = getattr(self.device, "free_bytes", None)
        return 0 if ask is None else int(ask())

    def _single_sizes(self) -> RigSizes:
        longest = bucket_frames(self.sizes.max_samples)
        rows = min(self.sizes.max_rows, self.single_batch * longest)
        return replace(self.sizes, max_batch=self.single_batch, max_rows=rows)


def open_device(tactics: Path | None, *, tune: bool) -> tuple[Device, Any]:
    """The GPU, and CublasGemms on it. Raises DeviceError, ModuleNotFoundError."""
    from gpu_service.gpu.cublaslt import CublasGemms
    from gpu_service.gpu.cuda import CudaDevice

    known = json.loads(tactics.read_text()) if tactics and tactics.is_file() else None
    device = CudaDevice()
    return device, CublasGemms(device, known, tune=tune)


def describe(device: Device, gemms: Gemms) -> dict[str, Any]:
    """The GPU, its driver and the libraries, for the JSON line."""
    found: dict[str, Any] = {"gpu": device.name, "multiprocessors": device.num_sms}
    if not device.is_emulated:
        found |= msgspec.structs.asdict(read_machine(cast(Any, device)))
        found |= {"cuda": cast(Any, device).driver_version, "cublaslt": cast(Any, gemms).library}
    return found
