"""Memory of the emulated device: poisoned, aligned, and watched at both ends."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.gpu.device import DeviceArray, DeviceError

ALIGNMENT = 256  # bytes, as cudaMalloc
GUARD_BYTES = 256
GUARD = 0xA5
POISON = 0xFF  # NaN as float and half, -1 as int


class Allocation:
    """Memory between two guards, which nobody may write."""

    def __init__(self, nbytes: int, fill: int = POISON) -> None:
        self.nbytes = nbytes
        self._memory = np.empty(nbytes + 2 * GUARD_BYTES + ALIGNMENT, np.uint8)
        start = -self._memory.ctypes.data % ALIGNMENT
        end = start + GUARD_BYTES + nbytes
        self._before = self._memory[start : start + GUARD_BYTES]
        self._inside = self._memory[start + GUARD_BYTES : end]
        self._behind = self._memory[end : end + GUARD_BYTES]
        self._before[:] = self._behind[:] = GUARD
        self._inside[:] = fill
        self.address = int(self._memory.ctypes.data) + start + GUARD_BYTES

    def __del__(self) -> None:
        self._memory[:] = POISON  # who still has the address reads nothing useful

    def check(self, what: str) -> None:
        """Raises DeviceError if somebody wrote outside; `what` says who it must have been."""
        for guard, side in ((self._before, "before"), (self._behind, "behind")):
            written = np.flatnonzero(guard != GUARD)
            if written.size:
                distance = GUARD_BYTES - written[-1] if side == "before" else written[0]
                guard[:] = GUARD
                raise DeviceError(f"{what} wrote {side} an array, {distance} bytes {side} it")

    def holds(self, address: int, nbytes: int) -> bool:
        """Whether this memory is all inside."""
        return self.address <= address and address + nbytes <= self.address + self.nbytes


def host_view(array: DeviceArray) -> NDArray[Any]:
    """The array's own memory."""
    return view(array.address, array.shape, array.dtype)


def view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Dense memory at an address."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
    array: NDArray[Any] = memory.view(dtype).reshape(shape)
    return array


def strided_view(
    array: DeviceArray, shape: tuple[int, ...], strides: tuple[int, ...], what: str
) -> NDArray[Any]:
    """Memory from the array's address on, with strides in elements. Raises DeviceError where it
    would leave the array's allocation."""
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    nbytes = (last + 1) * array.itemsize
    owner = array.owner
    if isinstance(owner, Allocation) and not owner.holds(array.address, nbytes):
        raise DeviceError(f"{what}: {shape} with strides {strides} leaves its memory")
    flat = view(array.address, (last + 1,), array.dtype)
    byte_strides = tuple(stride * array.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, byte_strides)
