"""What a service says of a stream on its way to the client: sifted, rendered, counted. Pure.

The router finds the stream; from there a result comes through here. What the client has heard from
an earlier service is dropped (recovery.History), the rest becomes an event with the stream's
counters, is measured and delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.client_messages import Final, Partial

from .client_events import ResultMessage, client_event
from .flight_recorder import Recorder
from .metrics import Metrics
from .stream import Stream


class AnnounceTimes(Protocol):
    """What of a service's link is asked here."""

    def enqueue_ns(self, receive_ns: int) -> int:
        """When audio received at `receive_ns` was announced; 0 when that is forgotten."""


class Results:
    """See the module text. `on_final`: for the log, if transcripts are to be there."""

    __slots__ = ("_metrics", "_on_final", "_recorder")

    def __init__(
        self,
        metrics: Metrics,
        recorder: Recorder,
        on_final: Callable[[Stream, Final], None] | None,
    ) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._on_final = on_final

    def deliver(
        self, stream: Stream, link: AnnounceTimes, message: ResultMessage, now_ns: int
    ) -> None:
        """One result; `link` is the service's that says it."""
        self.note_progress(stream, message.audio_decoded, now_ns)
        stream.decoded(message.audio_decoded)
        fresh = stream.history.sift(message)
        if stream.history.differences:
            self._metrics.replay_differences.inc(stream.history.differences)
            stream.history.differences = 0
        if fresh is None:
            return
        event = client_event(fresh, stream, link.enqueue_ns, now_ns)
        if isinstance(event, Partial):
            self._metrics.partials.labels(stream.owner.dialect_name).inc()
            self._metrics.observe_partial(event.stages, now_ns)
            stream.journal.drafted()
        elif isinstance(event, Final):
            self._count_final(stream, event, now_ns)
        stream.owner.deliver(event)
        self._recorder.heard(stream, event, now_ns)

    def note_progress(self, stream: Stream, decoded_samples: int, now_ns: int) -> None:
        """A stream has recovered when its new service is where the old one was."""
        if stream.orphaned_ns and decoded_samples >= stream.orphaned_sample:
            self._metrics.recovery.observe_ns(now_ns - stream.orphaned_ns)
            stream.orphaned_ns = 0

    def _count_final(self, stream: Stream, final: Final, now_ns: int) -> None:
        self._metrics.finals.labels(stream.owner.dialect_name).inc()
        if final.finalize_id is not None:
            stream.open_finalizes -= 1
            asked_ns = stream.finalize_times.pop(final.finalize_id, None)
            if asked_ns is not None:
                self._metrics.finalize_to_final.observe_ns(now_ns - asked_ns)
        if self._on_final is not None:
            self._on_final(stream, final)
