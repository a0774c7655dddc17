"""EmulatedGemms: products of gemm.py by numpy, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.gpu.device import DeviceArray
from gpu_service.gpu.gemm import Product

from .device import EmulatedDevice
from .memory import host_view, strided_view


@dataclass(frozen=True, slots=True)
class EmulatedPlan:
    """A product; see Plan."""

    product: Product
    device: EmulatedDevice

    def run(
        self, a: DeviceArray, w: DeviceArray, c: DeviceArray, bias: DeviceArray | None = None
    ) -> None:
        """See Plan.run. Raises TypeError for arrays of other types."""
        product = self.product
        kinds = [(a, product.dtype), (w, product.dtype), (c, product.out_dtype)]
        kinds += [(bias, product.out_dtype)] if bias is not None else []
        for array, kind in kinds:
            if array.dtype.name != kind:
                raise TypeError(f"{product} got an array of {array.dtype.name}")
        if (bias is not None) != product.bias or (bias is not None and bias.size != product.n):
            raise TypeError(f"{product} got bias {bias}")
        matrices = self._matrices(a, w, c)
        row = None if bias is None else host_view(bias)
        arrays = [array for array, _ in kinds]
        self.device.enqueue("a product", lambda: self._multiply(*matrices, row), arrays)

    def _matrices(
        self, a: DeviceArray, w: DeviceArray, c: DeviceArray
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Views of A (batch, m, k), W (batch, k, n) and C (batch, m, n)."""
        p = self.product
        w_strides = (p.row_w, 1) if p.w_is_kn else (1, p.row_w)
        return (
            strided_view(a, (p.batch, p.m, p.k), (p.stride_a, p.row_a, 1), "A"),
            strided_view(w, (p.batch, p.k, p.n), (p.stride_w, *w_strides), "W"),
            strided_view(c, (p.batch, p.m, p.n), (p.stride_c, p.row_c, 1), "C"),
        )

    def _multiply(
        self, a: NDArray[Any], w: NDArray[Any], c: NDArray[Any], row: NDArray[Any] | None
    ) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            # In double precision: a BLAS may sum a row otherwise in another batch, and what differs
            # there is gone when the answer is rounded.
            result = np.matmul(a.astype(np.float64), w.astype(np.float64))
            if self.product.accumulate:
                result += c
            if row is not None:
                result += row.reshape(-1).astype(np.float32)
            if self.product.relu:
                np.maximum(result, 0, out=result)
            c[:] = result.astype(c.dtype)


class EmulatedGemms:
    """See Gemms."""

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device

    def plan(self, product: Product) -> EmulatedPlan:
        """See Gemms.plan."""
        if product.batch > 1 and not product.stride_c:
            raise ValueError(f"all results of the batch at one place: {product}")
        return EmulatedPlan(product, self._device)
