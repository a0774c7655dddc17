"""What is logged of a stream: its close record, and its words if the operator asks for them. Pure.

The worker calls it. Lines carry the session id that the client got in its Started, so that a report
of a user can be found; what people said is in them only with --log-transcripts.
"""

from __future__ import annotations

import logging

from protocol.client_messages import Closed, Final
from protocol.log_lines import LogEvent

from .stream import Stream, is_consistent

_log = logging.getLogger("earwire.gateway")


def log_closed(stream: Stream, record: Closed) -> None:
    """One line a stream; an error when its three counts differ and nothing explains it."""
    fields = {
        "session_id": stream.session_id,
        "dialect": stream.owner.dialect_name,
        "client": stream.hello.client,
        "reason": record.reason,
        "client_samples": record.client_samples,
        "socket_samples": record.socket_samples,
        "ring_samples": record.ring_samples,
        "engine_samples": record.engine_samples,
        "lost_samples": record.lost_samples,
    }
    expected = stream.abandoned or is_consistent(record)
    _log.log(logging.INFO if expected else logging.ERROR, LogEvent("stream_closed", fields))


def log_final(stream: Stream, final: Final) -> None:
    """The words of one utterance."""
    fields = {
        "session_id": stream.session_id,
        "dialect": stream.owner.dialect_name,
        "start_sample": final.start_sample,
        "end_sample": final.end_sample,
        "text": final.text,
    }
    _log.info(LogEvent("final", fields))
