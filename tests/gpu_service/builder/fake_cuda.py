"""Modules in the place of cuda.py and cublaslt.py: a machine with a GPU and without TensorRT.

The GPU is the emulator, and its products note what they planned as if they had been tuned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms

MADE: list[FakeCublasGemms] = []  # since install()


class FakeCudaDevice(EmulatedDevice):
    """CudaDevice."""

    compute_capability = (9, 0)
    driver_version = "13.0"


class FakeTactics:
    """Tactics."""

    def __init__(self, algorithms: dict[str, str]) -> None:
        self.algorithms = algorithms

    def to_json(self) -> dict[str, Any]:
        return {"library": "fake", "algorithms": self.algorithms}


class FakeCublasGemms:
    """CublasGemms."""

    def __init__(
        self,
        device: EmulatedDevice,
        tactics: Mapping[str, Any] | None = None,
        *,
        tune: bool = False,
    ) -> None:
        self._gemms = EmulatedGemms(device)
        self._tune = tune
        self.tactics = FakeTactics(dict((tactics or {}).get("algorithms", {})))
        self.untuned: list[str] = []
        MADE.append(self)

    def plan(self, product: Any) -> Any:
        key = repr(product)
        if self._tune:
            self.tactics.algorithms[key] = "fastest"
        elif key not in self.tactics.algorithms:
            self.untuned.append(key)
        return self._gemms.plan(product)

    def end_tuning(self) -> None:
        self._tune = False


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the test."""
    cuda: Any = ModuleType("gpu_service.gpu.cuda")
    cuda.CudaDevice = FakeCudaDevice
    cublaslt: Any = ModuleType("gpu_service.gpu.cublaslt")
    cublaslt.CublasGemms = FakeCublasGemms
    for module in (cuda, cublaslt):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for name in ("open_device", "parakeet_open", "whisper_open"):
        monkeypatch.delitem(sys.modules, f"gpu_service.gpu.{name}", raising=False)
    MADE.clear()
