"""Plans: a profile for each bucket, and what is said when none can be built."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_service.builder.network_weights import NetworkWeight, network_weights
from gpu_service.builder.tensorrt_plan import BuiltPlan, PlanBuildError, build_plan
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.trt_inputs import INPUTS
from gpu_service.weights.parakeet_weights import prepare
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint

from .fake_engine import _PLANS, FakeTensorRtRuntime

BUCKETS = (Bucket(1, 3), Bucket(2, 8))


@pytest.fixture(scope="module")
def weights() -> dict[str, NetworkWeight]:
    return network_weights(prepare(random_checkpoint(SMALL), 8), "fp16")


@pytest.mark.parametrize("version", ["8.6.0", "11.4.0"])
@pytest.mark.parametrize("buckets", [BUCKETS, BUCKETS[1:]])
def test_buckets_are_profiles_over_one_copy_of_the_weights(
    version: str, buckets: tuple[Bucket, ...], weights: dict[str, NetworkWeight]
) -> None:
    built = build_plan(FakeTensorRtRuntime(version), SMALL, weights, buckets, "fp16")
    network, profiles = _PLANS[built.data]
    assert len(profiles) == len(buckets)
    assert profiles[-1]["features"] == (2, 1, 64, 128)
    assert set(network._inputs) == set(profiles[0]) == set(INPUTS)


def test_a_build_reports_and_carries_its_timings(weights: dict[str, NetworkWeight]) -> None:
    steps: list[tuple[str, int, int]] = []
    built = build_plan(
        FakeTensorRtRuntime("10.14.1"), SMALL, weights, BUCKETS, "fp16", 0, b"before",
        lambda *step: steps.append(step),
    )  # fmt: skip
    assert isinstance(built, BuiltPlan)
    assert built.timing_cache == b"beforet"
    assert steps == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2)]


def test_8_6_builds_in_silence(weights: dict[str, NetworkWeight]) -> None:
    steps: list[Any] = []
    trt = FakeTensorRtRuntime("8.6.0")
    build_plan(trt, SMALL, weights, BUCKETS, "fp16", 0, b"", steps.append)
    assert steps == []


def test_no_engine_is_an_error_with_its_reason(weights: dict[str, NetworkWeight]) -> None:
    trt = FakeTensorRtRuntime("11.4.0", refuses_to_build=True)
    with pytest.raises(PlanBuildError, match="built no engine: no implementation for node x"):
        build_plan(trt, SMALL, weights, BUCKETS, "fp16")


def test_no_builder_is_an_error(
    weights: dict[str, NetworkWeight], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: object, logger: object) -> object:
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(FakeTensorRtRuntime, "Builder", nothing)
    with pytest.raises(PlanBuildError, match="can not build here"):
        build_plan(FakeTensorRtRuntime("11.4.0"), SMALL, weights, BUCKETS, "fp16")


def test_a_precision_that_it_has_not_is_an_error(weights: dict[str, NetworkWeight]) -> None:
    with pytest.raises(PlanBuildError, match=r"TensorRT 8\.6\.0 has no bf16 \(use --precision"):
        build_plan(FakeTensorRtRuntime("8.6.0"), SMALL, weights, BUCKETS, "bf16")
