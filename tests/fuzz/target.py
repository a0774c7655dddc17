"""What a fuzz target is, and how bytes become structured input for one.

A target's `run` raises when the parser breaks its promise: an exception that its docstring does
not name, another answer to the same bytes in other pieces, an output that its own reader refuses.
Anything else that the bytes are is the parser's to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

MAX_BYTES = 4_096
# Where a longer input only repeats. A million inputs take as long as they are on average.
MEDIUM_BYTES = 2_560  # beyond the longest prompt
SHORT_BYTES = 1_024
MAX_PIECES = 16  # of one input: each costs as much as a short input
# What breaks length fields, numbers, strings and structure.
POISON = (
    b"\0", b"\xff\xff", b"-1", b"1e999", b"1e-999", b'"', b"{", b"[" * 64, b"9" * 24, b"9" * 400,
    b"\r\n", b"\x80", b"null", b"\\ud800",
)  # fmt: skip
_Choice = TypeVar("_Choice")

Part: TypeAlias = "int | bytes | str"


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under test. `seeds` are inputs that reach far into it."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    max_bytes: int = MAX_BYTES  # of one input


class Script:
    """Bytes read as decisions: a byte, a choice, a chunk with its length. Never ends early: past
    the end all bytes are 0 and all chunks empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        """Nothing is left."""
        return self._at >= len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        value = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return value

    def flag(self) -> bool:
        """One byte's lowest bit."""
        return bool(self.byte() & 1)

    def choice(self, options: Sequence[_Choice]) -> _Choice:
        """One of them."""
        return options[self.byte() % len(options)]

    def chunk(self) -> bytes:
        """Two bytes of length, then as many bytes, or what is left."""
        size = self.byte() | self.byte() << 8
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def text(self) -> str:
        """A chunk as text; every input is some."""
        return self.chunk().decode("utf-8", "replace")

    def header(self) -> str:
        """A chunk as the value of an HTTP header."""
        return self.chunk().decode("latin-1")

    def rest(self) -> bytes:
        """Everything that is left."""
        data, self._at = self._data[self._at :], len(self._data)
        return data


def script(*parts: Part) -> bytes:
    """What Script reads as these: an int is a byte, anything else a chunk."""
    out = bytearray()
    for part in parts:
        if isinstance(part, int):
            out.append(part)
            continue
        chunk = part.encode() if isinstance(part, str) else part
        out += len(chunk).to_bytes(2, "little") + chunk
    return bytes(out)


def pieces(data: bytes, size: int) -> list[bytes]:
    """`data` cut into pieces of that size, or larger ones where these would be too many."""
    size = max(size, -(-len(data) // MAX_PIECES))
    return [data[at : at + size] for at in range(0, len(data), size)]


def mutated(data: bytes, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """`data` after edits: (kind, place, bytes) overwrite, insert, delete or repeat."""
    out = bytearray(data)
    for kind, place, value in edits:
        at = place % (len(out) + 1)
        end = at + len(value)
        if kind == 0:
            out[at:end] = value
        elif kind == 1:
            out[at:at] = value
        elif kind == 2:
            del out[at:end]
        else:
            out[at:at] = out[at : at + 8 * len(value)]
    return bytes(out)
