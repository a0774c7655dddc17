"""Two workers and their parent in one thread: what of a session's life crosses between workers.

The parent is the test: it carries descriptors from one worker to the other, as supervisor.py does,
or lets them fall while a worker is not there.
"""

from __future__ import annotations

import os
from typing import Any

from gateway.child_process import control_pair
from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import Handoff

from .rig import Rig


class TwoWorkers:
    """See the module text; `rigs[index]` is the worker of this index."""

    def __init__(self, **changes: Any) -> None:
        self.rigs: list[Rig] = []
        self.controls = []
        self.is_there = [True, True]
        self.carries = True  # False: the parent is busy
        self.num_handoffs = 0
        for index in range(2):
            rig = Rig(index=index, num_workers=2, resume_window_ms=30_000, **changes)
            ours, theirs = control_pair()
            rig.worker.attach_parent(theirs)
            rig.sockets.append(ours)
            self.rigs.append(rig)
            self.controls.append(ours)
        # A client of one rig is served while the other one turns, too.
        for rig in self.rigs:
            rig.settle = self.settle  # type: ignore[method-assign]

    def settle(self) -> None:
        """Turn both, and the parent, until nothing moves."""
        idle_turns = 0
        while idle_turns < 2:
            moved = sum(Rig.turn(rig) for rig in self.rigs)
            moved += sum(self._carry(index) for index in range(2))
            idle_turns = 0 if moved > 0 else idle_turns + 1

    def _carry(self, index: int) -> int:
        if not self.carries:
            return 0
        try:
            received = receive_message(self.controls[index])
        except BlockingIOError:
            return 0
        assert received is not None
        message, fds = received
        if isinstance(message, Handoff):
            self.num_handoffs += 1
            if self.is_there[message.worker]:
                send_message(self.controls[message.worker], message, tuple(fds))
        for fd in fds:
            os.close(fd)
        return 1

    def advance_ms(self, ms: float) -> None:
        """Time passes for both."""
        for rig in self.rigs:
            rig.clock.advance_ms(ms)
        self.settle()

    def close(self) -> None:
        """Give the descriptors back."""
        for rig in self.rigs:
            rig.close()
