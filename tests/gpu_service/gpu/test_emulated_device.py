"""The emulated device and its products: launches and graphs keep to the rules of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_service.gpu.device import DeviceError
from gpu_service.gpu.gemm import Product

from .emulator import EmulatedDevice, EmulatedGemms, why_unavailable
from .emulator.probing import FLOAT, PROBES, launch

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")


@pytest.fixture
def device() -> EmulatedDevice:
    """Here the emulator is what is tested: no run on a GPU."""
    return EmulatedDevice(sources=PROBES)


# -- launches --------------------------------------------------------------------------------


def test_the_grid_barrier_holds_for_rounds_and_launches(device: EmulatedDevice) -> None:
    num_blocks, num_rounds = 5, 4
    barrier = device.zeros(1, np.uint32)
    for _ in range(3):
        start = np.zeros((num_rounds + 1, num_blocks), np.int32)
        start[0] = np.arange(num_blocks)
        numbers = device.upload(start)
        arguments = (barrier, numbers, np.int32(num_rounds))
        launch(device, "rounds", num_blocks, 64, *arguments, cooperative=True, shared_bytes=4)
        for row in range(num_rounds):
            start[row + 1] = start[row].sum() + np.arange(num_blocks)
        np.testing.assert_array_equal(device.download(numbers), start)


def test_a_grid_barrier_without_a_cooperative_launch_never_opens(device: EmulatedDevice) -> None:
    barrier, numbers = device.zeros(1, np.uint32), device.zeros((3, 2), np.int32)
    with pytest.raises(DeviceError, match="spins for ever"):
        launch(device, "rounds", 2, 32, barrier, numbers, np.int32(2), shared_bytes=4)


@pytest.mark.parametrize(
    ("grid", "block", "options", "message"),
    [
        (0, 32, {}, "grid"),
        ((1, 70000, 1), 32, {}, "grid"),
        (1, 1025, {}, "threads a block"),
        (1, 32, {"shared_bytes": 227 * 1024 + 1}, "shared memory"),
        (9, 1024, {"cooperative": True}, "only 2 on each of 4 SMs"),
        (5, 32, {"cooperative": True, "shared_bytes": 120 * 1024}, "only 1 on each"),
    ],
)
def test_launches_that_a_gpu_refuses(
    device: EmulatedDevice, grid: Any, block: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        launch(device, "count", grid, block, device.zeros(1, np.int32), **options)


def test_arguments_that_do_not_fit_are_refused(device: EmulatedDevice) -> None:
    to = device.zeros(4, np.int32)
    with pytest.raises(TypeError, match=r"argument 1 is int32 np.int32\(2\), but long long index"):
        launch(device, "write_at", 1, 1, to, np.int32(2), np.float32(0))
    with pytest.raises(TypeError, match="got 2 arguments"):
        launch(device, "write_at", 1, 1, to, np.int64(2))
    wrong = device.zeros(4, np.float32)
    with pytest.raises(TypeError, match=r"an array of float32, but int\* to takes an array of int"):
        launch(device, "write_at", 1, 1, wrong, np.int64(2), np.float32(0))


def test_sources_that_do_not_compile_say_why(tmp_path: Path) -> None:
    (tmp_path / "bad.cu").write_text('extern "C" __global__ void bad(int n) { n = nothing; }')
    with pytest.raises(DeviceError, match=r"bad.cu:1:\d+: error: .nothing. was not declared"):
        EmulatedDevice(sources=tmp_path).kernel("bad.cu", "bad")


def test_unknown_kernels_are_named(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match=r"probes.cu has no kernel nothing"):
        device.kernel("probes.cu", "nothing")
    assert device.kernel("probes.cu", "only_with_half").name == "only_with_half"
    with pytest.raises(DeviceError, match=r"no kernel only_with_half with .*STORAGE_HALF"):
        device.kernel("probes.cu", "only_with_half", FLOAT)


# -- graphs ----------------------------------------------------------------------------------


def test_loops_and_branches_on_the_device(device: EmulatedDevice) -> None:
    turns, left = device.pinned(1, np.int32), device.empty(1, np.int32)
    on_device, even = device.empty(1, np.int32), device.zeros(1, np.int32)
    with device.capture() as capture:
        more, is_even = device.condition(), device.condition()
        device.copy(on_device, turns)
        launch(device, "begin", 1, 1, on_device, left, more)
        with device.while_loop(more):
            launch(device, "step", 1, 1, left, more, is_even)
            with device.if_then(is_even):
                launch(device, "count", 1, 1, even)
    assert device.download(even)[0] == 0  # nothing ran yet
    for number in (5, 0, 4):  # what the graph's start reads changes from launch to launch
        turns.array[0] = number
        capture.graph.launch()
    assert device.download(left)[0] == 0
    assert device.download(even)[0] == 3 + 0 + 2


def test_a_condition_is_false_again_at_each_launch(device: EmulatedDevice) -> None:
    counter = device.zeros(1, np.int32)
    with device.capture() as capture:
        more = device.condition()
        with device.if_then(more):
            launch(device, "count", 1, 1, counter)
        launch(device, "sync_only", 1, 1, more)
    capture.graph.launch()
    capture.graph.launch()
    assert device.download(counter)[0] == 0


def test_bodies_hold_no_pinned_copy(device: EmulatedDevice) -> None:
    array, pinned = device.zeros(1, np.int32), device.pinned(1, np.int32)
    with (
        device.capture(),
        device.if_then(device.condition()),
        pytest.raises(DeviceError, match="pinned"),
    ):
        device.copy(pinned, array)


def test_capture_refuses_to_wait_and_to_allocate(device: EmulatedDevice) -> None:
    array, event = device.zeros(1, np.int32), device.record()
    with device.capture():
        for refused in (
            lambda: device.empty(1, np.int32),
            lambda: device.pinned(1, np.int32),
            lambda: device.download(array),
            lambda: device.wait(event),
            device.record,
            device.synchronize,
            lambda: device.capture().__enter__(),
        ):
            with pytest.raises(DeviceError, match=r"inside capture\(\)"):
                refused()


def test_conditions_belong_to_their_graph(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match=r"outside of capture\(\)"):
        device.condition()
    with device.capture() as capture:
        more = device.condition()
        launch(device, "sync_only", 1, 1, more)
    with pytest.raises(DeviceError, match="outside of the graph"):
        launch(device, "sync_only", 1, 1, more)
    with device.capture():
        with pytest.raises(DeviceError, match="inside capture"):
            capture.graph.launch()
        with pytest.raises(DeviceError, match="outside of the graph"):
            launch(device, "sync_only", 1, 1, more)


def test_a_graph_keeps_no_memory_alive(device: EmulatedDevice) -> None:
    array = device.zeros(1, np.int32)
    with device.capture() as capture:
        launch(device, "count", 1, 1, array)
    capture.graph.launch()
    del array
    with pytest.raises(DeviceError, match="kernel count in a graph uses memory that was freed"):
        capture.graph.launch()


def test_deferred_work_runs_when_the_host_waits() -> None:
    device = EmulatedDevice(sources=PROBES, deferred=True)
    pinned, array = device.pinned(1, np.int32), device.zeros(1, np.int32)
    launch(device, "count", 1, 1, array)
    start = device.record()
    device.copy(pinned, array)
    end = device.record()
    launch(device, "count", 1, 1, array)
    with pytest.raises(DeviceError, match="not waited for"):
        device.elapsed_ms(start, end)
    device.wait(start)
    assert pinned.array[0] == 0
    device.wait(end)
    assert pinned.array[0] == 1
    assert device.elapsed_ms(start, end) >= 0
    assert device.download(array)[0] == 2


def test_copies_are_of_one_size(device: EmulatedDevice) -> None:
    with pytest.raises(ValueError, match="8 bytes into 4"):
        device.copy(device.zeros(1, np.int32), device.zeros(2, np.int32))


# -- products --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("w_is_kn", [False, True])
def test_products_with_strides_bias_and_sums(
    device: EmulatedDevice, dtype: str, w_is_kn: bool
) -> None:
    rng = np.random.default_rng(5)
    a = rng.standard_normal((3, 4, 16)).astype(dtype)  # of which 8 columns count
    w = rng.standard_normal((8, 5) if w_is_kn else (5, 8)).astype(dtype)
    c = rng.standard_normal((3, 4, 7)).astype(dtype)
    bias = rng.standard_normal(5).astype(dtype)
    product = Product(
        4, 5, 8, batch=3, lda=16, stride_a=64, ldc=7, stride_c=28, w_is_kn=w_is_kn,
        dtype=dtype, out_dtype=dtype, accumulate=True, bias=True, relu=True,
    )  # fmt: skip
    result = device.upload(c)
    arrays = (device.upload(a), device.upload(w), result, device.upload(bias))
    EmulatedGemms(device).plan(product).run(*arrays)
    expected = c.copy()
    matrix = (w if w_is_kn else w.T).astype(np.float64)
    expected[:, :, :5] = np.maximum(a[:, :, :8] @ matrix + c[:, :, :5] + bias, 0)
    tolerance = 1e-5 if dtype == "float32" else 5e-3
    np.testing.assert_allclose(device.download(result), expected, rtol=0, atol=tolerance)


def test_products_stay_inside_their_memory(device: EmulatedDevice) -> None:
    plan = EmulatedGemms(device).plan(Product(4, 4, 4, lda=8))
    a, w = device.zeros((4, 4), np.float16), device.zeros((4, 4), np.float16)
    with pytest.raises(DeviceError, match=r"A: .* leaves its memory"):
        plan.run(a, w, device.zeros((4, 4), np.float16))
    with pytest.raises(TypeError, match="an array of float32"):
        plan.run(a, w, device.zeros((4, 4), np.float32))
    with pytest.raises(TypeError, match="bias"):
        plan.run(a, w, w, w)
    with pytest.raises(ValueError, match="one place"):
        EmulatedGemms(device).plan(Product(4, 4, 4, batch=2))


def test_what_is_enqueued_aside_runs_when_it_is_followed() -> None:
    device = EmulatedDevice(deferred=True)
    source, other, target = (device.pinned(4, np.int32) for _ in range(3))
    source.array[:], other.array[:] = 1, 2
    with device.aside():
        device.copy(target, source)
        copied = device.record()
    device.copy(target, other)
    device.follow(copied)  # too late for the order of the two, but not for what comes behind
    end = device.record()
    device.wait(end)
    assert target.array.tolist() == [1] * 4
    device.synchronize()


def test_aside_may_follow_the_stream() -> None:
    device = EmulatedDevice(deferred=True)
    source, target = device.pinned(4, np.int32), device.pinned(4, np.int32)
    source.array[:] = 3
    device.copy(target, source)
    copied = device.record()
    with device.aside():
        device.follow(copied)
        device.fill_zero(target)
    device.synchronize()
    assert target.array.tolist() == [0] * 4


def test_nobody_can_follow_what_was_never_enqueued() -> None:
    device = EmulatedDevice(deferred=True)
    elsewhere = EmulatedDevice(deferred=True)
    device.follow(elsewhere.record())
    with pytest.raises(DeviceError, match="can not come"):
        device.synchronize()
