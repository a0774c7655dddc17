"""How a measurement is told: a table for people, then one JSON line, the last one on stdout.

Machine, commit and configuration travel with the numbers, because a latency without them says
nothing. A commit with `+` has uncommitted changes. The JSON is also written to --out.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .percentiles import Summary

_ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, object]:
    """What ran this: processor, cores this process may use, memory, kernel, Python."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def commit() -> str:
    """The short commit id, with `+` when the tree differs from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(_ROOT), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # no git on this machine
            return ""
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!bench/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; the first column is a name, the others are numbers."""
    view = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        view.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        view.add_row(*(_cell(value) for value in row))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(view)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def summary_row(name: str, summary: Summary | None) -> list[object]:
    """Name, count and percentiles of one quantity, for a table."""
    if summary is None:
        return [name, 0, None, None, None, None]
    return [name, summary.count, summary.p50, summary.p95, summary.p99, summary.max]


SUMMARY_COLUMNS = ("ms", "values", "p50", "p95", "p99", "max")


def warn(text: str) -> None:
    """Something that makes the numbers doubtful; loud, on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def finish(
    name: str, config: Mapping[str, object], results: Mapping[str, object], out: str | None
) -> None:
    """Print the JSON line, and write it to `out` if that is given. Call it last."""
    line = {
        "bench": name,
        "machine": machine(),
        "commit": commit(),
        "config": dict(config),
        **results,
    }
    if out:
        Path(out).write_text(json.dumps(line, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(line, ensure_ascii=False), flush=True)
