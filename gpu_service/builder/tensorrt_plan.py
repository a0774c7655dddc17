"""From weights to a serialized TensorRT plan: network, optimisation profiles, timing cache.

Each bucket is a profile of its own (min = opt = max), and all share one copy of the weights.

Knows no file; `trt` is the tensorrt module, as an argument. Called by backends.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError
from ..gpu.encoder_layers import Bucket
from ..gpu.trt_compat import Dialect, Report, TrtPrecision, dialect_of, make_logger
from ..gpu.trt_inputs import shapes
from ..weights.parakeet_config import ParakeetConfig
from .encoder_network import EncoderNetwork
from .network_weights import NetworkWeight

Shapes = Mapping[str, tuple[int, ...]]
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

    def put(dialect: Dialect, network: Any) -> object:
        encoder = EncoderNetwork(trt, dialect, network, config, weights, precision)
        encoder.build()
        return encoder

    profiles = [shapes(bucket, config.num_mels) for bucket in buckets]
    return build_network_plan(trt, put, profiles, precision, level, timing_cache, report)


def build_network_plan(
    trt: Any,
    put: Callable[[Dialect, Any], object],
    profiles: Sequence[Shapes],
    precision: TrtPrecision,
    level: int = DEFAULT_LEVEL,
    timing_cache: bytes = b"",
    report: Report | None = None,
) -> BuiltPlan:
    """Build a plan of any network. Raises as build_plan() does.

    Args:
        put: puts the layers into an empty network; what it returns lives until the build is over.
        profiles: shapes of the inputs by their names; each is a profile of its own.
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
    kept = put(dialect, network)
    build_config = builder.create_builder_config()
    dialect.configure(build_config, precision)
    build_config.builder_optimization_level = level
    build_config.max_aux_streams = 0  # a capture of one stream has no others
    if report is not None:
        dialect.report_progress(build_config, report)
    _add_profiles(builder, build_config, profiles)
    cache = build_config.create_timing_cache(timing_cache)
    build_config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, build_config)
    del kept  # its arrays were the network's weights
    if plan is None:
        raise PlanBuildError(f"TensorRT built no engine: {logger.last_errors()}")
    return BuiltPlan(bytes(plan), bytes(build_config.get_timing_cache().serialize()))


def _add_profiles(builder: Any, build_config: Any, profiles: Sequence[Shapes]) -> None:
    """In their order."""
    for sizes in profiles:
        profile = builder.create_optimization_profile()
        for name, shape in sizes.items():
            profile.set_shape(name, shape, shape, shape)
        build_config.add_optimization_profile(profile)
