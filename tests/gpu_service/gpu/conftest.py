"""`device` and `gemms`: each test here runs on the emulator, and again on a GPU where there is one.

On the emulator twice: at once and in order; and as late as the engine lets it, threads and blocks
backwards, which shows results read too early, pinned memory reused too soon and missing barriers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms

_REAL: list[Any] = []  # the one real device of this run, and its products


def _why_no_gpu() -> str:
    """Why the real device can not be tested here; empty when it can."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return "needs cuda-python: pip install 'earwire[gpu]'"
    status, count = runtime.cudaGetDeviceCount()
    return "" if int(status) == 0 and count else "needs an NVIDIA GPU"


def _real() -> tuple[Any, Any]:
    if not _REAL:
        from gpu_service.gpu.cublaslt import CublasGemms
        from gpu_service.gpu.cuda import CudaDevice

        device = CudaDevice()
        _REAL.extend([device, CublasGemms(device)])
    return _REAL[0], _REAL[1]


@pytest.fixture(params=["emulated", "deferred", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """See gpu_service/gpu/device.py."""
    if request.param != "gpu":
        from .emulator import EmulatedDevice

        is_late = request.param == "deferred"
        yield EmulatedDevice(deferred=is_late, backwards=is_late)
        return
    if reason := _why_no_gpu():
        pytest.skip(reason)
    real = _real()[0]
    yield real
    real.synchronize()


@pytest.fixture
def gemms(device: Device) -> Gemms:
    """Products on that device."""
    if device.is_emulated:
        from .emulator import EmulatedGemms

        return EmulatedGemms(device)
    products: Gemms = _real()[1]
    return products
