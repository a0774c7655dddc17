"""Device: what the GPU engine asks of the hardware. Types only; no CUDA is imported here.

One device, one stream, one thread. cuda.py is the real one; tests run the same kernels and the
same Python on an emulator (tests/gpu_service/gpu/emulator). What is enqueued runs in order; the
host waits only where wait() or synchronize() is called.

Inside capture() nothing runs: launches, copies, fills and products are recorded into a graph,
which bakes their addresses and arguments. What changes from launch to launch lies in memory. The
body of a while_loop() or if_then() holds only launches, products, fills and copies on the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import ServiceError

NO_DEFINES: Mapping[str, str] = {}


class DeviceError(ServiceError):
    """The device or its driver refused a call, or a kernel failed.

    `is_sticky`: the process can do nothing more on the device and must end.
    """

    def __init__(self, message: str, *, is_sticky: bool = False) -> None:
        super().__init__(message)
        self.is_sticky = is_sticky


class DeviceMemoryError(DeviceError):
    """The device has too little memory left."""


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """Memory that the device reads and writes, in C order. `owner` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return self.size * self.itemsize

    def at(self, *index: int) -> DeviceArray:
        """A view of what lies at leading indices: a.at(3) has shape[1:]. Raises IndexError."""
        offset, shape = 0, self.shape
        for i in index:
            if not 0 <= i < shape[0]:
                raise IndexError(f"index {index} of shape {self.shape}")
            shape = shape[1:]
            offset += i * math.prod(shape)
        return self._view(offset, shape)

    def rows(self, start: int, stop: int) -> DeviceArray:
        """A view of [start, stop) along the first axis. Raises IndexError."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start}..{stop} of shape {self.shape}")
        rest = self.shape[1:]
        return self._view(start * math.prod(rest), (stop - start, *rest))

    def reshape(self, *shape: int) -> DeviceArray:
        """The same memory in another shape of the same size. Raises ValueError."""
        if math.prod(shape) != self.size:
            raise ValueError(f"{self.shape} as {shape}")
        return self._view(0, shape)

    def first(self, *shape: int) -> DeviceArray:
        """The first elements, in another shape. Raises ValueError where there are fewer."""
        if math.prod(shape) > self.size:
            raise ValueError(f"{shape} out of {self.shape}")
        return self._view(0, shape)

    def _view(self, offset: int, shape: tuple[int, ...]) -> DeviceArray:
        address = self.address + offset * self.itemsize
        return DeviceArray(address, shape, self.dtype, self.owner)


@dataclass(frozen=True, slots=True)
class PinnedArray(DeviceArray):
    """Page-locked host memory: `array` for the host, `address` for the device."""

    array: NDArray[Any] = field(kw_only=True, repr=False, compare=False)

    def head(self, length: int) -> PinnedArray:
        """The first `length` along the first axis, of both."""
        shape = (length, *self.shape[1:])
        return replace(self, shape=shape, array=self.array[:length])


class Kernel(Protocol):
    """A compiled kernel."""

    @property
    def name(self) -> str: ...


class Condition(Protocol):
    """What a while_loop() or if_then() asks, and kernels set. 0 at each launch of the graph."""


class Event(Protocol):
    """A point in the stream."""


class Graph(Protocol):
    """A recorded sequence."""

    def launch(self) -> None:
        """Enqueue it."""
        ...


class GraphCapture(Protocol):
    """What capture() gives: `graph` is there once the with block has ended."""

    graph: Graph


Argument: TypeAlias = DeviceArray | Condition | np.int32 | np.int64 | np.float32


class Device(Protocol):
    """See the module text. Every method raises DeviceError."""

    name: str
    num_sms: int
    shared_bytes_per_block: int  # at most
    is_emulated: bool

    @property
    def stream_handle(self) -> int:
        """The stream that takes what is enqueued now: a body's own inside of one."""
        ...

    def empty(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """Memory of unknown content. Raises DeviceMemoryError."""
        ...

    def zeros(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """Memory of zeros. Raises DeviceMemoryError."""
        ...

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """A copy on the device; waits. For loading."""
        ...

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """A copy on the host; waits. For tests and checks."""
        ...

    def pinned(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> PinnedArray:
        """Page-locked zeros."""
        ...

    def register(self, buffer: memoryview) -> int:
        """Page-lock memory that is there already; returns its address on the device."""
        ...

    def unregister(self, buffer: memoryview) -> None:
        """End what register() began."""
        ...

    def kernel(self, source: str, name: str, defines: Mapping[str, str] = NO_DEFINES) -> Kernel:
        """A kernel of a file in kernels/, compiled when it is first asked for."""
        ...

    def launch(
        self,
        kernel: Kernel,
        grid: int | tuple[int, int, int],
        block: int,
        *arguments: Argument,
        shared_bytes: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Enqueue a kernel. Raises TypeError for arguments that are not its parameters."""
        ...

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Enqueue a copy of the same number of bytes; either may be pinned."""
        ...

    def fill_zero(self, array: DeviceArray) -> None:
        """Enqueue zeros."""
        ...

    def record(self) -> Event:
        """A point behind all that was enqueued so far."""
        ...

    def wait(self, event: Event) -> None:
        """Return when the device has come to that point."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Between two points that were waited for."""
        ...

    def synchronize(self) -> None:
        """Return when the device has done everything."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """What is enqueued inside runs beside the stream, in an order of its own. No graphs."""
        ...

    def follow(self, event: Event) -> None:
        """What is enqueued from here on, on this side, waits for that point of the other."""
        ...

    def capture(self) -> AbstractContextManager[GraphCapture]:
        """Record instead of running."""
        ...

    def condition(self) -> Condition:
        """A new condition of the graph that is being recorded."""
        ...

    def while_loop(self, condition: Condition) -> AbstractContextManager[None]:
        """What is recorded inside runs again as long as the condition is not 0."""
        ...

    def if_then(self, condition: Condition) -> AbstractContextManager[None]:
        """What is recorded inside runs if the condition is not 0."""
        ...
