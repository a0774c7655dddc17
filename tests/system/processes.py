"""Processes as /proc shows them: children of a server, and what is left of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
SHM = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Process:
    """One living process."""

    pid: int
    parent: int
    state: str
    command: str


def processes() -> list[Process]:
    """Every process of this machine; zombies are not living."""
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has just ended
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state not in "ZX":
            found.append(Process(int(folder.name), int(parent), state, command.strip()))
    return found


def children_of(pid: int) -> list[Process]:
    """Its living children."""
    return [process for process in processes() if process.parent == pid]


def is_alive(pid: int) -> bool:
    """False for a zombie."""
    return any(process.pid == pid for process in processes())


def arenas_in_shm() -> list[str]:
    """Names of ours in /dev/shm: none may be there once a server runs."""
    return sorted(path.name for path in SHM.glob("*earwire*"))
