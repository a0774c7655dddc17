"""What the emulated device records, and how it runs again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gpu_service.gpu.device import DeviceError

MAX_TURNS = 1_000_000  # of a while_loop, after which it is taken for endless

Work: TypeAlias = Callable[[], None]


@dataclass(eq=False, slots=True)
class EmulatedCondition:
    """An int that kernels set through its address."""

    value: ctypes.c_int = field(default_factory=ctypes.c_int)

    @property
    def address(self) -> int:
        """Where it lies."""
        return ctypes.addressof(self.value)

    def repeat(self, body: list[Work]) -> None:
        """Run a body as long as it is not 0. Raises DeviceError where that has no end."""
        turns = 0
        while self.value.value:
            run_all(body)
            turns += 1
            if turns > MAX_TURNS:
                raise DeviceError(f"a while_loop has not ended after {MAX_TURNS} turns")

    def choose(self, body: list[Work]) -> None:
        """Run a body if it is not 0."""
        if self.value.value:
            run_all(body)


@dataclass(slots=True)
class EmulatedGraph:
    """What was recorded. `enqueue` gives all of it to the device."""

    enqueue: Callable[[Work], None]
    work: list[Work] = field(default_factory=list)
    conditions: list[EmulatedCondition] = field(default_factory=list)

    def launch(self) -> None:
        """See Graph.launch."""
        self.enqueue(self._run)

    def _run(self) -> None:
        for condition in self.conditions:
            condition.value.value = 0
        run_all(self.work)


@dataclass(slots=True)
class EmulatedCapture:
    """See GraphCapture."""

    graph: Any = None


def run_all(body: list[Work]) -> None:
    """One after the other."""
    for work in body:
        work()
