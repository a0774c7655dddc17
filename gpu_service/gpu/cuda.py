"""CudaDevice: the Device (device.py) of an NVIDIA GPU, by cuda.bindings and cuda.core.

The only module that talks to the driver; nvrtc.py compiles for it and cublaslt.py multiplies on
its stream. Every call goes through check() or translated(), so whatever fails is a DeviceError
that says what failed and whether the process is lost. One thread owns a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.bindings import runtime as rt
from cuda.core import Device as CoreDevice
from cuda.core import LaunchConfig, ObjectCode
from cuda.core import launch as core_launch
from numpy.typing import DTypeLike, NDArray

from . import nvrtc
from .cuda_errors import check, translated
from .device import NO_DEFINES, Argument, DeviceArray, PinnedArray
from .kernel_signature import Parameter, check_arguments, signatures

DEFAULT_SHARED_BYTES = 48 * 1024  # more has to be asked for


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """A compiled kernel and what its parameters are."""

    name: str
    parameters: tuple[Parameter, ...]
    handle: Any  # cuda.core.Kernel


class CudaEvent:
    """A point in the stream, with its time."""

    def __init__(self) -> None:
        self.handle = check(rt.cudaEventCreate())

    def __del__(self) -> None:
        destroy = rt.cudaEventDestroy
        if destroy is not None and hasattr(self, "handle"):
            destroy(self.handle)


@dataclass(frozen=True, slots=True)
class CudaCondition:
    """A conditional handle, as cuda.core passes it to a kernel."""

    handle: Any


@dataclass(slots=True)
class CudaGraph:
    """An executable graph on the device's stream."""

    _graph: Any
    _stream: Any

    def launch(self) -> None:
        """Enqueue it."""
        with translated():
            self._graph.launch(self._stream)


@dataclass(slots=True)
class CudaCapture:
    """See GraphCapture."""

    graph: Any = None


class _Memory:
    """Frees an allocation when the last array on it is gone."""

    def __init__(self, address: int, *, is_pinned: bool) -> None:
        self.address = address
        self._is_pinned = is_pinned

    def __del__(self) -> None:
        free = rt.cudaFreeHost if self._is_pinned else rt.cudaFree
        if free is not None:  # at the end of the interpreter it may be gone
            free(self.address)


class CudaDevice:
    """One GPU, a stream and one aside of it."""

    is_emulated = False

    def __init__(self, index: int = 0) -> None:
        """Raises DeviceError where there is no such GPU or no driver."""
        with translated():
            self._core = CoreDevice(index)
            self._core.set_current()
            self._stream = self._core.create_stream()
            self._side_stream = self._core.create_stream()
        self._present = self._stream  # takes what is enqueued
        properties = self._core.properties
        self.index = index
        self.name = str(self._core.name)
        self.num_sms = int(properties.multiprocessor_count)
        capability = self._core.compute_capability
        self.compute_capability = (int(capability[0]), int(capability[1]))
        self.architecture = f"sm_{capability[0]}{capability[1]}"
        self.shared_bytes_per_block = int(properties.max_shared_memory_per_block_optin)
        self._modules: dict[tuple[str, tuple[tuple[str, str], ...]], ObjectCode] = {}
        self._kernels: dict[tuple[str, str, tuple[tuple[str, str], ...]], CudaKernel] = {}
        self._builders: list[Any] = []  # of the graph being recorded, innermost last
        self.num_allocated_bytes = 0

    @property
    def driver_version(self) -> str:
        """Of CUDA as the driver knows it: "13.0"."""
        version = int(check(rt.cudaDriverGetVersion()))
        return f"{version // 1000}.{version % 1000 // 10}"

    @property
    def stream_handle(self) -> int:
        """See Device.stream_handle."""
        return int(self._target.stream.handle if self._builders else self._present.handle)

    @property
    def _target(self) -> Any:
        return self._builders[-1] if self._builders else self._present

    # -- memory ----------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """See Device.empty."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        nbytes = max(1, int(np.prod(sizes, dtype=np.int64)) * kind.itemsize)
        address = int(check(rt.cudaMalloc(nbytes)))
        self.num_allocated_bytes += nbytes
        return DeviceArray(address, sizes, kind, _Memory(address, is_pinned=False))

    def zeros(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> DeviceArray:
        """See Device.zeros."""
        array = self.empty(shape, dtype)
        self.fill_zero(array)
        return array

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """See Device.upload."""
        source = np.ascontiguousarray(array)
        target = self.empty(source.shape, source.dtype)
        kind = rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        if source.nbytes:
            self.synchronize()
            check(rt.cudaMemcpy(target.address, source.ctypes.data, source.nbytes, kind))
        return target

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """See Device.download."""
        target = np.empty(array.shape, array.dtype)
        self.synchronize()
        kind = rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        if target.nbytes:
            check(rt.cudaMemcpy(target.ctypes.data, array.address, array.nbytes, kind))
        return target

    def pinned(self, shape: tuple[int, ...] | int, dtype: DTypeLike) -> PinnedArray:
        """See Device.pinned. Unified addressing: the device knows it by the same address."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        nbytes = max(1, int(np.prod(sizes, dtype=np.int64)) * kind.itemsize)
        address = int(check(rt.cudaHostAlloc(nbytes, rt.cudaHostAllocMapped)))
        array = _host_view(address, sizes, kind)
        array.fill(0)
        return PinnedArray(address, sizes, kind, _Memory(address, is_pinned=True), array=array)

    def register(self, buffer: memoryview) -> int:
        """See Device.register."""
        address = _address_of(buffer)
        flags = rt.cudaHostRegisterMapped | rt.cudaHostRegisterPortable
        check(rt.cudaHostRegister(address, buffer.nbytes, flags))
        return int(check(rt.cudaHostGetDevicePointer(address, 0)))

    def unregister(self, buffer: memoryview) -> None:
        """See Device.unregister."""
        check(rt.cudaHostUnregister(_address_of(buffer)))

    def free_bytes(self) -> int:
        """Memory that is left on the device."""
        free, _ = check(rt.cudaMemGetInfo())
        return int(free)

    # -- work ------------------------------------------------------------------------------

    def kernel(self, source: str, name: str, defines: Mapping[str, str] = NO_DEFINES) -> CudaKernel:
        """See Device.kernel."""
        variant = tuple(sorted(defines.items()))
        known = self._kernels.get((source, name, variant))
        if known is not None:
            return known
        module = self._modules.get((source, variant))
        if module is None:
            module = nvrtc.compiled(source, defines, self.architecture)
            self._modules[source, variant] = module
        parameters = signatures(Path(nvrtc.SOURCES / source).read_text())[name]
        with translated():
            kernel = CudaKernel(name, parameters, module.get_kernel(name))
        self._kernels[source, name, variant] = kernel
        return kernel

    def launch(
        self,
        kernel: CudaKernel,
        grid: int | tuple[int, int, int],
        block: int,
        *arguments: Argument,
        shared_bytes: int = 0,
        cooperative: bool = False,
    ) -> None:
        """See Device.launch."""
        check_arguments(kernel.name, kernel.parameters, arguments)
        if shared_bytes > DEFAULT_SHARED_BYTES:
            self._allow_shared(kernel, shared_bytes)
        config = LaunchConfig(
            grid=grid, block=block, shmem_size=shared_bytes, is_cooperative=cooperative
        )
        with translated():
            core_launch(self._target, config, kernel.handle, *map(_raw, arguments))

    def _allow_shared(self, kernel: CudaKernel, shared_bytes: int) -> None:
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle = driver.CUkernel(int(kernel.handle.handle))
        check(driver.cuKernelSetAttribute(attribute, shared_bytes, handle, self.index))

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """See Device.copy. Raises ValueError for different sizes."""
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes into {target.nbytes}")
        if target.nbytes:
            kind = rt.cudaMemcpyKind.cudaMemcpyDefault
            check(
                rt.cudaMemcpyAsync(
                    target.address, source.address, target.nbytes, kind, self.stream_handle
                )
            )

    def fill_zero(self, array: DeviceArray) -> None:
        """See Device.fill_zero."""
        if array.nbytes:
            check(rt.cudaMemsetAsync(array.address, 0, array.nbytes, self.stream_handle))

    def record(self) -> CudaEvent:
        """See Device.record."""
        event = CudaEvent()
        check(rt.cudaEventRecord(event.handle, self.stream_handle))
        return event

    def wait(self, event: CudaEvent) -> None:
        """See Device.wait."""
        check(rt.cudaEventSynchronize(event.handle))

    def elapsed_ms(self, start: CudaEvent, end: CudaEvent) -> float:
        """See Device.elapsed_ms."""
        return float(check(rt.cudaEventElapsedTime(start.handle, end.handle)))

    def synchronize(self) -> None:
        """See Device.synchronize."""
        for stream in (self._stream, self._side_stream):
            check(rt.cudaStreamSynchronize(int(stream.handle)))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """See Device.aside."""
        self._present = self._side_stream
        try:
            yield
        finally:
            self._present = self._stream

    def follow(self, event: CudaEvent) -> None:
        """See Device.follow."""
        check(rt.cudaStreamWaitEvent(self.stream_handle, event.handle, 0))

    # -- graphs ----------------------------------------------------------------------------

    @contextmanager
    def capture(self) -> Iterator[CudaCapture]:
        """See Device.capture."""
        capture = CudaCapture()
        with translated():
            builder = self._core.create_graph_builder().begin_building()
        with self._recording(builder):
            yield capture
        with translated():
            graph = builder.complete()
            graph.upload(self._stream)
        capture.graph = CudaGraph(graph, self._stream)

    def condition(self) -> CudaCondition:
        """See Device.condition."""
        with translated():
            return CudaCondition(self._builders[0].create_condition(default_value=0))

    @contextmanager
    def while_loop(self, condition: CudaCondition) -> Iterator[None]:
        """See Device.while_loop."""
        with translated():
            body = self._target.while_loop(condition.handle)
            body.begin_building()
        with self._recording(body):
            yield

    @contextmanager
    def if_then(self, condition: CudaCondition) -> Iterator[None]:
        """See Device.if_then."""
        with translated():
            body = self._target.if_then(condition.handle)
            body.begin_building()
        with self._recording(body):
            yield

    @contextmanager
    def _recording(self, builder: Any) -> Iterator[None]:
        self._builders.append(builder)
        try:
            yield
        finally:
            self._builders.pop()
            with translated():
                builder.end_building()


def _raw(argument: Argument) -> Any:
    """What cuda.core passes to the kernel."""
    if isinstance(argument, DeviceArray):
        return argument.address
    if isinstance(argument, CudaCondition):
        return argument.handle
    return argument


def _host_view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array on memory that somebody else owns."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")
    view: NDArray[Any] = np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)
    return view


def _address_of(buffer: memoryview) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)
