"""Which TensorRT is told what, and how it speaks to us."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gpu_service.gpu.trt_compat import (
    StrongDialect,
    TensorRtMissingError,
    WeakDialect,
    data_type,
    dialect_of,
    make_logger,
)
from tests.gpu_service.builder.fake_engine import FakeTensorRtRuntime, Severity


@pytest.mark.parametrize(
    ("version", "dialect"),
    [
        ("8.6.0", WeakDialect), ("8.6.1.post1", WeakDialect), ("10.1.0", StrongDialect),
        ("10.16.1.11", StrongDialect), ("11.4.0.106", StrongDialect),
    ],
)  # fmt: skip
def test_the_version_decides(version: str, dialect: type) -> None:
    assert type(dialect_of(FakeTensorRtRuntime(version))) is dialect


@pytest.mark.parametrize("version", ["8.5.3", "9.3.0", "10.0.1", "12.0.0"])
def test_others_are_refused_by_name(version: str) -> None:
    with pytest.raises(TensorRtMissingError, match=f"TensorRT {version} is none of 8.6, 10.1"):
        dialect_of(FakeTensorRtRuntime(version))


def test_types_are_those_of_the_precision() -> None:
    trt = FakeTensorRtRuntime("11.4.0")
    assert data_type(trt, "fp16") is trt.float16
    assert data_type(trt, "bf16") is trt.bfloat16
    assert data_type(trt, "fp32") is trt.float32


def test_a_weak_network_in_float_is_not_told_to_use_half() -> None:
    trt = FakeTensorRtRuntime("8.6.0")
    config = trt.Builder(None).create_builder_config()
    dialect_of(trt).configure(config, "fp32")
    assert config._flags == set()
    dialect_of(trt).configure(config, "fp16")
    names = {flag.name for flag in config._flags}
    assert names == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}


def test_its_log_is_ours_and_its_last_errors_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    logger: Any = make_logger(FakeTensorRtRuntime("11.4.0"))
    assert logger.last_errors() == "no reason given"
    with caplog.at_level(logging.INFO, "earwire.tensorrt"):
        logger.log(Severity.VERBOSE, "every kernel")
        logger.log(Severity.INFO, "loaded")
        for number in range(6):
            logger.log(Severity.ERROR, f"error {number}")
    assert "every kernel" not in caplog.text
    assert "loaded" in caplog.text
    assert logger.last_errors() == "error 2; error 3; error 4; error 5"
