"""What processes cost, read from /proc: CPU seconds and resident memory of a process tree.

CPU time comes in ticks of 10 ms: differences over less than some seconds mean little. Resident
memory counts pages that several processes map once for each of them; `peak_rss` is the kernel's
own high-water mark since the process began, so it includes its start.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cost:
    """One process at one moment."""

    pid: int
    parent_pid: int
    name: str
    cpu_s: float  # user and system


def parse_stat(text: str) -> Cost:
    """One line of /proc/PID/stat; the name is in parentheses and may hold any character."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    values = tail.split()
    ticks = int(values[11]) + int(values[12])
    return Cost(int(pid), int(values[1]), name, ticks / _TICKS_PER_SECOND)


def parse_status_bytes(text: str, key: str) -> int:
    """A kB line of /proc/PID/status, in bytes; 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def read_cost(pid: int) -> Cost | None:
    """None when the process is gone."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text())
    except OSError:
        return None


def read_memory(pid: int, key: str = "VmRSS") -> int:
    """Resident bytes now (VmRSS) or at most so far (VmHWM); 0 when the process is gone."""
    try:
        return parse_status_bytes((_PROC / str(pid) / "status").read_text(), key)
    except OSError:
        return 0


def descendants(root: int, costs: list[Cost]) -> list[Cost]:
    """`root` and everything below it, from a listing of all processes."""
    by_parent: dict[int, list[Cost]] = {}
    for cost in costs:
        by_parent.setdefault(cost.parent_pid, []).append(cost)
    found = [cost for cost in costs if cost.pid == root]
    for cost in found:  # grows while it is walked
        found += by_parent.get(cost.pid, [])
    return found


def read_tree(root: int) -> list[Cost]:
    """The process tree under `root`, itself first. Raises ProcessLookupError when it is gone."""
    listing = [read_cost(int(name)) for name in os.listdir(_PROC) if name.isdigit()]
    tree = descendants(root, [cost for cost in listing if cost is not None])
    if not tree:
        raise ProcessLookupError(f"no process {root}")
    return tree


def set_priority(nice: int) -> None:
    """Of this process and those it starts; of others by `copy_priority`. Where the kernel
    schedules whole sessions (autogroup) a nice value counts only within one, so the session
    gets it too."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):
        os.setsid()
    if nice:
        _set_session_priority(os.getpid(), nice)


def copy_priority(pid: int) -> None:
    """Give a child that has a session of its own what this process has."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    if nice:
        _set_session_priority(pid, nice)


def _set_session_priority(pid: int, nice: int) -> None:
    with contextlib.suppress(OSError):
        (_PROC / str(pid) / "autogroup").write_text(str(nice))


def role(pid: int) -> str:
    """What a server process is, from its command line: "gateway.worker", "gpu_service", ..."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return Path(words[0]).name if words[0] else "kernel"


@dataclass(frozen=True, slots=True)
class TreeMeter:
    """CPU seconds of a process tree since this was made. A child that ended is not counted."""

    root: int
    before: dict[int, float]

    @classmethod
    def start(cls, root: int) -> TreeMeter:
        """Begin to count."""
        return cls(root, {cost.pid: cost.cpu_s for cost in read_tree(root)})

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        spent: dict[str, float] = {}
        for cost in read_tree(self.root):
            name = role(cost.pid)
            used = cost.cpu_s - self.before.get(cost.pid, 0.0)
            spent[name] = spent.get(name, 0.0) + used
        return spent

    def peak_rss_bytes(self) -> dict[str, int]:
        """High-water marks, by role."""
        peak: dict[str, int] = {}
        for cost in read_tree(self.root):
            name = role(cost.pid)
            peak[name] = peak.get(name, 0) + read_memory(cost.pid, "VmHWM")
        return peak
