"""When a place will be free again, for those who are told to come back. Pure.

A worker's streams end at some pace: the next place is free after one interval between two ends, and
who is refused behind others waits for as many more, so that not all come back at once. What nobody
knows, because hardly any stream has ended yet, is a constant.
"""

from __future__ import annotations

from collections import deque

NUM_ENDS = 16  # of streams, that the interval is taken over
MAX_WAITING = 64  # refused clients that are counted
WAITING_NS = 5_000_000_000  # for so long one counts: then it has come again, or given up
UNKNOWN_MS = 2_000
MIN_MS, MAX_MS = 1_000, 30_000
_NS_PER_MS = 1_000_000


class ExpectedPlaces:
    """See the module text."""

    def __init__(self) -> None:
        self._ended_ns: deque[int] = deque(maxlen=NUM_ENDS)
        self._refused_ns: deque[int] = deque(maxlen=MAX_WAITING)

    def stream_ended(self, now_ns: int) -> None:
        """A place is free."""
        self._ended_ns.append(now_ns)
        if self._refused_ns:
            self._refused_ns.popleft()

    def refuse(self, now_ns: int) -> int:
        """One more client finds no place: after how many ms it may expect one."""
        while self._refused_ns and now_ns - self._refused_ns[0] > WAITING_NS:
            self._refused_ns.popleft()
        self._refused_ns.append(now_ns)
        if len(self._ended_ns) < 2:
            return UNKNOWN_MS
        interval_ns = (now_ns - self._ended_ns[0]) // len(self._ended_ns)
        expected_ms = interval_ns * len(self._refused_ns) // _NS_PER_MS
        return min(MAX_MS, max(MIN_MS, expected_ms))
