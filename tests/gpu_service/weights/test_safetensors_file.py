"""The reader of .safetensors: what the library writes, then everything that can be wrong."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights.safetensors_file import MAX_HEADER_BYTES, read_safetensors

ARRAYS = {
    "wide": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0], np.float16),
    "counter": np.array(7, np.int64),
}
FILE = save(ARRAYS, {"format": "pt"})


def file_of(header: Any, data: bytes) -> bytes:
    """A file with a header of one's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    return path


def test_every_tensor_is_found(tmp_path: Path) -> None:
    tensors = read_safetensors(write(tmp_path, FILE))
    assert set(tensors) == set(ARRAYS)
    assert np.array_equal(tensors["wide"].to_float32(), ARRAYS["wide"])
    assert np.array_equal(tensors["half"].to_float32(), ARRAYS["half"])
    assert (tensors["counter"].dtype, tensors["counter"].shape) == ("I64", ())


def test_bfloat16_needs_no_library(tmp_path: Path) -> None:
    bits = np.array([0x3FC0, 0xC000], np.uint16).tobytes()
    path = write(tmp_path, file_of({"b": entry(0, 4, [2], "BF16")}, bits))
    assert read_safetensors(path)["b"].to_float32().tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "data",
    [
        FILE[:4],
        FILE[:8],
        FILE[:40],  # inside of the header
        FILE[:-1],  # inside of the data
        FILE + b"x",
        struct.pack("<Q", 0) + FILE[8:],
        struct.pack("<Q", 1 << 63) + FILE[8:],
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + FILE[8:],
        struct.pack("<Q", len(FILE)) + FILE[8:],
        file_of(b"not JSON", b""),
        file_of(b"[]", b""),
        file_of(b"[" * 100_000, b""),
        file_of({"a": 1}, b""),
        file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        file_of({"a": entry(0, 4, [1], "F99")}, bytes(4)),
        file_of({"a": entry(0, 8, [1])}, bytes(8)),
        file_of({"a": entry(4, 8, [1])}, bytes(8)),  # a hole
        file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),  # an overlap
        file_of({"a": entry(0, 400, [100])}, bytes(4)),
        file_of({"a": entry(4, 0, [1])}, bytes(4)),
        file_of({"a": entry(-4, 0, [1])}, bytes(4)),
        file_of({"a": entry(0, 4, [-1])}, bytes(4)),
        file_of({"a": entry(0, 4, [1 << 62, 1 << 62])}, bytes(4)),
        file_of({"a": entry(0, 4, [1] * 20)}, bytes(4)),
        file_of({"a": entry(0, 1, [1], "F8_E4M3")}, bytes(1)),  # whole, and none that we widen
    ],
)
def test_a_damaged_or_hostile_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        read_safetensors(write(tmp_path, data))


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_safetensors(tmp_path / "model.safetensors")


@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
@settings(max_examples=300)
def test_any_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(FILE)
    data[position] = value
    path = write(tmp_path_factory.mktemp("bytes"), bytes(data))
    with contextlib.suppress(ModelFileError), np.errstate(all="ignore"):
        for tensor in read_safetensors(path).values():
            tensor.to_float32()
