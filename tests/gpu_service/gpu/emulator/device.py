"""EmulatedDevice: the Device of gpu_service.gpu.device on the CPU.

What is enqueued runs at once; with `deferred=True` it runs at the last moment instead, when the
host waits. A GPU does something in between, so what is right in both is right there: a host that
reads results too early or reuses a pinned buffer too soon fails in one of the two. Likewise
threads and blocks start in order, or with `backwards=True` in reverse: a kernel that lacks a
barrier shows it in one of the two.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_service.gpu.device import (
    NO_DEFINES,
    Argument,
    DeviceArray,
    DeviceError,
    PinnedArray,
)
from gpu_service.gpu.kernel_signature import Parameter, check_arguments

from . import compiling, limits
from .graph import EmulatedCapture, EmulatedCondition, EmulatedGraph, Work
from .memory import Allocation, host_view


@dataclass(frozen=True, slots=True)
class EmulatedKernel:
    """A kernel; see Kernel."""

    name: str
    parameters: tuple[Parameter, ...]
    function: Any  # of ctypes


@dataclass(slots=True)
class EmulatedEvent:
    """A point in the stream: when it was reached, in seconds, or None as long as it was not."""

    reached_s: float | None = None


class EmulatedDevice:
    """One stream on the CPU. `num_sms` bounds the grids of cooperative launches."""

    is_emulated = True
    stream_handle = 0

    def __init__(
        self,
        num_sms: int = 4,
        *,
        deferred: bool = False,
        backwards: bool = False,
        sources: Path = compiling.KERNELS,
    ) -> None:
        self.name = "emulator"
        self.num_sms = num_sms
        self.shared_bytes_per_block = limits.MAX_SHARED_BYTES
        self._deferred = deferred
        self._backwards = backwards
        self._sources = sources
        self._pending: list[Work] = []
        self._main = self._pending
        self._side: list[Work] = []  # runs as late as it may: when somebody follows it
        self._registered: dict[int, memoryview] = {}
        self._libraries: dict[tuple[str, tuple[tuple[str, str], ...]], compiling.Library] = {}
        self._graph: EmulatedGraph | None = None
        self._lists: list[list[Work]] = []  # of the graph being recorded, innermost last

    @property
    def is_capturing(self) -> bool:
        """Whether work is recorded rather than run."""
        return self._graph is not None

    # -- memory ----------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """See Device.empty. The memory is poisoned: NaN, or -1."""
        self._refuse_in_capture("empty()")
        sizes, kind, allocation = _allocate(shape, dtype)
        return DeviceArray(allocation.address, sizes, kind, allocation)

    def zeros(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """See Device.zeros."""
        array = self.empty(shape, dtype)
        self.fill_zero(array)
        return array

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """See Device.upload."""
        target = self.empty(array.shape, array.dtype)
        host_view(target)[...] = array
        self.synchronize()
        return target

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """See Device.download."""
        self.synchronize()
        return np.array(host_view(array))

    def pinned(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> PinnedArray:
        """See Device.pinned."""
        self._refuse_in_capture("pinned()")
        sizes, kind, allocation = _allocate(shape, dtype, fill=0)
        bare = DeviceArray(allocation.address, sizes, kind, allocation)
        return PinnedArray(bare.address, sizes, kind, allocation, array=host_view(bare))

    def register(self, buffer: memoryview) -> int:
        """See Device.register."""
        address = int(np.frombuffer(buffer, np.uint8).ctypes.data)
        if address in self._registered:
            raise DeviceError("the buffer is registered already")
        self._registered[address] = buffer
        return address

    def unregister(self, buffer: memoryview) -> None:
        """See Device.unregister."""
        address = int(np.frombuffer(buffer, np.uint8).ctypes.data)
        if self._registered.pop(address, None) is None:
            raise DeviceError("the buffer is not registered")

    # -- work ------------------------------------------------------------------------------

    def kernel(
        self, source: str, name: str, defines: Mapping[str, str] = NO_DEFINES
    ) -> EmulatedKernel:
        """See Device.kernel."""
        key = (source, tuple(sorted(defines.items())))
        library = self._libraries.get(key)
        if library is None:
            library = compiling.compiled(source, defines, self._sources)
            self._libraries[key] = library
        function = getattr(library.functions, f"emulate_{name}", None)
        if function is None:
            raise DeviceError(f"{source} has no kernel {name} with {dict(defines)}")
        parameters = library.signatures[name]
        function.restype = ctypes.c_char_p
        function.argtypes = [
            *[ctypes.c_uint] * 3, ctypes.c_int, ctypes.c_longlong, *[ctypes.c_int] * 2,
            *map(compiling.argument_type, parameters),
        ]  # fmt: skip
        return EmulatedKernel(name, parameters, function)

    def launch(
        self,
        kernel: EmulatedKernel,
        grid: int | tuple[int, int, int],
        block: int,
        *arguments: Argument,
        shared_bytes: int = 0,
        cooperative: bool = False,
    ) -> None:
        """See Device.launch. Raises DeviceError for what an H100 would refuse."""
        check_arguments(kernel.name, kernel.parameters, arguments)
        sizes = (grid, 1, 1) if isinstance(grid, int) else grid
        limits.check_launch(kernel.name, sizes, block, shared_bytes)
        if cooperative:
            limits.check_cooperative(kernel.name, sizes, block, shared_bytes, self.num_sms)
        raw = [self._raw(argument) for argument in arguments]

        def run() -> None:
            error = kernel.function(*sizes, block, shared_bytes, cooperative, self._backwards, *raw)
            if error is not None:
                raise DeviceError(error.decode(), is_sticky=True)

        arrays = [argument for argument in arguments if isinstance(argument, DeviceArray)]
        self.enqueue(f"kernel {kernel.name}", run, arrays)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """See Device.copy. Raises ValueError for different sizes."""
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes into {target.nbytes}")
        if self._is_in_body and any(isinstance(a, PinnedArray) for a in (target, source)):
            raise DeviceError("a body copies only on the device, not from or to pinned memory")
        to, size, start = target.address, target.nbytes, source.address
        self.enqueue("a copy", lambda: _move(to, start, size), [target, source])

    def fill_zero(self, array: DeviceArray) -> None:
        """See Device.fill_zero."""
        address, size = array.address, array.nbytes
        self.enqueue("fill_zero", lambda: _fill_zero(address, size), [array])

    def enqueue(self, what: str, work: Work, arrays: Sequence[DeviceArray] = ()) -> None:
        """Record it, defer it, or do it; `work` holds none of the arrays that it uses.

        A graph keeps no memory alive, on a GPU either. Freeing memory waits for work there, so
        work outside of graphs does.
        """
        owners = [a.owner for a in arrays if isinstance(a.owner, Allocation)]
        if self._lists:
            self._lists[-1].append(partial(_run_recorded, what, work, [*map(ref, owners)]))
        elif self._deferred:
            self._pending.append(partial(_run_checked, what, work, owners))
        else:
            _run_checked(what, work, owners)

    def record(self) -> EmulatedEvent:
        """See Device.record."""
        self._refuse_in_capture("record()")
        event = EmulatedEvent()

        def reach() -> None:
            event.reached_s = time.perf_counter()

        self.enqueue("an event", reach)
        return event

    def wait(self, event: EmulatedEvent) -> None:
        """See Device.wait."""
        self._refuse_in_capture("wait()")
        while event.reached_s is None:
            self._do_next()

    def elapsed_ms(self, start: EmulatedEvent, end: EmulatedEvent) -> float:
        """See Device.elapsed_ms."""
        if start.reached_s is None or end.reached_s is None:
            raise DeviceError("elapsed_ms of events that were not waited for")
        return (end.reached_s - start.reached_s) * 1000

    def synchronize(self) -> None:
        """See Device.synchronize."""
        self._refuse_in_capture("synchronize()")
        while self._main or self._side:
            self._do_next()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """See Device.aside."""
        self._refuse_in_capture("aside()")
        self._pending = self._side
        try:
            yield
        finally:
            self._pending = self._main

    def follow(self, event: EmulatedEvent) -> None:
        """See Device.follow."""
        self._refuse_in_capture("follow()")
        other = self._side if self._pending is self._main else self._main

        def reach() -> None:
            while event.reached_s is None:
                if not other:
                    raise DeviceError("follows an event that can not come")
                other.pop(0)()

        self.enqueue("a point to follow", reach)

    # -- graphs ----------------------------------------------------------------------------

    @contextmanager
    def capture(self) -> Iterator[EmulatedCapture]:
        """See Device.capture."""
        self._refuse_in_capture("capture()")
        graph = EmulatedGraph(self._enqueue_graph)
        capture = EmulatedCapture()
        self._graph = graph
        self._lists = [graph.work]
        try:
            yield capture
        finally:
            self._graph = None
            self._lists = []
        capture.graph = graph

    def condition(self) -> EmulatedCondition:
        """See Device.condition."""
        if self._graph is None:
            raise DeviceError("condition() outside of capture()")
        condition = EmulatedCondition()
        self._graph.conditions.append(condition)
        return condition

    @contextmanager
    def while_loop(self, condition: EmulatedCondition) -> Iterator[None]:
        """See Device.while_loop."""
        with self._body(condition) as body:
            yield
        self._lists[-1].append(partial(condition.repeat, body))

    @contextmanager
    def if_then(self, condition: EmulatedCondition) -> Iterator[None]:
        """See Device.if_then."""
        with self._body(condition) as body:
            yield
        self._lists[-1].append(partial(condition.choose, body))

    @contextmanager
    def _body(self, condition: EmulatedCondition) -> Iterator[list[Work]]:
        self._check_condition(condition)
        body: list[Work] = []
        self._lists.append(body)
        try:
            yield body
        finally:
            self._lists.pop()

    def _enqueue_graph(self, work: Work) -> None:
        self._refuse_in_capture("launch() of a graph")
        self.enqueue("a graph", work)

    # -- rules -----------------------------------------------------------------------------

    @property
    def _is_in_body(self) -> bool:
        return len(self._lists) > 1

    def _do_next(self) -> None:
        queue = self._main or self._side
        if not queue:
            raise DeviceError("waits for an event that can not come")
        queue.pop(0)()

    def _refuse_in_capture(self, what: str) -> None:
        if self.is_capturing:
            raise DeviceError(f"{what} inside capture()")

    def _check_condition(self, condition: EmulatedCondition) -> None:
        if self._graph is None or condition not in self._graph.conditions:
            raise DeviceError("a condition outside of the graph that it was made for")

    def _raw(self, argument: Argument) -> Any:
        if isinstance(argument, DeviceArray):
            return argument.address
        if isinstance(argument, EmulatedCondition):
            self._check_condition(argument)
            return argument.address
        assert isinstance(argument, np.generic)
        return argument.item()


def _allocate(
    shape: tuple[int, ...] | int, dtype: DTypeLike, **fill: int
) -> tuple[tuple[int, ...], np.dtype[Any], Allocation]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = np.dtype(dtype)
    nbytes = int(np.prod(sizes, dtype=np.int64)) * kind.itemsize
    return sizes, kind, Allocation(nbytes, **fill)


def _move(to: int, start: int, size: int) -> None:
    ctypes.memmove(to, start, size)


def _fill_zero(address: int, size: int) -> None:
    ctypes.memset(address, 0, size)


def _run_checked(what: str, work: Work, owners: Sequence[Allocation]) -> None:
    work()
    for owner in owners:
        owner.check(what)


def _run_recorded(what: str, work: Work, owners: Sequence[ref[Allocation]]) -> None:
    alive = [owner for weak in owners if (owner := weak()) is not None]
    if len(alive) < len(owners):
        raise DeviceError(f"{what} in a graph uses memory that was freed")
    _run_checked(what, work, alive)
