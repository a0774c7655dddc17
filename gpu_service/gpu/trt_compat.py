"""The one module that knows TensorRT 8.6 from 10 and 11.

8.6 types a network weakly: layers choose half or float unless told, and fp16 is a flag. 10 and 11
type it strongly: a layer computes in the type of its inputs, bf16 too. The network of ours casts
wherever a type changes, so it says the same to both; the dialects differ in how they are told, in
how an execution context gets its scratch memory, and in whether a build reports its progress.

`tensorrt` itself is only ever passed in: load_tensorrt() imports it, and tests pass another. Names
used in WeakDialect exist in 8.6, those in StrongDialect in 10 and 11, all others in each of them;
a test holds that against the bindings (tests/gpu_service/builder/test_tensorrt_names.py).
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from ..errors import ModelError

INSTALL = "pip install tensorrt --extra-index-url https://pypi.nvidia.com"
SUPPORTED = "8.6, 10.1 and later, 11"

NUM_KEPT_MESSAGES = 4

log = logging.getLogger("earwire.tensorrt")

Report = Callable[[str, int, int], None]  # phase, steps done, of how many
TrtPrecision = Literal["fp16", "bf16", "fp32"]


class TensorRtMissingError(ModelError):
    """TensorRT can not be used on this machine."""


class Dialect(Protocol):
    """How one generation of TensorRT is told things."""

    precisions: tuple[TrtPrecision, ...]

    def create_network(self, builder: Any) -> Any:
        """An empty network."""
        ...

    def configure(self, config: Any, precision: TrtPrecision) -> None:
        """Settings of a build that follow from the precision."""
        ...

    def pin(self, layer: Any, precision: TrtPrecision) -> None:
        """Have a layer compute, and answer, in a precision."""
        ...

    def normalization(self, network: Any, x: Any, scale: Any, bias: Any, axes: int) -> Any:
        """A layer of layer normalisation."""
        ...

    def weights(self, values: NDArray[Any], precision: TrtPrecision) -> Any:
        """An array as TensorRT's weights; the array has to live until the build is over.

        bfloat16 comes as the uint16 of its bits, for numpy has no such type.
        """
        ...

    def report_progress(self, config: Any, report: Report) -> None:
        """Have a build report its steps, where it can."""
        ...

    def scratch_bytes(self, engine: Any) -> int:
        """Memory that a context of any profile needs while it runs."""
        ...

    def create_context(self, engine: Any, address: int, num_bytes: int) -> Any:
        """An execution context on scratch memory of ours."""
        ...


def load_tensorrt() -> Any:
    """The tensorrt module. Raises TensorRtMissingError."""
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # OSError: its libraries are not there
        raise TensorRtMissingError(f"TensorRT is not installed: {error}", INSTALL) from error


def dialect_of(trt: Any) -> Dialect:
    """Raises TensorRtMissingError for a version that we do not know."""
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    if (major, minor) == (8, 6):
        return WeakDialect(trt)
    if (10, 1) <= (major, minor) < (12, 0):
        return StrongDialect(trt)
    raise TensorRtMissingError(f"TensorRT {trt.__version__} is none of {SUPPORTED}", INSTALL)


def make_logger(trt: Any) -> Any:
    """A TensorRT logger into ours. Its last_errors() go into the text of an exception."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.INFO,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=NUM_KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self._errors.append(message)
            log.log(level, "%s", message)

        def last_errors(self) -> str:
            return "; ".join(self._errors) or "no reason given"

    return Logger()


def data_type(trt: Any, precision: TrtPrecision) -> Any:
    """TensorRT's type of a precision."""
    if precision == "bf16":
        return StrongDialect(trt).bfloat16
    return trt.float16 if precision == "fp16" else trt.float32


class WeakDialect:
    """TensorRT 8.6."""

    precisions: tuple[TrtPrecision, ...] = ("fp16", "fp32")

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def create_network(self, builder: Any) -> Any:
        """See Dialect.create_network."""
        return builder.create_network(
            1 << int(self._trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        )

    def configure(self, config: Any, precision: TrtPrecision) -> None:
        """See Dialect.configure. Constraints are preferred, not obeyed: reshapes have no kernel."""
        config.clear_flag(self._trt.BuilderFlag.TF32)  # on by default, and worth three digits
        if precision == "fp16":
            config.set_flag(self._trt.BuilderFlag.FP16)
            config.set_flag(self._trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        # Without cuBLAS, cuBLASLt and cuDNN: a gigabyte of libraries that win no layer of ours.
        sources = (
            self._trt.TacticSource.EDGE_MASK_CONVOLUTIONS,
            self._trt.TacticSource.JIT_CONVOLUTIONS,
        )
        config.set_tactic_sources(sum(1 << int(source) for source in sources))

    def pin(self, layer: Any, precision: TrtPrecision) -> None:
        """See Dialect.pin."""
        kind = data_type(self._trt, precision)
        layer.precision = kind
        layer.set_output_type(0, kind)

    def normalization(self, network: Any, x: Any, scale: Any, bias: Any, axes: int) -> Any:
        """See Dialect.normalization."""
        layer = network.add_normalization(x, scale, bias, axes)
        layer.compute_precision = self._trt.float32
        return layer

    def weights(self, values: NDArray[Any], precision: TrtPrecision) -> Any:
        """See Dialect.weights."""
        return self._trt.Weights(values)

    def report_progress(self, config: Any, report: Report) -> None:
        """8.6 builds in silence."""

    def scratch_bytes(self, engine: Any) -> int:
        """See Dialect.scratch_bytes."""
        return int(engine.device_memory_size)

    def create_context(self, engine: Any, address: int, num_bytes: int) -> Any:
        """See Dialect.create_context."""
        context = engine.create_execution_context_without_device_memory()
        if context is not None:
            context.device_memory = address
        return context


class StrongDialect:
    """TensorRT 10 and 11."""

    precisions: tuple[TrtPrecision, ...] = ("fp16", "bf16", "fp32")

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    @property
    def bfloat16(self) -> Any:
        """The data type."""
        return self._trt.bfloat16

    def create_network(self, builder: Any) -> Any:
        """See Dialect.create_network. 11 is always strongly typed, and takes the flag."""
        return builder.create_network(
            1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )

    def configure(self, config: Any, precision: TrtPrecision) -> None:
        """See Dialect.configure."""
        config.clear_flag(self._trt.BuilderFlag.TF32)

    def pin(self, layer: Any, precision: TrtPrecision) -> None:
        """The types of its inputs say it already."""

    def normalization(self, network: Any, x: Any, scale: Any, bias: Any, axes: int) -> Any:
        """See Dialect.normalization. 10.15 has a second form, and warns of the first."""
        add = getattr(network, "add_normalization_v2", None) or network.add_normalization
        return add(x, scale, bias, axes)

    def weights(self, values: NDArray[Any], precision: TrtPrecision) -> Any:
        """See Dialect.weights. bfloat16 goes by its address."""
        if precision == "bf16":
            return self._trt.Weights(self.bfloat16, values.ctypes.data, values.size)
        return self._trt.Weights(values)

    def report_progress(self, config: Any, report: Report) -> None:
        """See Dialect.report_progress."""
        config.progress_monitor = _progress_monitor(self._trt.IProgressMonitor, report)

    def scratch_bytes(self, engine: Any) -> int:
        """See Dialect.scratch_bytes."""
        return int(engine.device_memory_size_v2)

    def create_context(self, engine: Any, address: int, num_bytes: int) -> Any:
        """See Dialect.create_context."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        if context is not None:
            context.set_device_memory(address, num_bytes)
        return context


def _progress_monitor(base: Any, report: Report) -> Any:
    """An IProgressMonitor; TensorRT calls it from threads of its own."""

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self._num_steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._num_steps[phase_name] = num_steps
            report(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(phase_name, step + 1, self._num_steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            num_steps = self._num_steps.pop(phase_name, 1)
            report(phase_name, num_steps, num_steps)

    return Monitor()
