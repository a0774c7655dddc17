"""What a server holds at one moment: memory, descriptors and threads by role, and shared memory.

Read from /proc and /dev/shm of this machine. soak.py draws lines through it, faults.py compares
before and after.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .process_cost import read_memory, read_tree, role

SHM = Path("/dev/shm")
_PROC = Path("/proc")
ROLES = {"gateway": "parent", "gateway.worker": "worker", "gpu_service": "service"}


@dataclass(frozen=True, slots=True)
class Held:
    """By role; several processes of one role are added up."""

    private_bytes: dict[str, int]  # its own: what a leak makes grow
    shared_bytes: dict[str, int]  # pages of the arenas that it has touched
    fds: dict[str, int]
    threads: dict[str, int]
    pids: dict[str, tuple[int, ...]]


def held_by(root: int) -> Held:
    """The tree under `root`. Raises ProcessLookupError when it is gone."""
    private: dict[str, int] = {}
    shared: dict[str, int] = {}
    fds: dict[str, int] = {}
    threads: dict[str, int] = {}
    pids: dict[str, tuple[int, ...]] = {}
    for cost in read_tree(root):
        name = ROLES.get(role(cost.pid), role(cost.pid))
        private[name] = private.get(name, 0) + read_memory(cost.pid, "RssAnon")
        shared[name] = shared.get(name, 0) + read_memory(cost.pid, "RssShmem")
        fds[name] = fds.get(name, 0) + _count(_PROC / str(cost.pid) / "fd")
        threads[name] = threads.get(name, 0) + _count(_PROC / str(cost.pid) / "task")
        pids[name] = (*pids.get(name, ()), cost.pid)
    return Held(private, shared, fds, threads, pids)


def names_in_shm() -> list[str]:
    """Of ours; none may be there while a server runs."""
    return sorted(path.name for path in SHM.glob("*earwire*"))


def living(pids: list[int]) -> list[int]:
    """Those that have not ended; zombies have."""
    return [pid for pid in pids if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:  # it has just ended
        return 0
