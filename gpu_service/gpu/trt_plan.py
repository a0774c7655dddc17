"""TensorRtPlan: a serialized plan on the device, and execution contexts on its profiles.

What the encoders by TensorRT have in common (trt.py, trt_window.py): loading, contexts over one
block of scratch memory (there is one stream), binding and running, and capturing a run in a CUDA
graph where TensorRT lets itself be captured. Knows no network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .device import Device, DeviceArray, DeviceError, Graph
from .trt_compat import Dialect, dialect_of, make_logger

log = logging.getLogger("earwire.tensorrt")


class TensorRtPlan:
    """See the module text. One owner thread."""

    def __init__(self, trt: Any, device: Device, plan: bytes, num_profiles: int) -> None:
        """Deserialize. Nothing runs yet; `trt` is the tensorrt module.

        Raises DeviceError for a plan that this TensorRT does not take or that has another number of
        profiles, TensorRtMissingError.
        """
        self._dialect: Dialect = dialect_of(trt)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._device = device
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._error("can not load the plan")
        found = self._engine.num_optimization_profiles
        if found != num_profiles:
            raise DeviceError(f"a plan of {found} profiles for {num_profiles} buckets")
        self._scratch_bytes = self._dialect.scratch_bytes(self._engine)
        self._scratch = device.empty(max(self._scratch_bytes, 1), np.uint8)

    def context(self, profile: int) -> Any:
        """An execution context on a profile. Raises DeviceError."""
        address, num_bytes = self._scratch.address, self._scratch_bytes
        context = self._dialect.create_context(self._engine, address, num_bytes)
        if context is None:
            raise self._error("made no execution context")
        if not context.set_optimization_profile_async(profile, self._device.stream_handle):
            raise self._error(f"refused profile {profile}")
        self._device.synchronize()
        return context

    def bind(
        self, context: Any, inputs: Mapping[str, DeviceArray], outputs: Mapping[str, DeviceArray]
    ) -> None:
        """Tell a context its shapes and addresses. Raises DeviceError."""
        for name, array in inputs.items():
            if not context.set_input_shape(name, array.shape):
                raise self._error(f"refused shape {array.shape} of {name}")
        for name, array in {**inputs, **outputs}.items():
            if not context.set_tensor_address(name, array.address):
                raise self._error(f"refused memory for {name}")

    def run(self, context: Any, what: str) -> None:
        """Enqueue it; `what` it runs is for people. Raises DeviceError."""
        if not context.execute_async_v3(self._device.stream_handle):
            raise self._error(f"did not run {what}")

    def _error(self, what: str) -> DeviceError:
        return DeviceError(f"TensorRT {what}: {self._logger.last_errors()}")


def captured_run(device: Device, run: Callable[[], None], what: str) -> Graph | None:
    """The graph of a run; None where TensorRT can not be captured.

    The first run of a context does what may not happen in a capture (TensorRT, CUDA graphs).
    Raises DeviceError.
    """
    run()
    device.synchronize()
    try:
        with device.capture() as capture:
            run()
    except DeviceError as error:
        if error.is_sticky:
            raise
        log.warning("TensorRT runs %s without a CUDA graph: %s", what, error)
        run()
        device.synchronize()
        return None
    return capture.graph
