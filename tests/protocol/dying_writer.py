"""Memory whose writer is killed at a store: before it, or in the middle of one of many bytes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any


class Killed(Exception):
    """It did not come further."""


@dataclass
class Killer:
    """Lets so many stores through; the next one is done in part, if it has parts."""

    stores_left: int
    rng: random.Random

    def store(self, target: Any, key: Any, value: Any) -> None:
        if self.stores_left:
            self.stores_left -= 1
            target[key] = value
            return
        if isinstance(key, slice):
            torn = self.rng.randrange(len(value))
            target[key.start : key.start + torn] = value[:torn]
        raise Killed


class WatchedView:
    """A memoryview whose stores can be the last ones; so are those of its casts."""

    def __init__(self, view: memoryview, killer: Killer) -> None:
        self._view, self._killer = view, killer

    def cast(self, code: str) -> WatchedView:
        return WatchedView(self._view.cast(code), self._killer)

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: Any) -> Any:
        """Values and copies: nobody stores into a part of a part."""
        return self._view[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._killer.store(self._view, key, value)
