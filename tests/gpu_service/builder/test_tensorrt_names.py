"""Every name of TensorRT that we use exists in each version that we say we support.

TensorRT itself is not installed here. tensorrt_names.json holds what NVIDIA's bindings of some
versions have of our names; the slow test compares it with those bindings again.
"""

from __future__ import annotations

import json
import shutil

import pytest

from .tensorrt_bindings import DISTRIBUTIONS, NAMES, NoWheelError, existing
from .tensorrt_usage import used_names

FOUND: dict[str, list[str]] = json.loads(NAMES.read_text())


def test_the_list_is_of_the_versions_that_are_looked_up() -> None:
    assert set(FOUND) == set(DISTRIBUTIONS)


@pytest.mark.parametrize("version", DISTRIBUTIONS)
def test_every_name_exists(version: str) -> None:
    """After a change: python -m tests.gpu_service.builder.tensorrt_bindings"""
    assert used_names(version) - set(FOUND[version]) == set()


def test_names_are_found_in_sources_and_by_running() -> None:
    weak, strong = used_names("8.6.1"), used_names("11.4.0.106")
    for name in (
        "BuilderFlag.TF32", "ILogger.Severity.ERROR", "float16", "Builder",
        "INetworkDefinition.add_gather", "IShuffleLayer.first_transpose", "IConstantLayer.name",
        "IOptimizationProfile.set_shape", "IExecutionContext.execute_async_v3",
    ):  # fmt: skip
        assert name in weak & strong, name
    assert "BuilderFlag.FP16" in weak - strong
    assert "IExecutionContext.device_memory" in weak - strong
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in strong - weak
    assert "IProgressMonitor.step_complete" in strong - weak
    assert "INetworkDefinition.add_normalization_v2" in strong - used_names("10.1.0")


@pytest.mark.slow
@pytest.mark.parametrize("version", DISTRIBUTIONS)
def test_the_list_is_what_the_bindings_have(version: str) -> None:
    if not (shutil.which("gcc") and shutil.which("readelf")):
        pytest.skip("needs gcc and readelf")
    try:
        found = existing(version, used_names(version))
    except NoWheelError:
        pytest.skip(f"no bindings of TensorRT {version} for this Python, or no network")
    assert used_names(version) - set(found) == set()
