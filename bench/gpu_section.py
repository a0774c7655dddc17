"""What the benches of a GPU share: what a section gives back (numbers for the JSON line, tables for
people), and the options of a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .report import warn


@dataclass(frozen=True, slots=True)
class Table:
    """See report.table()."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Section:
    """One section's results."""

    fields: dict[str, Any]
    tables: list[Table] = field(default_factory=list)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How products are chosen, and where the results go."""
    add = parser.add_argument
    add("--tune", action="store_true", help="time cuBLASLt's proposals first, as a build does")
    add("--tactics", type=Path, metavar="FILE",
        help="cuBLASLt's algorithms, as a build keeps them; --tune adds to them")  # fmt: skip
    add("--commit", help="of this tree, where there is no git to ask")
    add("--out", help="keep the JSON line there; it is written after each section")
    add("--plot", help="a picture of it")


def short(value: Any) -> Any:
    """The same with floats of six digits: what is behind them was not measured."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: short(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [short(each) for each in value]
    return value


@dataclass(slots=True)
class Progress:
    """How far the run is, on stderr, and how long it may still go on."""

    budget_s: float
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun_s

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self.budget_s - self.elapsed_s

    def say(self, text: str) -> None:
        """A line with the time."""
        warn(f"[{self.elapsed_s:6.1f} s] {text}")
