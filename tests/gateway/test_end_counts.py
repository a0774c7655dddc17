"""What a stream's end adds to the counters."""

from __future__ import annotations

import pytest

from gateway.end_counts import count_end
from gateway.metrics import Metrics
from gateway.stream import Stream
from protocol.client_messages import Closed, Hello
from protocol.errors import ErrorCode

from .test_session_log import Owner


def ended(reason: str, ring_samples: int, abandoned: bool = False) -> Metrics:
    metrics = Metrics()
    metrics.sessions_open.labels("openai").inc()
    stream = Stream("s", Hello(), Owner(), None)
    stream.abandoned = abandoned
    record = Closed(
        reason=reason, client_samples=12, socket_samples=12, ring_samples=ring_samples,
        engine_samples=9, lost_samples=3,
    )  # fmt: skip
    count_end(metrics, stream, record)
    assert metrics.sessions_open.labels("openai").value == 0
    return metrics


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("client", "ok"),
        (ErrorCode.DRAINING.value, "ok"),
        (ErrorCode.IDLE_TIMEOUT.value, "idle_timeout"),
    ],
)
def test_the_outcome(reason: str, outcome: str) -> None:
    assert ended(reason, 9).sessions.labels("openai", outcome).value == 1


def test_audio_is_counted_where_it_was_counted() -> None:
    metrics = ended("client", 9)
    audio = [metrics.audio_samples.labels(stage).value for stage in ("socket", "ring", "engine")]
    assert audio == [12, 9, 9]
    assert metrics.overflow_samples.value == 3


@pytest.mark.parametrize(
    ("ring_samples", "abandoned", "mismatches"), [(9, False, 0), (8, False, 1), (8, True, 0)]
)
def test_counts_that_differ(ring_samples: int, abandoned: bool, mismatches: int) -> None:
    assert ended("client", ring_samples, abandoned).accounting_mismatch.value == mismatches
