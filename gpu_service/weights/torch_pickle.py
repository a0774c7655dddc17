"""Reads the pickle inside of a torch checkpoint without running any of it.

A pickle is a program. This one may build dictionaries, tuples, lists, numbers and strings, and name
exactly what a state dict needs: OrderedDict, torch's function that puts a tensor together (ours
takes its place) and torch's storage types (which become plain names). Everything else, os.system
first of all, is refused when it is named, before anything is called. Opcodes are checked in a first
pass, so that none can ask for memory that the file does not have. torch_checkpoint.py calls it.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .stored_tensor import BFLOAT16, FLOAT16, FLOAT32, StoredTensor

MAX_PICKLE_BYTES = 16 << 20  # Parakeet's has 120 KB
MAX_MEMO_INDEX = 1 << 20
STORAGE_TYPES: Mapping[str, str] = {
    "FloatStorage": FLOAT32, "HalfStorage": FLOAT16, "BFloat16Storage": BFLOAT16,
    "DoubleStorage": "F64", "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16",
    "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET",
    "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID",
})  # fmt: skip


class PickleRefusedError(ValueError):
    """The pickle wants something that a state dict does not need."""


class TensorMaker(Protocol):
    """Puts a tensor together from a storage, in elements. Raises ValueError."""

    def __call__(
        self, key: str, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> StoredTensor: ...


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str  # the file data/KEY
    dtype: str


class _RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2. Slots: BUILD can put nothing on it."""

    __slots__ = ("_make",)

    def __init__(self, make: TensorMaker) -> None:
        self._make = make

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or any(type(number) is not int for number in numbers):
            raise PickleRefusedError("a tensor that is put together from other things")
        return self._make(storage.key, storage.dtype, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, make: TensorMaker) -> None:
        super().__init__(io.BytesIO(data))
        self._rebuild = _RebuildTensor(make)

    def find_class(self, module: str, name: str) -> Any:
        """The only way from a pickle to code."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild
        if module == "torch" and name in STORAGE_TYPES:
            return _StorageType(STORAGE_TYPES[name])
        raise PickleRefusedError(f"the pickle asks for {module}.{name}; nothing of it was run")

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: ("storage", type, key, device, number of elements)."""
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), str(_), int(_)):
                return _Storage(key, dtype)
        raise PickleRefusedError("a reference to something that is no storage")


def read_state_dict(data: bytes, make: TensorMaker) -> dict[str, StoredTensor]:
    """The tensors of a pickled state dict by name. Raises PickleRefusedError, ValueError."""
    if len(data) > MAX_PICKLE_BYTES:
        raise PickleRefusedError(f"a pickle of {len(data)} bytes")
    _check_opcodes(data)
    try:
        root = _Unpickler(data, make).load()
    except (
        *(pickle.UnpicklingError, EOFError, TypeError, AttributeError),
        *(IndexError, KeyError, RecursionError, OverflowError),
    ) as error:
        raise PickleRefusedError(f"not a state dict: {error}") from error
    if not isinstance(root, dict):
        raise PickleRefusedError("not a state dict")
    return {
        name: tensor
        for name, tensor in root.items()
        if isinstance(name, str) and isinstance(tensor, StoredTensor)
    }


def _check_opcodes(data: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in OPCODES:
            raise PickleRefusedError(f"the pickle uses {opcode.name}; nothing of it was run")
        if opcode.name == "LONG_BINPUT" and (argument or 0) > MAX_MEMO_INDEX:
            raise PickleRefusedError("a memo without end")
