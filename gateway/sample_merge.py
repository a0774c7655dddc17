"""Adding up the metric samples of all children, pure.

The supervisor keeps the newest samples of each running child and asks for the merged list once a
second; the workers show it at /metrics, so that any one of them answers for the whole server.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from protocol.supervisor_messages import Sample

# Prometheus reads a falling counter as a restart and counts its whole value again, so what a dead
# child counted stays in the sum. Gauges (open sessions, queue lengths) die with their process.
_COUNTER_SUFFIXES = ("_total", "_bucket", "_count", "_sum")


class SampleTable:
    """Newest samples by child, and what dead children had counted."""

    def __init__(self) -> None:
        self._newest: dict[Hashable, tuple[Sample, ...]] = {}
        self._retired: tuple[Sample, ...] = ()

    def update(self, child: Hashable, samples: tuple[Sample, ...]) -> None:
        """`child` reported these; they replace its earlier ones."""
        self._newest[child] = samples

    def retire(self, child: Hashable) -> None:
        """`child` is dead: keep its counters, forget its gauges."""
        dead = self._newest.pop(child, ())
        counters = [s for s in dead if s.how == "sum" and s.name.endswith(_COUNTER_SUFFIXES)]
        self._retired = merge_samples((*self._retired, *counters))

    def merged(self, own: Iterable[Sample] = ()) -> tuple[Sample, ...]:
        """One sample for each name and label set."""
        everything = list(self._retired)
        for samples in self._newest.values():
            everything.extend(samples)
        return merge_samples((*everything, *own))


def merge_samples(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Samples of equal name and labels become one, by their `how`: "sum" or "max"."""
    merged: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
    for sample in samples:
        key = (sample.name, sample.labels)
        seen = merged.get(key)
        if seen is None:
            merged[key] = sample
            continue
        value = max(seen.value, sample.value) if sample.how == "max" else seen.value + sample.value
        merged[key] = Sample(sample.name, sample.labels, value, sample.how)
    return tuple(merged.values())
