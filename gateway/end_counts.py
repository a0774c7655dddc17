"""What /metrics learns of a stream's end. Pure; the router calls it once a stream."""

from __future__ import annotations

from protocol.client_messages import Closed
from protocol.errors import ErrorCode

from .metrics import Metrics
from .stream import Stream, is_consistent

# Ends of a stream that are counted as errors, and those after which the counts may differ.
_ERROR_CODES = frozenset(code.value for code in ErrorCode) - {ErrorCode.DRAINING.value}


def count_end(metrics: Metrics, stream: Stream, record: Closed) -> None:
    """One stream less, its outcome, and its audio in the three places where it is counted."""
    dialect = stream.owner.dialect_name
    outcome = record.reason if record.reason in _ERROR_CODES else "ok"
    metrics.sessions_open.labels(dialect).dec()
    metrics.sessions.labels(dialect, outcome).inc()
    metrics.audio_samples.labels("socket").inc(record.socket_samples)
    metrics.audio_samples.labels("ring").inc(record.ring_samples)
    metrics.audio_samples.labels("engine").inc(record.engine_samples)
    metrics.overflow_samples.inc(record.lost_samples)
    if not is_consistent(record) and not stream.abandoned:
        metrics.accounting_mismatch.inc()
