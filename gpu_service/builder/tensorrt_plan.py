"""From weights to a serialized TensorRT plan: network, optimisation profiles, timing cache.

Each bucket is a profile of its own (min = opt = max), and all share one copy of the weights.

Knows no file; `trt` is the tensorrt module, as an argument. Called by backends.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError
from ..gpu.encoder_layers import Bucket
from ..gpu.trt_compat import Report, TrtPrecision, dialect_of, make_logger
from ..gpu.trt_inputs import shapes
from ..weights.parakeet_config import ParakeetConfig
from .encoder_network import EncoderNetwork
from .network_weights import NetworkWeight

DEFAULT_LEVEL = 3  # of 0 to 5: TensorRT's own default


class PlanBuildError(ModelError):
    """TensorRT built no plan."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A serialized engine, and the timing cache with what its build measured."""

    data: bytes
    timing_cache: bytes


def build_plan(
    trt: Any,
    config: ParakeetConfig,
    weights: Mapping[str, NetworkWeight],
    buckets: Sequence[Bucket],
    precision: TrtPrecision,
    level: int = DEFAULT_LEVEL,
    timing_cache: bytes = b"",
    report: Report | None = None,
) -> BuiltPlan:
    """Build; minutes at full size. Bucket i becomes profile i.

    Args:
        weights: of network_weights(), in that precision.
        level: how long kernels are searched for, 0 to 5.
        timing_cache: of an earlier build, or nothing.

    Raises PlanBuildError with what TensorRT said, TensorRtMissingError for an unknown version.
    """
    dialect = dialect_of(trt)
    if precision not in dialect.precisions:
        raise PlanBuildError(
            f"TensorRT {trt.__version__} has no {precision}",
            f"use --precision {dialect.precisions[0]}, or TensorRT 10 or later",
        )
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how the bindings say that the library made none
        raise PlanBuildError(f"TensorRT can not build here: {logger.last_errors()}") from error
    network = dialect.create_network(builder)
    encoder = EncoderNetwork(trt, dialect, network, config, weights, precision)
    encoder.build()
    build_config = builder.create_builder_config()
    dialect.configure(build_config, precision)
    build_config.builder_optimization_level = level
    build_config.max_aux_streams = 0  # a capture of one stream has no others
    if report is not None:
        dialect.report_progress(build_config, report)
    _add_profiles(builder, build_config, buckets, config.num_mels)
    cache = build_config.create_timing_cache(timing_cache)
    build_config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, build_config)
    if plan is None:
        raise PlanBuildError(f"TensorRT built no engine: {logger.last_errors()}")
    return BuiltPlan(bytes(plan), bytes(build_config.get_timing_cache().serialize()))


def _add_profiles(
    builder: Any, build_config: Any, buckets: Sequence[Bucket], num_mels: int
) -> None:
    """A profile for each bucket, in their order."""
    for bucket in buckets:
        profile = builder.create_optimization_profile()
        for name, shape in shapes(bucket, num_mels).items():
            profile.set_shape(name, shape, shape, shape)
        build_config.add_optimization_profile(profile)
