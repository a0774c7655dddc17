"""Tensors where they lie: widening, views, strides, and what does not lie there at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights.stored_tensor import contiguous_strides, map_file, stored_tensor


def raw(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(array.tobytes(), np.uint8)


def test_float32_is_a_view_of_the_file() -> None:
    data = raw(np.arange(6, dtype=np.float32))
    read = stored_tensor(data, 0, "F32", (2, 3)).to_float32()
    assert read.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.shares_memory(read, data)
    assert not read.flags.writeable


def test_other_floats_are_widened_exactly() -> None:
    half = np.array([1.5, -2.0, 65504, 6e-8], np.float16)
    assert np.array_equal(stored_tensor(raw(half), 0, "F16", (4,)).to_float32(), half)
    bits = np.array([0x3FC0, 0xC000, 0x7F80, 0x0001], np.uint16)
    widened = stored_tensor(raw(bits), 0, "BF16", (2, 2)).to_float32()
    assert widened.dtype == np.float32
    assert widened.reshape(-1)[:3].tolist() == [1.5, -2.0, float("inf")]
    assert widened.reshape(-1).view(np.uint32)[3] == 0x00010000


def test_data_off_the_grid_is_copied_onto_it() -> None:
    data = np.concatenate([np.zeros(1, np.uint8), raw(np.array([3.0, 4.0], np.float32))])
    read = stored_tensor(data, 1, "F32", (2,)).to_float32()
    assert read.tolist() == [3.0, 4.0]
    assert read.flags.aligned


def test_strides_are_followed_and_made_contiguous() -> None:
    data = raw(np.arange(6, dtype=np.float32))
    turned = stored_tensor(data, 0, "F32", (3, 2), (1, 3)).to_float32()
    assert turned.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert turned.flags.c_contiguous
    bits = raw(np.array([0x3F80, 0x4000, 0x4040, 0x4080], np.uint16))
    assert stored_tensor(bits, 0, "BF16", (2, 2), (1, 2)).to_float32().tolist() == [[1, 3], [2, 4]]


def test_a_scalar_and_nothing_are_tensors_too() -> None:
    data = raw(np.array([2.5], np.float32))
    assert stored_tensor(data, 0, "F32", ()).to_float32() == np.float32(2.5)
    assert stored_tensor(data, 4, "F32", (0, 7)).to_float32().shape == (0, 7)


def test_a_counter_is_no_float() -> None:
    counter = stored_tensor(raw(np.array([7], np.int64)), 0, "I64", ())
    assert counter.num_bytes == 8
    with pytest.raises(ModelFileError, match="I64"):
        counter.to_float32()


@pytest.mark.parametrize(
    ("offset", "dtype", "shape", "strides"),
    [
        (0, "F32", (7,), None),
        (4, "F32", (6,), None),
        (-4, "F32", (1,), None),
        (0, "F32", (-1,), None),
        (0, "F99", (1,), None),
        (0, "F32", (1,) * 9, None),
        (0, "F32", (2, 3), (4, 1)),
        (0, "F32", (2, 3), (3,)),
        (0, "F32", (2, 3), (-3, 1)),
        (0, "F32", (1 << 40,), (0,)),
        (0, "F32", (1 << 62, 1 << 62), None),
    ],
)
def test_what_does_not_lie_in_the_data_is_refused(
    offset: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match=r"beyond|impossible|unknown|larger"):
        stored_tensor(raw(np.zeros(6, np.float32)), offset, dtype, shape, strides)


@given(
    st.integers(-8, 40),
    st.lists(st.integers(-1, 5), max_size=3).map(tuple),
    st.lists(st.integers(-1, 7), max_size=3).map(tuple),
)
def test_whatever_is_accepted_can_be_read(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    try:
        tensor = stored_tensor(raw(np.zeros(6, np.float32)), offset, "F32", shape, strides)
    except ValueError:
        return
    assert tensor.to_float32().shape == shape


def test_contiguous_strides_are_numpys() -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    assert contiguous_strides(array.shape) == array.strides


def test_a_file_is_mapped_or_the_error_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ModelNotFoundError, match="not there"):
        map_file(path)
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match="empty"):
        map_file(path)
    path.write_bytes(b"ab")
    assert map_file(path).tolist() == [97, 98]
    with pytest.raises(ModelFileError, match="can not be read"):
        map_file(tmp_path)
