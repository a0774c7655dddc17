"""When a load generator sends what, and how late it was: pure.

Every latency of bench/ counts from the *scheduled* send time, so a generator that falls behind
makes the server look worse, never better (no coordinated omission). A generator that lags a lot
measures itself, though: a run whose lag is over 5 ms at p99 is void.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .percentiles import Summary, summarize

MAX_LAG_P99_MS = 5.0
EXIT_VOID = 3  # the exit status of a void run
RING_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Send times of one real-time stream that begins at `begin_ns` (monotonic).

    A chunk goes out when its last sample would have been captured: a microphone cannot send
    audio earlier. Sample positions count 16 kHz samples, whatever rate the client sends.
    """

    begin_ns: int
    chunk_samples: int
    num_samples: int

    @property
    def num_chunks(self) -> int:
        """Chunks of the stream; the last one may be short."""
        return -(-self.num_samples // self.chunk_samples)

    def due_ns(self, chunk: int) -> int:
        """Scheduled send time of chunk number `chunk`."""
        end = min((chunk + 1) * self.chunk_samples, self.num_samples)
        return self.begin_ns + end * 1_000_000_000 // RING_RATE_HZ

    def sent_ns(self, sample: int) -> int:
        """Scheduled send time of the chunk that holds `sample` (clamped to the stream)."""
        sample = min(max(sample, 0), self.num_samples - 1)
        return self.due_ns(sample // self.chunk_samples)


def stagger_ns(index: int, count: int, span_ns: int) -> int:
    """Phase of stream `index` of `count`, spread evenly over `span_ns`."""
    return index * span_ns // count


def lag_summary(lags_ns: Iterable[float]) -> Summary | None:
    """Generator lag in milliseconds."""
    return summarize(lag / 1e6 for lag in lags_ns)


def is_void(lag: Summary | None) -> bool:
    """True when the generator was too late for its numbers to mean anything."""
    return lag is None or lag.p99 > MAX_LAG_P99_MS
