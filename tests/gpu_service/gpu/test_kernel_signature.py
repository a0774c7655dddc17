"""Reading kernels' parameters from their sources, and holding arguments against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_service.gpu.device import DeviceArray
from gpu_service.gpu.kernel_signature import Parameter, check_arguments, signatures

SOURCE = """
#include "common.cuh"
// extern "C" __global__ void not_this_one(int n) {}
/* nor extern "C" __global__ void this_one(int n) {} */
__device__ float device_function(float x, double y) { return x; }

extern "C" __global__ void nothing() {}
extern "C" __global__ void nothing_either(void) {}
extern "C" __global__ void __launch_bounds__(256, 2) scale(
    const float* __restrict__ x,  // (n,)
    T *y, const volatile unsigned long long* counts,
    float const* factors, const struct Entry* entries,
    int n, const long long stride, float scale, cudaGraphConditionalHandle more
) {
    if (n) { y[0] = x[0]; }
}
extern "C" __global__ __launch_bounds__(32) void bounded(__half2* x) {}
"""


def array(dtype: str) -> DeviceArray:
    return DeviceArray(256, (4,), np.dtype(dtype))


class FakeCondition:
    """As opaque as a device's own."""


def test_parameters_are_read_without_qualifiers() -> None:
    found = signatures(SOURCE)
    assert list(found) == ["nothing", "nothing_either", "scale", "bounded"]
    assert found["nothing"] == found["nothing_either"] == ()
    assert found["bounded"] == (Parameter("x", "__half2*"),)
    assert found["scale"] == (
        Parameter("x", "float*"),
        Parameter("y", "T*"),
        Parameter("counts", "unsigned long long*"),
        Parameter("factors", "float*"),
        Parameter("entries", "Entry*"),
        Parameter("n", "int"),
        Parameter("stride", "long long"),
        Parameter("scale", "float"),
        Parameter("more", "cudaGraphConditionalHandle"),
    )
    assert [p.is_pointer for p in found["scale"]] == [True] * 5 + [False] * 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('extern "C" __global__ void f(double x) {}', "kernel f: no argument .* double"),
        ('extern "C" __global__ void f(unsigned n) {}', "kernel f: no argument .* unsigned"),
        ('extern "C" __global__ void f(int) {}', "kernel f: cannot read the parameter 'int'"),
        ('extern "C" __global__ void f(int** x) {}', r"cannot read the parameter 'int\*\* x'"),
        ('extern "C" __global__ void f(int n) {} ' * 2, "kernel f is defined twice"),
        ("__global__ void f(int n) {}", "1 kernels, but only"),
        ('extern "C" __global__ void f(PARAMETERS(int, n)) {}', "1 kernels, but only"),
    ],
)
def test_what_can_not_be_launched_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signatures(source)


def test_fitting_arguments_pass() -> None:
    check_arguments("nothing", (), ())
    for element in ("float16", "float32"):
        arguments = (
            array("float32"), array(element), array("uint64"), array("float32"), array("int8"),
            np.int32(1), np.int64(2), np.float32(3), FakeCondition(),
        )  # fmt: skip
        check_arguments("scale", signatures(SOURCE)["scale"], arguments)


@pytest.mark.parametrize(
    ("kind", "argument", "message"),
    [
        ("float*", array("float16"), "argument 0 is an array of float16, but .* of float32"),
        ("T*", array("int32"), "array of float16 or float32"),
        ("int*", np.int32(0), "takes a DeviceArray"),
        ("int*", 1024, "argument 0 is int 1024, but int. x takes a DeviceArray"),
        ("int", 3, "argument 0 is int 3, but int x takes np.int32"),
        ("int", np.int64(3), "takes np.int32"),
        ("long long", np.int32(3), "takes np.int64"),
        ("float", 0.5, "takes np.float32"),
        ("float", array("float32"), "takes np.float32"),
        ("cudaGraphConditionalHandle", np.int64(3), "takes a Condition"),
        ("cudaGraphConditionalHandle", array("int32"), "takes a Condition"),
        ("cudaGraphConditionalHandle", None, "takes a Condition"),
    ],
)
def test_other_arguments_are_named(kind: str, argument: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"kernel f: .*{message}"):
        check_arguments("f", (Parameter("x", kind),), (argument,))


def test_the_number_of_arguments_counts() -> None:
    parameters = (Parameter("x", "float*"), Parameter("n", "int"))
    with pytest.raises(TypeError, match=r"kernel f\(float\* x, int n\) got 1 arguments"):
        check_arguments("f", parameters, (array("float32"),))
