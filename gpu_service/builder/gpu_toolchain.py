"""GpuToolchain: the GPU of this machine, and which encoders its installed libraries can build.

What is missing is said in a line that names what to install, and from where. CUDA, nvmath and
TensorRT are imported here, when they are needed; nothing else of the builder does.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from ..gpu.device import DeviceError
from ..gpu.parakeet_settings import GpuParakeetSettings
from ..gpu.trt_compat import (
    INSTALL,
    TensorRtMissingError,
    TrtPrecision,
    dialect_of,
    load_tensorrt,
)
from ..weights.parakeet_weights import ParakeetWeights
from .backends import make_cublas, make_tensorrt
from .build import Job, MadeEncoder, Progress
from .machine import read_machine
from .manifest import GEMM_TACTICS, EncoderKind
from .tuning import plan_products, plan_whisper_products
from .whisper_backends import make_own_whisper, make_tensorrt_whisper
from .whisper_build import MadeWhisper, WhisperJob

INSTALL_GPU = "pip install 'earwire[gpu]'"


class GpuToolchain:
    """See Toolchain and WhisperToolchain.

    The device is opened at once, the library of products when it is needed.
    """

    def __init__(self) -> None:
        """Raises ModelError where there is no GPU, or no library that talks to it."""
        try:
            cuda = importlib.import_module("..gpu.cuda", __package__)
        except ModuleNotFoundError as error:
            problem = f"this needs the Python package {error.name}"
            raise ModelError(problem, INSTALL_GPU) from error
        try:
            self._device: Any = cuda.CudaDevice()
        except DeviceError as error:
            raise ModelError(
                f"this needs an NVIDIA GPU and its driver: {error}",
                "run it on the machine that will serve; nvidia-smi should list a GPU there",
            ) from error
        self._gemms: Any = None
        self.machine = read_machine(self._device)

    def obstacles(self, precision: TrtPrecision) -> Mapping[EncoderKind, str]:
        """See Toolchain.obstacles."""
        return {
            "cublas": "it computes in fp16 or fp32" if precision == "bf16" else self._open_gemms(),
            "tensorrt": tensorrt_obstacle(precision),
        }

    def make(self, kind: EncoderKind, job: Job, progress: Progress) -> MadeEncoder:
        """See Toolchain.make."""
        if kind == "tensorrt":
            return make_tensorrt(load_tensorrt(), self._device, job, progress)
        if obstacle := self._open_gemms():
            raise ModelError(obstacle)
        return make_cublas(self._device, self._gemms, job)

    def tune(
        self, weights: ParakeetWeights, settings: GpuParakeetSettings, progress: Progress
    ) -> Mapping[str, bytes]:
        """See Toolchain.tune."""
        if obstacle := self._open_gemms():
            progress.note(f"nothing is tuned: {obstacle}")
            return {}
        plan_products(self._device, self._gemms, weights, settings, progress)
        self._gemms.end_tuning()
        return {GEMM_TACTICS: json.dumps(self._gemms.tactics.to_json()).encode()}

    def make_whisper(self, kind: EncoderKind, job: WhisperJob, progress: Progress) -> MadeWhisper:
        """See WhisperToolchain.make_whisper. Either needs the products: the decoder is ours."""
        if obstacle := self._open_gemms():
            raise ModelError(obstacle)
        if kind == "tensorrt":
            return make_tensorrt_whisper(load_tensorrt(), self._device, self._gemms, job, progress)
        return make_own_whisper(self._device, self._gemms, job)

    def tune_whisper(self, job: WhisperJob, progress: Progress) -> Mapping[str, bytes]:
        """See WhisperToolchain.tune_whisper."""
        plan_whisper_products(self._device, self._gemms, job, progress)
        self._gemms.end_tuning()
        return {GEMM_TACTICS: json.dumps(self._gemms.tactics.to_json()).encode()}

    def _open_gemms(self) -> str:
        """Why there are no products by cuBLASLt; empty where there are."""
        if self._gemms is not None:
            return ""
        try:
            cublaslt = importlib.import_module("..gpu.cublaslt", __package__)
            self._gemms = cublaslt.CublasGemms(self._device, tune=True)
        except ImportError as error:
            return f"the Python package {error.name or error} is missing ({INSTALL_GPU})"
        except (RuntimeError, OSError, DeviceError) as error:  # nvmath found no library
            return f"cuBLASLt can not be loaded: {error} ({INSTALL_GPU})"
        return ""


def tensorrt_obstacle(precision: TrtPrecision) -> str:
    """Why TensorRT can not build in a precision here; empty where it can."""
    try:
        trt = load_tensorrt()
        known = dialect_of(trt).precisions
    except TensorRtMissingError as error:
        return str(error)
    if precision not in known:
        return f"TensorRT {trt.__version__} has no {precision} ({INSTALL})"
    return ""
