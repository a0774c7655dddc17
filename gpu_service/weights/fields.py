"""Fields: typed reading of a configuration that somebody else wrote (JSON or YAML).

Each getter returns a value of exactly the type and range that was asked for, or raises
ModelFileError naming the file and the field. Pure: it gets a parsed object and knows no file, and
no model: parakeet_config.py and nemo_config.py know which fields there are.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelFileError


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping of a configuration, and where it stands."""

    values: Mapping[str, Any]
    where: str  # the file, and the section with its dot: "config.json: encoder_config."

    def section(self, name: str) -> Fields:
        """The mapping under `name`."""
        value = self._value(name)
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "a mapping")
        separator = "" if self.where.endswith(".") else ": "
        return Fields(value, f"{self.where}{separator}{name}.")

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in low..high."""
        value = self._value(name)
        if type(value) is not int or not low <= value <= high:  # True is no 1
            raise self.wrong(name, value, f"an integer from {low} to {high}")
        return value

    def integers(self, name: str, low: int, high: int, max_count: int) -> tuple[int, ...]:
        """A list of 1..max_count integers, each in low..high."""
        value = self._value(name)
        if not isinstance(value, list) or not 1 <= len(value) <= max_count:
            raise self.wrong(name, value, f"a list of 1 to {max_count} integers")
        if any(type(item) is not int or not low <= item <= high for item in value):
            raise self.wrong(name, value, f"integers from {low} to {high}")
        return tuple(value)

    def strings(self, name: str, max_count: int) -> tuple[str, ...]:
        """A list of 1..max_count strings."""
        value = self._value(name)
        if not isinstance(value, list) or not 1 <= len(value) <= max_count:
            raise self.wrong(name, value, f"a list of 1 to {max_count} strings")
        if any(not isinstance(item, str) for item in value):
            raise self.wrong(name, value, "strings only")
        return tuple(value)

    def require(self, name: str, expected: object) -> None:
        """The one value that we can run."""
        value = self._value(name)
        if type(value) is not type(expected) or value != expected:
            raise self.wrong(name, value, repr(expected))

    def allow(self, name: str, *allowed: object) -> None:
        """As require(), of several values, and the field may be left out."""
        if name in self.values and self.values[name] not in allowed:
            raise self.wrong(name, self.values[name], " or ".join(map(repr, allowed)))

    def wrong(self, name: str, value: object, needed: str) -> ModelFileError:
        """The error for a field that is there and can not be used."""
        return ModelFileError(f"{self._place(name)} is {_shown(value)}; Earwire needs {needed}")

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise ModelFileError(f"{self._place(name)} is missing")
        return self.values[name]

    def _place(self, name: str) -> str:
        return f"{self.where}{name}" if self.where.endswith(".") else f"{self.where}: {name}"


def _shown(value: object) -> str:
    """A short text. Nested YAML aliases can stand for more of it than fits into memory."""
    shortened = reprlib.Repr()
    shortened.maxlevel = 2
    return shortened.repr(value)
