"""Writes checkpoints as torch.save does, opcode by opcode, so that tests need no torch.

torch_saved.ckpt beside this file is torch's own work; test_torch_checkpoint.py reads both.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "uint16": "BFloat16Storage",  # numpy has no bfloat16: tests write its bits
    "int64": "LongStorage",
}
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
SYSTEM = b"cos\nsystem\n"


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """BININT."""
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    """A tuple."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, kind: str, num_elements: int) -> bytes:
    """A persistent id."""
    kind_global = f"ctorch\n{kind}\n".encode()
    return (
        b"("
        + text("storage")
        + kind_global
        + text(key)
        + text("cpu")
        + number(num_elements)
        + b"tQ"
    )


def tensor(
    key: str,
    kind: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
    num_elements: int = 1,
) -> bytes:
    """A call of _rebuild_tensor_v2."""
    arguments = storage(key, kind, num_elements) + number(offset) + numbers(shape)
    return REBUILD + b"(" + arguments + numbers(strides) + b"\x89" + ORDERED_DICT + b"tR"


def state_dict(items: Mapping[str, bytes]) -> bytes:
    """A whole pickle of {name: pickled value}."""
    pairs = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + pairs + b"u" + b"}b" + b"."


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def members_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, bytes]:
    """data.pkl and the storages of a state dict, without a prefix."""
    items, members = {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kind = STORAGES[array.dtype.name]
        items[name] = tensor(str(index), kind, array.shape, strides, num_elements=array.size)
        members[f"data/{index}"] = array.tobytes()
    return {"data.pkl": state_dict(items), "byteorder": b"little", "version": b"3\n", **members}


def checkpoint(
    arrays: Mapping[str, np.ndarray[Any, Any]], method: int = zipfile.ZIP_STORED
) -> bytes:
    """A whole file."""
    return zip_of({f"archive/{name}": data for name, data in members_of(arrays).items()}, method)
