"""Other workers' streams on their way from a service that retires to others of its rank. Pure.

The old service reports fewer of them, or is gone; the new ones report them when they have opened
them, each at its own pace. Until then nobody's report has them: they are counted here, so that
their places go to no newcomer. Those that a new one has reported already count twice for as long.
A part of admission.py, which says what the services report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

# Of each service that a stream may have gone to, from when it was seen to have left. The first may
# have been on its way already.
NUM_REPORTS = 2

Awaited: TypeAlias = frozenset[tuple[int, int]]  # services, and how many reports of each


class Departures:
    """See the module text."""

    def __init__(self) -> None:
        # Streams, by their rank and what they wait for: few entries, also if one never reports.
        self._num_streams: Counter[tuple[int, Awaited]] = Counter()

    def left(self, rank: int, num_streams: int, services: Iterable[int]) -> None:
        """So many have left a service of this rank, and go to some of these."""
        awaited = frozenset((service, NUM_REPORTS) for service in services)
        if num_streams > 0 and awaited:
            self._num_streams[rank, awaited] += num_streams

    def reported(self, service: int) -> None:
        """There is another report of this service."""
        self._await_less(service, 1)

    def lost(self, service: int) -> None:
        """It reports no more."""
        self._await_less(service, NUM_REPORTS)

    def num_streams(self, rank: int) -> int:
        """Those that nobody may have reported yet."""
        return sum(num for (of_rank, _), num in self._num_streams.items() if of_rank == rank)

    def _await_less(self, service: int, num_reports: int) -> None:
        before, self._num_streams = self._num_streams, Counter()
        for (rank, awaited), num_streams in before.items():
            left = ((one, num - num_reports * (one == service)) for one, num in awaited)
            rest = frozenset((one, num) for one, num in left if num > 0)
            if rest:
                self._num_streams[rank, rest] += num_streams
