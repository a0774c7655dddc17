"""Many streams at real time, one server: who is due when, and how many streams hold.

N streams have a hop of audio due every hop_s, their phases evenly apart. The server takes whoever
is due, in order, each stream once, and nobody waits for more to come: so batches are as large as
the load makes them. As in the service, a step begins as soon as the device has done the one before
it, whose answers the host makes meanwhile. A latency counts from when a hop is due until its answer
is there. A stream with its next hop due before the last one was taken is a backlog, and ends a run.

Time comes from a clock: the wall's, or one that skips what nobody would do anything in. Both count
what steps really take. Pure but for those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .percentiles import Summary, summarize

LIMIT_MS = 100.0  # p95 of what still holds
ROUNDING = 1e-6  # of a gap: who was waited for is due
SETTLING_SHARE = 0.2  # of a run's hops, the first ones, that no percentile counts


class Server(Protocol):
    """What serves. Steps follow one another: begin, wait, and finish behind the next begin."""

    def begin(self, due: Sequence[int]) -> int:
        """Begin a step with the first of these streams, and say how many they are."""
        ...

    def wait(self) -> None:
        """Return when the device has done the step."""
        ...

    def finish(self) -> None:
        """Make the answers of the oldest step that has none."""
        ...


class Clock(Protocol):
    """Seconds, from anywhere."""

    def now_s(self) -> float: ...

    def wait_until(self, then_s: float) -> None: ...


class WallClock:
    """Waits as long as it takes."""

    def now_s(self) -> float:
        """Now."""
        return time.perf_counter()

    def wait_until(self, then_s: float) -> None:
        """Sleep."""
        time.sleep(max(0.0, then_s - time.perf_counter()))


@dataclass(slots=True)
class SkippingClock:
    """Waits for nothing: what would be slept is skipped."""

    read_s: Callable[[], float] = time.perf_counter
    _skipped_s: float = 0.0

    def now_s(self) -> float:
        """Now, and what was skipped."""
        return self.read_s() + self._skipped_s

    def wait_until(self, then_s: float) -> None:
        """Skip."""
        self._skipped_s += max(0.0, then_s - self.now_s())


@dataclass(frozen=True, slots=True)
class Served:
    """How a number of streams fared."""

    streams: int
    latency_ms: Summary | None  # None: it ended before anything counted
    steps: int
    hops: int
    busy_share: float  # of the time, from the beginning of steps until the device had done them
    has_backlog: bool

    @property
    def holds(self) -> bool:
        """Whether so many can be served."""
        return (
            not self.has_backlog and self.latency_ms is not None and self.latency_ms.p95 < LIMIT_MS
        )

    @property
    def mean_batch(self) -> float:
        """Streams of a step."""
        return self.hops / max(1, self.steps)

    def as_fields(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "streams": self.streams,
            "holds": self.holds,
            "latency_ms": self.latency_ms and self.latency_ms.as_fields(),
            "hops": self.hops,
            "steps": self.steps,
            "mean_batch": round(self.mean_batch, 2),
            "busy_share": round(self.busy_share, 4),
            "has_backlog": self.has_backlog,
        }


def serve(server: Server, streams: int, hop_s: float, duration_s: float, clock: Clock) -> Served:
    """Serve so many streams for so long."""
    run = _Run(server, streams, hop_s / streams, clock, clock.now_s())
    total = max(streams, round(duration_s / run.gap_s))
    has_backlog = False
    while run.taken < total and not has_backlog:
        num_due = min(total, run.num_due()) - run.taken
        has_backlog = num_due > streams
        run.turn(num_due)
    run.turn(0)
    elapsed_s = max(clock.now_s() - run.begun_s, 1e-9)
    settled = run.latencies_ms[round(SETTLING_SHARE * total) :]
    busy_share = min(1.0, run.busy_s / elapsed_s)
    return Served(streams, summarize(settled), run.steps, run.taken, busy_share, has_backlog)


@dataclass(slots=True)
class _Run:
    """Hops are numbered: hop g is one of stream g % streams, and due at g * gap_s."""

    server: Server
    streams: int
    gap_s: float
    clock: Clock
    begun_s: float
    taken: int = 0  # hops that are in a step
    answered: int = 0  # hops
    steps: int = 0
    busy_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def num_due(self) -> int:
        """Hops that are due by now, since the start."""
        return int((self.clock.now_s() - self.begun_s) / self.gap_s + ROUNDING) + 1

    def turn(self, num_due: int) -> None:
        """Begin a step if anybody is due, answer the step before it, wait for what was begun."""
        before = self.taken
        # Streams that are not answered are in no other step.
        count = min(num_due, self.streams - (self.taken - self.answered))
        start_s = self.clock.now_s()
        if count > 0:
            due = [(self.taken + i) % self.streams for i in range(count)]
            self.taken += self.server.begin(due)
            self.steps += 1
        if self.answered < before:
            self.server.finish()
            self._answer(before)
        if count > 0:
            self.server.wait()
            self.busy_s += self.clock.now_s() - start_s
        elif self.answered == self.taken:
            self.clock.wait_until(self.begun_s + self.taken * self.gap_s)

    def _answer(self, stop: int) -> None:
        now_s = self.clock.now_s() - self.begun_s
        self.latencies_ms += [(now_s - g * self.gap_s) * 1e3 for g in range(self.answered, stop)]
        self.answered = stop


@dataclass(slots=True)
class Search:
    """For the most streams that hold: doubling, then halving what is left, down to `step`."""

    measure: Callable[[int], Served]
    first: int
    most: int  # that there is room for
    step: int
    is_out_of_time: Callable[[], bool] = lambda: False
    levels: list[Served] = field(default_factory=list)
    is_complete: bool = False  # False: out of time, so there may be more

    def run(self) -> Served | None:
        """The best level that held; None where none did."""
        low, high = 0, self.most + self.step  # holds; does not, or is more than there may be
        guess = min(self.first, self.most)
        while high - low > self.step:
            if self.levels and self.is_out_of_time():
                return self._best()
            level = self.measure(guess)
            self.levels.append(level)
            low, high = (guess, high) if level.holds else (low, guess)
            if low == self.most:
                break
            guess = min(2 * low, self.most) if high > self.most else self._between(low, high)
        self.is_complete = True
        return self._best()

    def _between(self, low: int, high: int) -> int:
        middle = (low + high) // 2
        return max(1, middle // self.step * self.step if middle - low >= self.step else middle)

    def _best(self) -> Served | None:
        held = [level for level in self.levels if level.holds]
        return max(held, key=lambda level: level.streams, default=None)
