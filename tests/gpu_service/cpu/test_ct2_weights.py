"""The reader of model.bin: a small file of our own, then everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.cpu.ct2_weights import Ct2Weights
from gpu_service.errors import ModelFileError


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(name: str, dtype: int, array: np.ndarray) -> bytes:
    dims = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return string(name) + dims + struct.pack("<BI", dtype, array.nbytes) + array.tobytes()


WEIGHT = np.array([[2, -4], [6, 8]], np.int8)
VARIABLES = [
    variable("a/weight", 1, WEIGHT),
    variable("a/weight_scale", 0, np.array([2.0, 4.0], np.float32)),
    variable("a/half", 4, np.array([1.5, -2.0], np.float16)),
    variable("a/brain", 5, np.array([0x3FC0], np.uint16)),
    variable("b/heads", 2, np.array(6, np.int16)),
]
HEADER = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<I", 3)
FILE = HEADER + struct.pack("<I", len(VARIABLES)) + b"".join(VARIABLES) + struct.pack("<I", 0)


def weights(tmp_path: Path, data: bytes, prefix: str = "") -> Ct2Weights:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    return Ct2Weights(path, prefix)


def test_every_type_becomes_float32(tmp_path: Path) -> None:
    read = weights(tmp_path, FILE)
    assert read.spec_name == "WhisperSpec"
    assert read.array("a/weight").tolist() == [[1.0, -2.0], [1.5, 2.0]]
    assert read.array("a/half").tolist() == [1.5, -2.0]
    assert read.array("a/brain").tolist() == [1.5]
    assert read.scalar("b/heads") == 6
    assert read.shape("a/weight") == (2, 2)


def test_a_prefix_leaves_the_others_out(tmp_path: Path) -> None:
    read = weights(tmp_path, FILE, "b/")
    assert read.names == ("b/heads",)
    with pytest.raises(ModelFileError, match="no a/half"):
        read.array("a/half")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "can not be read"),
        (struct.pack("<I", 5) + FILE[4:], "version 6"),
        (HEADER + struct.pack("<I", 1 << 30), "variables"),
        (HEADER + struct.pack("<IH", 1, 60_000), "name of"),
        (HEADER + struct.pack("<I", 1) + struct.pack("<H", 2) + b"\xff\0", "ASCII"),
        (HEADER + struct.pack("<I", 1) + string("x") + b"\xff", "dimensions"),
        (HEADER + struct.pack("<I", 1) + string("x") + struct.pack("<BBI", 0, 9, 4), "type"),
        (HEADER + struct.pack("<I", 1) + string("x") + struct.pack("<BBI", 0, 0, 9), "bytes for"),
        (FILE[:-20], "ends too early"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        weights(tmp_path, data)


@given(st.integers(0, len(FILE) - 1), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_any_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    data = bytearray(FILE)
    data[position] = value
    with contextlib.suppress(ModelFileError), np.errstate(all="ignore"):
        read = weights(tmp_path_factory.mktemp("bin"), bytes(data))
        for name in read.names:
            read.array(name)
