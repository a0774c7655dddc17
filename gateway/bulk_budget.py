"""How much of a worker's time goes to clients that send more than speech needs. Pure.

Uploads and floods of messages are welcome as far as they do not delay live audio: whatever a turn
of the event loop has put off runs in this budget, all of it together in at most SHARE of the time.
event_loop.py asks, with times on its clock.
"""

from __future__ import annotations

SHARE = 0.25  # still 50 MB of uploads a second
BURST_NS = 5_000_000  # of work in a row after a while without any
# Not all of it asks first, and a process may be stopped in the middle of some: nobody waits for
# longer than this takes to be paid, 0.2 s.
MAX_DEBT_NS = 50_000_000


class BulkBudget:
    """A bucket of nanoseconds that fills up with time; work may overdraw it."""

    __slots__ = ("_balance_ns", "_filled_ns")

    def __init__(self, now_ns: int) -> None:
        self._balance_ns = float(BURST_NS)
        self._filled_ns = now_ns

    def wait_ns(self, now_ns: int) -> int:
        """How long bulk work has to wait from now on; 0: it may go on."""
        gained_ns = (now_ns - self._filled_ns) * SHARE
        self._balance_ns = min(float(BURST_NS), self._balance_ns + gained_ns)
        self._filled_ns = now_ns
        return 0 if self._balance_ns > 0 else int(-self._balance_ns / SHARE) + 1

    def spend(self, work_ns: int) -> None:
        """So long did a piece of bulk work take."""
        self._balance_ns = max(float(-MAX_DEBT_NS), self._balance_ns - work_ns)
