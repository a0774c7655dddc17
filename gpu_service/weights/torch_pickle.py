"""Reads the pickle inside of a torch checkpoint without running any of it.

A pickle is a program for a machine with a stack. The machine here knows the opcodes that torch
writes, builds nothing but dictionaries, tuples, lists, numbers and strings, and lets a pickle name
exactly what a state dict needs: OrderedDict, the function that puts a tensor together, and storage
types, none of which are Python's or torch's own. Everything else, os.system first of all, is
refused when it is named. Opcodes are checked in a first pass, so that nothing is done for a pickle
that is refused for one of them. torch_checkpoint.py calls it.

Python's own unpickler is not used: it sets attributes of any object (BUILD), also of tensors that
were checked, and hashes any key, which takes for ever for tuples of tuples of tuples.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from .stored_tensor import BFLOAT16, FLOAT16, FLOAT32, StoredTensor

MAX_PICKLE_BYTES = 16 << 20  # Parakeet's has 120 KB
MAX_STEPS = 1 << 20  # and 50,000 opcodes
STORAGE_TYPES: Mapping[str, str] = {
    "FloatStorage": FLOAT32, "HalfStorage": FLOAT16, "BFloat16Storage": BFLOAT16,
    "DoubleStorage": "F64", "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16",
    "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip


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


class _Function(Enum):
    """What a pickle may call."""

    ORDERED_DICT = ("collections", "OrderedDict")
    REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")


_FUNCTIONS = {function.value: function for function in _Function}


def read_state_dict(data: bytes, make: TensorMaker) -> dict[str, StoredTensor]:
    """The tensors of a pickled state dict by name. Raises PickleRefusedError, ValueError."""
    if len(data) > MAX_PICKLE_BYTES:
        raise PickleRefusedError(f"a pickle of {len(data)} bytes")
    _check_opcodes(data)
    root = _Machine(make).run(data)
    if not isinstance(root, dict):
        raise PickleRefusedError("not a state dict")
    return {
        name: tensor
        for name, tensor in root.items()
        if isinstance(name, str) and isinstance(tensor, StoredTensor)
    }


def _check_opcodes(data: bytes) -> None:
    for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _STEPS:
            raise PickleRefusedError(f"the pickle uses {opcode.name}; nothing of it was run")
        if count >= MAX_STEPS:
            raise PickleRefusedError(f"more than {MAX_STEPS} opcodes")


class _Machine:
    """The stack of one pickle; a method for each opcode, `argument` is what stands behind it."""

    def __init__(self, make: TensorMaker) -> None:
        self._make = make
        self._stack: list[Any] = []
        self._marks: list[int] = []  # how high the stack was
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """What is on top in the end. The opcodes have been checked."""
        for opcode, argument, _ in pickletools.genops(data):
            _STEPS[opcode.name](self, argument)
        return self._pop()  # genops has raised ValueError, unless the last one was STOP

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleRefusedError("not a state dict: its stack is empty")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleRefusedError("not a state dict: its stack has no mark")
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    def _top(self, kind: type[Any]) -> Any:
        """The uppermost value, which has to be of this kind."""
        top = self._pop()
        if not isinstance(top, kind):
            raise PickleRefusedError(f"not a state dict: a {kind.__name__} was due")
        self._stack.append(top)
        return top

    def skip(self, argument: Any) -> None:
        """Of no meaning here."""

    def mark(self, argument: Any) -> None:
        """What follows belongs together."""
        self._marks.append(len(self._stack))

    def push(self, argument: Any) -> None:
        """A number or text."""
        self._stack.append(argument)

    def make_tuple(self, argument: Any) -> None:
        """Of everything from the mark on."""
        self._stack.append(tuple(self._pop_to_mark()))

    def append(self, argument: Any) -> None:
        """One item."""
        item = self._pop()
        self._top(list).append(item)

    def append_all(self, argument: Any) -> None:
        """Everything from the mark on."""
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def set_item(self, argument: Any) -> None:
        """One key and its value."""
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def set_items(self, argument: Any) -> None:
        """Keys and values from the mark on."""
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2 or any(not isinstance(key, str | int) for key in items[::2]):
            raise PickleRefusedError("not a state dict: its keys are no names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def put(self, argument: int) -> None:
        """Remember the uppermost value by a number."""
        self._memo[argument] = self._top(object)

    def put_next(self, argument: Any) -> None:
        """The same by the next number."""
        self._memo[len(self._memo)] = self._top(object)

    def get(self, argument: int) -> None:
        """What was remembered."""
        if argument not in self._memo:
            raise PickleRefusedError("not a state dict: it remembers nothing by that number")
        self._stack.append(self._memo[argument])

    def name(self, argument: str) -> None:
        """The only way from a pickle to code."""
        self._stack.append(_named(*argument.split(" ", 1)))

    def name_from_stack(self, argument: Any) -> None:
        """The same, of two strings."""
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleRefusedError("not a state dict: a name was due")
        self._stack.append(_named(module, name))

    def call(self, argument: Any) -> None:
        """Call one of two functions."""
        arguments, function = self._pop(), self._pop()
        if function is _Function.ORDERED_DICT and arguments == ():
            self._stack.append({})
        elif function is _Function.REBUILD_TENSOR and isinstance(arguments, tuple):
            self._stack.append(self._tensor(*arguments[:4]))
        else:
            raise PickleRefusedError("not a state dict: it calls what is no function")

    def _tensor(
        self, storage: Any = None, offset: Any = 0, shape: Any = None, strides: Any = None
    ) -> StoredTensor:
        """torch's arguments behind these say nothing about the elements."""
        is_known = (
            isinstance(storage, _Storage)
            and isinstance(shape, tuple)
            and isinstance(strides, tuple)
        )
        if not is_known or any(type(number) is not int for number in (offset, *shape, *strides)):
            raise PickleRefusedError("a tensor that is put together from other things")
        return self._make(storage.key, storage.dtype, offset, shape, strides)

    def build(self, argument: Any) -> None:
        """Attributes of a dictionary, torch's `_metadata`: not needed."""
        self._pop()
        self._top(dict)

    def load_persistent(self, argument: Any) -> None:
        """A storage: ("storage", type, key, device, number of elements)."""
        match self._pop():
            case ("storage", _StorageType(dtype=dtype), str(key), str(_), int(_)):
                self._stack.append(_Storage(key, dtype))
            case _:
                raise PickleRefusedError("a reference to something that is no storage")


def _named(module: str, name: str = "") -> _Function | _StorageType:
    function = _FUNCTIONS.get((module, name))
    if function is not None:
        return function
    if module == "torch" and name in STORAGE_TYPES:
        return _StorageType(STORAGE_TYPES[name])
    raise PickleRefusedError(f"the pickle asks for {module}.{name}; nothing of it was run")


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, argument: machine.push(make())


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, argument: Any) -> None:
        items = [machine._pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return step


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    "MARK": _Machine.mark,
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _Machine.push),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_all,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.put_next,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
}
