"""What a session is promised at the present load, and when its client hears of another promise.

Pure. The recognition service decides (gpu_service/draft_hops.py): it alone knows all streams and
makes the drafts. Before a stream has a service, the state of the one that it would get counts.
The native protocol tells clients (Started, Resumed, Latency); other APIs have no word for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.client_messages import Latency, LatencyClass
from protocol.service_messages import Health, Pace


@dataclass(frozen=True, slots=True)
class Promise:
    """As the client knows it, or will."""

    latency_class: LatencyClass = LatencyClass.FULL
    hop_ms: int = 0  # between two partials, if there are any


def first_promise(wanted_hop_ms: int, health: Health | None) -> Promise:
    """To a client that wants partials so often, from the service that would have its stream."""
    if health is None or health.latency_class is LatencyClass.FULL:
        return Promise(LatencyClass.FULL, wanted_hop_ms)
    if health.latency_class is LatencyClass.SLOW and health.hop_ms <= wanted_hop_ms:
        return Promise(LatencyClass.FULL, wanted_hop_ms)
    return Promise(health.latency_class, max(health.hop_ms, wanted_hop_ms))


def new_promise(known: Promise, pace: Pace) -> Promise | None:
    """What the service says now; None when the client knows that class already."""
    if pace.latency_class is known.latency_class:
        return None
    return Promise(pace.latency_class, pace.hop_ms)


def latency_message(promise: Promise) -> Latency:
    """What tells a client."""
    return Latency(latency_class=promise.latency_class, hop_ms=promise.hop_ms)
