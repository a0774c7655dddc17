"""CublasGemms: the products of gemm.py by cuBLASLt, through nvmath-python's bindings.

A plan picks its algorithm when it is made: the one that was found fastest before (Tactics, kept
beside an engine), the fastest of the library's proposals when asked to tune, or its first proposal.
cuBLASLt counts in columns, and we in rows: what it calls A is our W, and its C is our C transposed.
The only importer of nvmath. Layouts and attributes: cuBLAS documentation, "Using the cuBLASLt API".
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvmath.bindings import cublasLt as lt

from .cuda import CudaDevice
from .device import DeviceArray, DeviceError
from .gemm import Product

WORKSPACE_BYTES = 32 << 20  # what NVIDIA advises for Hopper
ALIGNMENT_BYTES = 16  # of every matrix
NUM_PROPOSALS = 8
TUNING_RUNS = 10
COMPUTE_FLOAT32 = 68  # cublasComputeType_t: CUBLAS_COMPUTE_32F, no TF32
DATA_TYPES = {"float32": 0, "float16": 2}  # cudaDataType_t
TRANSPOSE = {False: 0, True: 1}  # cublasOperation_t

_ONE = np.ones(1, np.float32)
_ZERO = np.zeros(1, np.float32)


@contextmanager
def _translated(product: Product | None = None) -> Iterator[None]:
    try:
        yield
    except lt.cuBLASLtError as error:
        of = f" for {product}" if product else ""
        raise DeviceError(f"cuBLASLt: {error}{of}") from error


@dataclass(slots=True)
class Tactics:
    """The fastest algorithm of each product, found once on one kind of GPU.

    `library` says which cuBLASLt and which GPU they are for: to another one they mean nothing.
    """

    library: str
    algorithms: dict[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        encoded = {key: base64.b64encode(data).decode() for key, data in self.algorithms.items()}
        return {"library": self.library, "algorithms": encoded}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], library: str) -> Tactics:
        """What to_json() gave, or nothing where that was for another library or GPU."""
        size = lt.matmul_algo_dtype.itemsize
        if values.get("library") != library:
            return cls(library)
        decoded = {
            str(key): base64.b64decode(str(text))
            for key, text in dict(values.get("algorithms", {})).items()
        }
        return cls(library, {key: data for key, data in decoded.items() if len(data) == size})


class CublasPlan:
    """See Plan. Holds its descriptors as long as it lives."""

    def __init__(self, gemms: CublasGemms, product: Product) -> None:
        self.product = product
        self._gemms = gemms
        self._operation = _operation(product)
        self._layouts = _layouts(product)
        self._beta = _ONE if product.accumulate else _ZERO
        self._algorithm: NDArray[Any] = np.zeros(1, lt.matmul_algo_dtype)
        self._bias_address = np.zeros(1, np.uint64)

    def choose(self, tactics: Tactics, *, tune: bool) -> None:
        """Pick the algorithm. Raises DeviceError."""
        key = repr(astuple(self.product))
        known = tactics.algorithms.get(key)
        if known is not None:
            self._algorithm = np.frombuffer(known, lt.matmul_algo_dtype).copy()
            return
        proposals = self._proposals()
        self._algorithm = proposals[:1].copy()
        if tune:
            self._algorithm = self._fastest(proposals)
            tactics.algorithms[key] = self._algorithm.tobytes()

    def run(
        self, a: DeviceArray, w: DeviceArray, c: DeviceArray, bias: DeviceArray | None = None
    ) -> None:
        """See Plan.run."""
        if self.product.bias:
            assert bias is not None
            self._bias_address[0] = bias.address
            attribute = lt.MatmulDescAttribute.BIAS_POINTER
            lt.matmul_desc_set_attribute(
                self._operation, attribute, self._bias_address.ctypes.data, 8
            )
        weights, rows, result = self._layouts
        with _translated(self.product):
            lt.matmul(
                self._gemms.handle, self._operation, _ONE.ctypes.data, w.address, weights,
                a.address, rows, self._beta.ctypes.data, c.address, result, c.address, result,
                self._algorithm.ctypes.data, self._gemms.workspace.address, WORKSPACE_BYTES,
                self._gemms.device.stream_handle,
            )  # fmt: skip

    def _proposals(self) -> NDArray[Any]:
        """(n,) algorithms, the likely fastest first."""
        results = np.zeros(NUM_PROPOSALS, lt.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        weights, rows, result = self._layouts
        with _translated(self.product):
            lt.matmul_algo_get_heuristic(
                self._gemms.handle, self._operation, weights, rows, result, result,
                self._gemms.preference, NUM_PROPOSALS, results.ctypes.data, count.ctypes.data,
            )  # fmt: skip
        usable = results[: count[0]]
        usable = usable[usable["state"] == 0]
        if len(usable) == 0:
            raise DeviceError(f"cuBLASLt has no algorithm for {self.product}")
        algorithms: NDArray[Any] = np.ascontiguousarray(usable["algo"])
        return algorithms

    def _fastest(self, proposals: NDArray[Any]) -> NDArray[Any]:
        """The fastest of some algorithms on random numbers."""
        arrays = self._gemms.scratch(self.product)
        times = []
        for index in range(len(proposals)):
            self._algorithm = proposals[index : index + 1].copy()
            try:
                times.append(self._time_ms(arrays))
            except DeviceError as error:
                if error.is_sticky:
                    raise
                times.append(float("inf"))
        best = int(np.argmin(times))
        fastest: NDArray[Any] = proposals[best : best + 1].copy()
        return fastest

    def _time_ms(
        self, arrays: tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None]
    ) -> float:
        """Of TUNING_RUNS runs in one graph: a launch by the host takes longer than a product."""
        device = self._gemms.device
        self.run(*arrays)
        with device.capture() as capture:
            for _ in range(TUNING_RUNS):
                self.run(*arrays)
        capture.graph.launch()
        start = device.record()
        capture.graph.launch()
        end = device.record()
        device.wait(end)
        return device.elapsed_ms(start, end)


class CublasGemms:
    """Makes plans on one device. `tune`: time the library's proposals (minutes, once)."""

    def __init__(
        self, device: CudaDevice, tactics: Mapping[str, Any] | None = None, *, tune: bool = False
    ) -> None:
        """Raises DeviceError."""
        self.device = device
        self.workspace = device.empty(WORKSPACE_BYTES, np.uint8)
        with _translated():
            self.handle = lt.create()
            self.preference = lt.matmul_preference_create()
        self.library = f"cuBLASLt {lt.get_version()}, {device.name}"
        self.tactics = Tactics.from_json(tactics or {}, self.library)
        self._tune = tune
        self._plans: dict[Product, CublasPlan] = {}
        self._scratch: DeviceArray | None = None
        preferences = lt.MatmulPreferenceAttribute
        self._prefer(preferences.MAX_WORKSPACE_BYTES, np.array([WORKSPACE_BYTES], np.uint64))
        for letter in "ABCD":  # heads and rows of a batch begin anywhere at 16 bytes
            attribute = getattr(preferences, f"MIN_ALIGNMENT_{letter}_BYTES")
            self._prefer(attribute, np.array([ALIGNMENT_BYTES], np.uint32))

    def _prefer(self, attribute: int, value: NDArray[Any]) -> None:
        data = value.ctypes.data
        lt.matmul_preference_set_attribute(self.preference, attribute, data, value.nbytes)

    def plan(self, product: Product) -> CublasPlan:
        """See Gemms.plan."""
        plan = self._plans.get(product)
        if plan is None:
            plan = self._plans[product] = CublasPlan(self, product)
            plan.choose(self.tactics, tune=self._tune)
        return plan

    def scratch(
        self, product: Product
    ) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray | None]:
        """Memory of a product's sizes, for tuning; small random numbers, never zeros."""
        sizes = [_extent(product, matrix) for matrix in "awc"]
        starts = np.cumsum([0, *(-(-size // 256) * 256 for size in sizes)])
        total = int(starts[-1]) + product.n * 4
        if self._scratch is None or self._scratch.size < total:
            self._scratch = None
            rng = np.random.default_rng(0)
            noise = rng.standard_normal(1 << 20).astype(product.dtype).view(np.uint8)
            self._scratch = self.device.upload(np.resize(noise, total))
        parts = [self._scratch.rows(int(start), total) for start in starts]
        return parts[0], parts[1], parts[2], parts[3] if product.bias else None

    def end_tuning(self) -> None:
        """Later plans take the library's first proposal; the scratch memory goes."""
        self._tune = False
        self._scratch = None


def _extent(product: Product, matrix: str) -> int:
    """Bytes from the first to behind the last element of A, W or C."""
    p = product
    rows, row, stride = {
        "a": (p.m, p.row_a, p.stride_a),
        "w": (p.k if p.w_is_kn else p.n, p.row_w, p.stride_w),
        "c": (p.m, p.row_c, p.stride_c),
    }[matrix]
    itemsize = np.dtype(p.out_dtype if matrix == "c" else p.dtype).itemsize
    return (rows * row + (p.batch - 1) * stride) * itemsize


def _operation(product: Product) -> int:
    """The matmul descriptor: transposes and epilogue."""
    operation = int(lt.matmul_desc_create(COMPUTE_FLOAT32, DATA_TYPES["float32"]))
    epilogue = {
        (False, False): lt.Epilogue.DEFAULT,
        (False, True): lt.Epilogue.RELU,
        (True, False): lt.Epilogue.BIAS,
        (True, True): lt.Epilogue.RELU_BIAS,
    }[product.bias, product.relu]
    attributes = {
        lt.MatmulDescAttribute.TRANSA: TRANSPOSE[not product.w_is_kn],
        lt.MatmulDescAttribute.TRANSB: TRANSPOSE[False],
        lt.MatmulDescAttribute.EPILOGUE: int(epilogue),
    }
    for attribute, value in attributes.items():
        data = np.array([value], np.int32)
        lt.matmul_desc_set_attribute(operation, attribute, data.ctypes.data, 4)
    return operation


def _layouts(product: Product) -> tuple[int, int, int]:
    """Layouts of W, A and C as columns."""
    p = product
    kind, out = DATA_TYPES[p.dtype], DATA_TYPES[p.out_dtype]
    weights = (p.n, p.k) if p.w_is_kn else (p.k, p.n)
    return (
        _layout(kind, *weights, p.row_w, p.batch, p.stride_w),
        _layout(kind, p.k, p.m, p.row_a, p.batch, p.stride_a),
        _layout(out, p.n, p.m, p.row_c, p.batch, p.stride_c),
    )


def _layout(kind: int, rows: int, columns: int, leading: int, batch: int, stride: int) -> int:
    layout = int(lt.matrix_layout_create(kind, rows, columns, leading))
    if batch > 1:
        count, offset = np.array([batch], np.int32), np.array([stride], np.int64)
        attributes = lt.MatrixLayoutAttribute
        lt.matrix_layout_set_attribute(layout, attributes.BATCH_COUNT, count.ctypes.data, 4)
        lt.matrix_layout_set_attribute(
            layout, attributes.STRIDED_BATCH_OFFSET, offset.ctypes.data, 8
        )
    return layout
