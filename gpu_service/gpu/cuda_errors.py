"""What CUDA's bindings answer, as DeviceError: every call of cuda.py goes through here.

cuda.bindings return a status, which check() looks at; cuda.core raises, which translated() turns
into ours. Knows no device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .device import DeviceError, DeviceMemoryError

_NO_MEMORY = "cudaErrorMemoryAllocation"
# After these the context is lost: every later call fails too (CUDA runtime API, error codes).
_STICKY = (
    "IllegalAddress", "LaunchFailure", "IllegalInstruction", "MisalignedAddress",
    "InvalidAddressSpace", "InvalidPc", "HardwareStackError", "Assert", "ECCUncorrectable",
    "LaunchTimeout", "DevicesUnavailable", "ContextIsDestroyed", "TensorMemoryLeak",
    "ILLEGAL_ADDRESS", "LAUNCH_FAILED", "ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE", "INVALID_PC", "HARDWARE_STACK_ERROR", "ASSERT", "ECC_UNCORRECTABLE",
    "LAUNCH_TIMEOUT", "CONTEXT_IS_DESTROYED",
)  # fmt: skip


def check(result: tuple[Any, ...]) -> Any:
    """What a call of the bindings returned behind its status. Raises DeviceError."""
    status, *values = result
    if int(status) != 0:
        raise _error(str(getattr(status, "name", status)))
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def is_sticky(text: str) -> bool:
    """Whether an error of this name leaves the process without a usable device."""
    return any(name in text for name in _STICKY)


def _error(name: str) -> DeviceError:
    if _NO_MEMORY in name or "OUT_OF_MEMORY" in name:
        return DeviceMemoryError(f"the device is out of memory ({name})")
    return DeviceError(f"CUDA: {name}", is_sticky=is_sticky(name))


@contextmanager
def translated() -> Iterator[None]:
    """cuda.core's exceptions as ours. They have no public type to catch."""
    try:
        yield
    except (DeviceError, TypeError, ValueError):
        raise
    except Exception as error:
        raise _error(str(error)) from error
