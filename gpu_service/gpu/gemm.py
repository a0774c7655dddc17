"""Products of matrices: what the engine asks for, and how it is laid out. Types only.

A plan is made once, at set-up, and then run inside graphs. Its algorithm is fixed with it, so a
row of a result depends on the plan's sizes and on that row alone. cublaslt.py is the real thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .device import DeviceArray


@dataclass(frozen=True, slots=True)
class Product:
    """C[i] (m, n) = A[i] (m, k) . W[i] (n, k)^T for i < batch; all row-major.

    Row strides in elements, 0 for dense rows; strides between the entries of a batch likewise,
    where 0 means that all entries share one matrix. Sums are in float32 (without TF32).
    """

    m: int
    n: int
    k: int
    batch: int = 1
    lda: int = 0
    ldw: int = 0
    ldc: int = 0
    stride_a: int = 0
    stride_w: int = 0
    stride_c: int = 0
    w_is_kn: bool = False  # W[i] lies as (k, n)
    dtype: str = "float16"  # of A and W: "float16" or "float32"
    out_dtype: str = "float16"  # of C
    accumulate: bool = False  # C += ...
    bias: bool = False  # + bias (n,), of out_dtype
    relu: bool = False

    @property
    def row_a(self) -> int:
        """Elements from one row of A to the next."""
        return self.lda or self.k

    @property
    def row_w(self) -> int:
        """Elements from one row of W, as it lies, to the next."""
        return self.ldw or (self.n if self.w_is_kn else self.k)

    @property
    def row_c(self) -> int:
        """Elements from one row of C to the next."""
        return self.ldc or self.n

    @property
    def flops(self) -> int:
        """Floating point operations, an addition and a multiplication counted as two."""
        return 2 * self.m * self.n * self.k * self.batch


class Plan(Protocol):
    """A product with its algorithm."""

    product: Product

    def run(
        self, a: DeviceArray, w: DeviceArray, c: DeviceArray, bias: DeviceArray | None = None
    ) -> None:
        """Enqueue it. `bias` if and only if the product has one."""
        ...


class Gemms(Protocol):
    """Makes plans; equal products share one."""

    def plan(self, product: Product) -> Plan:
        """The plan of a product. Raises DeviceError where the library has no algorithm."""
        ...
