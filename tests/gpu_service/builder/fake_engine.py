"""FakeTensorRt with a builder and a runtime: plans that run on the emulated device.

A plan is a few bytes that stand for a network; executing it computes the network in numpy, on the
device's memory and in the device's order. `can_capture=False` is an engine that refuses to be
captured, as TensorRT 8.6 refuses some; `spoil` changes what every engine answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from tests.gpu_service.gpu.emulator import EmulatedDevice
from tests.gpu_service.gpu.emulator.memory import view

from .fake_tensorrt import Array, DataType, FakeTensorRt, Network, Recorded

SCRATCH_BYTES = 1000
_NUMBERS = itertools.count()
_PLANS: dict[bytes, tuple[Network, list[dict[str, tuple[int, ...]]]]] = {}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Flags(IntEnum):
    FP16, TF32, PREFER_PRECISION_CONSTRAINTS = range(3)


class Sources(IntEnum):
    CUBLAS, CUBLAS_LT, CUDNN, EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS = range(5)


class Strategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class Logger:
    """ILogger."""

    Severity = Severity


class ProgressMonitor:
    """IProgressMonitor."""


class FakeTensorRtRuntime(FakeTensorRt):
    """The module, on an emulated device."""

    ILogger = Logger
    BuilderFlag = Flags

    def __init__(
        self,
        version: str,
        device: EmulatedDevice | None = None,
        *,
        can_capture: bool = True,
        spoil: Callable[[Array], Array] = lambda values: values,
        refuses_to_build: bool = False,
    ) -> None:
        super().__init__(version)
        self.device = device
        self.can_capture = can_capture
        self.spoil = spoil
        self.refuses_to_build = refuses_to_build
        self.num_builds = 0
        if self.is_weak:
            self.TacticSource = Sources
        else:
            self.ExecutionContextAllocationStrategy = Strategy
            self.IProgressMonitor = ProgressMonitor

    def Builder(self, logger: Any) -> Builder:
        return Builder(self, logger)

    def Runtime(self, logger: Any) -> Runtime:
        return Runtime(self, logger)


class _Object(Recorded):
    def __init__(self, trt: FakeTensorRtRuntime) -> None:
        super().__init__(trt.used)
        self._trt = trt


class Profile(_Object):
    _class = "IOptimizationProfile"

    def __init__(self, trt: FakeTensorRtRuntime) -> None:
        super().__init__(trt)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert len(shapes) == 3
        assert len(set(shapes)) == 1, "the least, the best and the largest are one"
        self._shapes[name] = shapes[0]


class Cache(_Object):
    _class = "ITimingCache"

    def __init__(self, trt: FakeTensorRtRuntime, data: bytes) -> None:
        super().__init__(trt)
        self._data = data

    def serialize(self) -> bytes:
        return self._data + b"t"


class Config(_Object):
    _class = "IBuilderConfig"

    def __init__(self, trt: FakeTensorRtRuntime) -> None:
        super().__init__(trt)
        self._profiles: list[dict[str, tuple[int, ...]]] = []
        self._flags = {Flags.TF32}

    def clear_flag(self, flag: Flags) -> None:
        self._flags.discard(flag)

    def set_flag(self, flag: Flags) -> None:
        self._flags.add(flag)

    def set_tactic_sources(self, sources: int) -> bool:
        assert sources == 0b11000
        return True

    def create_timing_cache(self, data: bytes) -> Cache:
        return Cache(self._trt, data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> Cache:
        return self._cache

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1


class Builder(_Object):
    _class = "Builder"

    def __init__(self, trt: FakeTensorRtRuntime, logger: Any) -> None:
        super().__init__(trt)
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        assert flags == (1 if self._trt.is_weak else 2)
        return FakeTensorRt.create_network(self._trt, flags)

    def create_builder_config(self) -> Config:
        return Config(self._trt)

    def create_optimization_profile(self) -> Profile:
        return Profile(self._trt)

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        trt = self._trt
        trt.num_builds += 1
        if trt.refuses_to_build:
            self._logger.log(Severity.ERROR, "no implementation for node x")
            return None
        assert Flags.TF32 not in config._flags
        self._report(config)
        shapes = {name: shape for name, (_, shape) in network._inputs.items()}
        assert config._profiles, "some sizes are only known by a profile"
        plan = f"plan {next(_NUMBERS)}".encode()
        _PLANS[plan] = (network, [shapes | profile for profile in config._profiles])
        return plan

    def _report(self, config: Config) -> None:
        monitor = vars(config).get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            assert monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")


class Runtime(_Object):
    _class = "Runtime"

    def __init__(self, trt: FakeTensorRtRuntime, logger: Any) -> None:
        super().__init__(trt)
        self._logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        if data not in _PLANS:
            self._logger.log(Severity.ERROR, "the plan is of another version")
            return None
        return (WeakEngine if self._trt.is_weak else StrongEngine)(self._trt, *_PLANS[data])


class Engine(_Object):
    _class = "ICudaEngine"

    def __init__(
        self, trt: FakeTensorRtRuntime, network: Network, profiles: list[dict[str, tuple[int, ...]]]
    ) -> None:
        super().__init__(trt)
        self._network = network
        self._profiles = profiles
        self.num_optimization_profiles = len(profiles)


class WeakEngine(Engine):
    device_memory_size = SCRATCH_BYTES

    def create_execution_context_without_device_memory(self) -> Context:
        return WeakContext(self._trt, self)


class StrongEngine(Engine):
    device_memory_size_v2 = SCRATCH_BYTES

    def create_execution_context(self, strategy: Strategy) -> Context:
        assert strategy is Strategy.USER_MANAGED
        return StrongContext(self._trt, self)


class Context(_Object):
    _class = "IExecutionContext"

    def __init__(self, trt: FakeTensorRtRuntime, engine: Engine) -> None:
        super().__init__(trt)
        self._engine = engine
        self._profile = -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._has_run = False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        assert self._profile >= 0, "a profile comes first"
        return self._engine._profiles[self._profile][name] == shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        device = self._trt.device
        assert device is not None
        if device.is_capturing:
            assert self._has_run, "the first run of a context may not be captured"
            if not self._trt.can_capture:
                return False
        self._has_run = True
        device.enqueue("TensorRT", self._run)
        return True

    def _run(self) -> None:
        network = self._engine._network
        values = {}
        for name, (tensor, _) in network._inputs.items():
            kind = np.int32 if tensor._kind is DataType.INT32 else np.float32
            values[name] = view(self._addresses[name], self._shapes[name], np.dtype(kind))
        for name, result in network._run(values).items():
            out = view(self._addresses[name], result.shape, np.dtype(np.float32))
            out[:] = self._trt.spoil(result)


class WeakContext(Context):
    device_memory = 0


class StrongContext(Context):
    def set_device_memory(self, address: int, num_bytes: int) -> None:
        assert num_bytes >= SCRATCH_BYTES
        assert address % 256 == 0
