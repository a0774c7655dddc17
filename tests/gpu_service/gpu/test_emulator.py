"""How the emulator runs kernels: threads, memory, arithmetic, and the mistakes that it reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from gpu_service.gpu.device import NO_DEFINES, DeviceError

from .emulator import EmulatedDevice, why_unavailable
from .emulator.probing import FLOAT, PROBES, launch

LANES = np.arange(32)
pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")


@pytest.fixture
def device() -> EmulatedDevice:
    """Here the emulator is what is tested: no run on a GPU."""
    return EmulatedDevice(sources=PROBES)


# -- threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("defines", [NO_DEFINES, {"EMULATOR_UCONTEXT": "1"}])
def test_shuffles_move_values_between_lanes(
    device: EmulatedDevice, defines: Mapping[str, str]
) -> None:
    to = device.empty((9, 32), np.int32)
    doubles, wide = device.empty(32, np.float64), device.empty(32, np.int64)
    launch(device, "shuffles", 1, 32, to, doubles, wide, defines=defines)
    expected = [
        np.full(32, 5),
        (LANES + 1) % 32,
        LANES // 8 * 8 + 3,
        LANES ^ 16,
        np.where(LANES < 2, LANES, LANES - 2),
        np.where(LANES % 4 < 1, LANES, LANES - 1),
        np.where(LANES > 27, LANES, LANES + 4),
        np.where(LANES % 16 == 15, LANES, LANES + 1),
        np.where(LANES < 8, LANES ^ 1, -1),  # the other lanes wrote nothing
    ]
    np.testing.assert_array_equal(device.download(to), np.stack(expected))
    np.testing.assert_array_equal(device.download(doubles), (LANES ^ 1) + 0.25)
    np.testing.assert_array_equal(device.download(wide), (1 << 40) + (LANES ^ 1))


def test_votes_and_reductions_reach_every_lane(device: EmulatedDevice) -> None:
    to = device.empty((8, 32), np.uint32)
    launch(device, "votes", 1, 32, to)
    ballot = sum(1 << lane for lane in range(0, 32, 3))
    expected = [ballot, 1, 0, 31 * 16, 31, 0xFFFF, 16, 1]
    np.testing.assert_array_equal(device.download(to), np.array([expected] * 32).T)


def test_threads_that_ended_are_not_waited_for(device: EmulatedDevice) -> None:
    to = device.zeros(48, np.int32)
    launch(device, "early_exit", 1, 48, to)
    np.testing.assert_array_equal(device.download(to), [0] + [31] * 31 + [16] * 16)


def test_reading_a_lane_that_ended_is_an_error(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match=r"reads_absent_lane.*reads lane 0"):
        launch(device, "reads_absent_lane", 1, 32, device.zeros(32, np.int32))


def test_a_barrier_that_not_all_reach_is_reported(device: EmulatedDevice) -> None:
    to = device.zeros(64, np.int32)
    with pytest.raises(DeviceError) as caught:
        launch(device, "deadlock", 1, 64, to)
    assert "kernel deadlock" in str(caught.value)
    assert "32 in __shfl_xor_sync (block 0, thread 0 first)" in str(caught.value)
    assert "32 in __syncthreads (block 0, thread 1 first)" in str(caught.value)
    launch(device, "early_exit", 1, 64, to)  # the next launch finds all in order
    assert device.download(to)[1] == 31


def test_a_loop_that_spins_for_ever_is_reported(device: EmulatedDevice) -> None:
    flag = device.zeros(1, np.int32)
    with pytest.raises(DeviceError, match=r"kernel spins.*makes progress"):
        launch(device, "spins", 1, 1, flag, flag)


def test_a_trap_names_its_thread(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match=r"kernel traps, block \(0, 0, 0\), thread 3: __trap"):
        launch(device, "traps", 2, 32, device.zeros(32, np.int32))


@pytest.mark.parametrize(("backwards", "seen"), [(False, 7), (True, -1)])
def test_a_lacking_barrier_shows_in_one_of_two_orders(backwards: bool, seen: int) -> None:
    device = EmulatedDevice(sources=PROBES, backwards=backwards)
    to = device.zeros((2, 64), np.int32)
    launch(device, "lacks_barrier", 2, 64, to, shared_bytes=4)
    np.testing.assert_array_equal(device.download(to)[:, 1:], np.full((2, 63), seen))


def test_what_has_its_barriers_is_the_same_in_both_orders() -> None:
    x = np.random.default_rng(6).standard_normal(500).astype(np.float32)
    results = []
    for backwards in (False, True):
        device = EmulatedDevice(sources=PROBES, backwards=backwards)
        to = device.empty(2, np.float32)
        arguments = (device.upload(x), to, np.int32(500))
        launch(device, "reductions", 1, 128, *arguments, shared_bytes=128)
        results.append(device.download(to))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], [x.sum(), x.max()], rtol=1e-5)


# -- memory ----------------------------------------------------------------------------------


def test_static_shared_memory_belongs_to_a_block(device: EmulatedDevice) -> None:
    numbers = np.arange(192, dtype=np.int32)
    to = device.empty(192, np.int32)
    launch(device, "reverse", 3, 64, device.upload(numbers), to)
    np.testing.assert_array_equal(device.download(to), numbers.reshape(3, 64)[:, ::-1].ravel())


def test_dynamic_shared_memory_is_poisoned_and_bounded(device: EmulatedDevice) -> None:
    to = device.empty(1, np.float32)
    launch(device, "shared_bounds", 1, 1, to, np.int32(25), np.int32(0), shared_bytes=100)
    assert np.isnan(device.download(to)[0])
    with pytest.raises(DeviceError, match=r"wrote behind its 100 bytes .* at byte 100"):
        launch(device, "shared_bounds", 1, 1, to, np.int32(25), np.int32(1), shared_bytes=100)


def test_copies_behind_the_back_are_as_late_as_they_may_be(device: EmulatedDevice) -> None:
    to = device.zeros(2, np.int32)
    source = device.upload(np.arange(16, dtype=np.float32))
    launch(device, "late_copies", 1, 1, source, to, shared_bytes=64)
    assert device.download(to).tolist() == [-1, 9]


def test_new_memory_is_poisoned_and_aligned(device: EmulatedDevice) -> None:
    for dtype in (np.float16, np.float32):
        array = device.empty((3, 5), dtype)
        assert array.address % 256 == 0
        assert np.isnan(device.download(array)).all()
    assert (device.download(device.empty(3, np.int32)) == -1).all()
    assert (device.download(device.zeros(3, np.int32)) == 0).all()
    assert device.download(device.zeros((0, 4), np.int32)).shape == (0, 4)


@pytest.mark.parametrize(("index", "side"), [(4, "behind"), (-1, "before")])
def test_writing_outside_of_an_array_is_reported(
    device: EmulatedDevice, index: int, side: str
) -> None:
    to = device.zeros(4, np.int32)
    with pytest.raises(DeviceError, match=f"kernel write_at wrote {side} an array"):
        launch(device, "write_at", 1, 1, to, np.int64(index), np.float32(7))


def test_misaligned_vectors_are_reported(device: EmulatedDevice) -> None:
    x = device.upload(np.arange(72).astype(np.float16))
    to = device.empty(64, np.float16)
    launch(device, "copy8", 1, 8, x, to, np.int32(8))
    np.testing.assert_array_equal(device.download(to), np.arange(8, 72))
    with pytest.raises(DeviceError, match="misaligned"):
        launch(device, "copy8", 1, 8, x, to, np.int32(4))


def test_atomics_on_integers(device: EmulatedDevice) -> None:
    total, most = device.zeros(1, np.int32), device.zeros(1, np.uint32)
    bits = device.zeros(1, np.uint64)
    launch(device, "atomics", 1, 64, total, most, bits)
    assert device.download(total)[0] == 63 * 32
    assert device.download(most)[0] == 63
    assert device.download(bits)[0] == 2**64 - 1


def test_registered_memory_is_used_where_it_is(device: EmulatedDevice) -> None:
    buffer = memoryview(bytearray(64))
    address = device.register(buffer)
    assert address == np.frombuffer(buffer, np.uint8).ctypes.data
    with pytest.raises(DeviceError, match="already"):
        device.register(buffer)
    device.unregister(buffer)
    with pytest.raises(DeviceError, match="not registered"):
        device.unregister(buffer)


# -- arithmetic ------------------------------------------------------------------------------


def test_storage_rounds_to_the_nearest_half_and_saturates(device: EmulatedDevice) -> None:
    rng = np.random.default_rng(1)
    numbers = np.concatenate([
        rng.standard_normal(1000) * 10.0 ** rng.integers(-9, 4, 1000),
        [1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 1.5 * 2**-25, 65519, 1e9, -1e9, np.inf, np.nan],
    ]).astype(np.float32)  # fmt: skip
    to = device.empty(numbers.size, np.float16)
    arguments = (device.upload(numbers), to, np.int32(numbers.size))
    launch(device, "round_to_storage", 9, 128, *arguments)
    expected = np.clip(numbers, -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(device.download(to), expected)


def test_storage_is_float_on_request(device: EmulatedDevice) -> None:
    x = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    to = device.empty(64, np.float32)
    launch(device, "copy8", 1, 8, device.upload(x), to, np.int32(0), defines=FLOAT)
    np.testing.assert_array_equal(device.download(to), x)


@pytest.mark.parametrize("block", [32, 96, 1024])
def test_block_reductions(device: EmulatedDevice, block: int) -> None:
    x = np.random.default_rng(3).integers(-100, 100, 777).astype(np.float32)  # exact sums
    to = device.empty(2, np.float32)
    launch(device, "reductions", 1, block, device.upload(x), to, np.int32(777), shared_bytes=128)
    np.testing.assert_array_equal(device.download(to), [x.sum(), x.max()])


def test_mma_is_a_product_of_matrices(device: EmulatedDevice) -> None:
    rng = np.random.default_rng(4)
    a = rng.standard_normal((16, 16)).astype(np.float16)
    b = rng.standard_normal((16, 8)).astype(np.float16)
    d = rng.standard_normal((16, 8)).astype(np.float32)
    result = device.upload(d)
    launch(device, "mma", 1, 32, device.upload(a), device.upload(b), result)
    expected = d + a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(device.download(result), expected, rtol=0, atol=1e-5)
