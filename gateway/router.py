"""The router: clients' streams on one side, services on the other. Pure: no descriptor, no clock.

It owns the table of open streams (by slot), claims slots at first audio, sends each stream's
controls in order with its audio, and turns service messages into client events. Connections call
it with intents, service links with messages; it calls a link's `send` and a stream's owner. A
message for a generation that is gone is counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol import service_messages as service
from protocol.client_messages import (
    Closed,
    Error,
    Final,
    Hello,
    Resumed,
    Started,
    VadOptions,
)
from protocol.errors import ErrorCode
from protocol.ring import ArenaLayout, Ring
from protocol.service_messages import SamplesRecord, StreamMessage

from .admission import Admission, Admitted
from .client_events import empty_final
from .config import WorkerConfig
from .end_counts import count_end
from .errors import refusal
from .flight_recorder import NO_RECORDER, Recorder
from .journal_writer import Journals
from .latency_classes import first_promise, latency_message, new_promise
from .metrics import Metrics
from .orphans import Link as QueuedLink
from .orphans import Orphans
from .results import Results
from .stream import Control, Converter, Stream, StreamOwner
from .stream_messages import effective_vad, open_message, started_message

WATERMARK_INTERVAL_NS = 200_000_000
WATERMARK_EVERY_S = 10  # of audio
MAX_OPEN_FINALIZES = 1_024  # of one stream; more than a person or an agent can mean


class Link(QueuedLink, Protocol):
    """What the router needs of a service link."""

    index: int
    dirty: list[Stream]

    def announce(self, record: SamplesRecord) -> None:
        """Queue the announcement of one stream's samples."""

    def send(self, message: service.Open | Control | service.Leave) -> None:
        """Queue a message behind all samples written so far."""

    def enqueue_ns(self, receive_ns: int) -> int:
        """When audio received at `receive_ns` was announced; 0 when that is forgotten."""


class Router:
    """See the module text."""

    def __init__(
        self,
        config: WorkerConfig,
        admission: Admission,
        metrics: Metrics,
        layout: ArenaLayout,
        arena: memoryview,
        new_converter: Callable[[Hello], Converter | None],
        on_closed: Callable[[Stream, Closed], None],
        session_prefix: str,
        on_final: Callable[[Stream, Final], None] | None = None,
        recorder: Recorder = NO_RECORDER,
    ) -> None:
        self.admission = admission
        self.metrics = metrics
        self.num_stale = 0  # results for a generation that was gone
        self.links: dict[int, Link] = {}
        self._config = config
        self._layout = layout
        self._arena = arena
        self._new_converter = new_converter
        self._on_closed = on_closed
        self._recorder = recorder
        self._results = Results(metrics, recorder, on_final)
        self._session_prefix = session_prefix
        self._num_sessions = 0
        self._step_counts = layout.step_counts(arena)
        self.journals = Journals(layout, arena)
        self.orphans = Orphans(admission, self.links, self._open, self._lose)
        self._by_slot: dict[int, Stream] = {}

    @property
    def open_streams(self) -> tuple[Stream, ...]:
        """Streams that hold a slot."""
        return tuple(self._by_slot.values())

    # From the client

    def admit(
        self, hello: Hello, owner: StreamOwner, now_ns: int, before: Admitted | None = None
    ) -> Stream | Error:
        """A new stream without a slot, or why there is none. `before`: its session has begun."""
        admitted = self.admission.admit(hello, before, now_ns)
        if isinstance(admitted, Error):
            return admitted
        self.metrics.sessions_open.labels(owner.dialect_name).inc()
        self._num_sessions += 1
        session_id = f"{self._session_prefix}-{self._num_sessions:x}"
        stream = Stream(session_id, hello, owner, self._new_converter(hello))
        stream.admitted = admitted
        return stream

    def reopen(self, stream: Stream, hello: Hello, now_ns: int) -> Stream | Error:
        """The same session with another hello, in place of a stream that had no audio yet."""
        if stream.is_attached:
            raise AssertionError("a stream with audio keeps its format")
        admitted = self.admission.admit(hello, stream.admitted, now_ns)
        if isinstance(admitted, Error):
            return admitted
        reopened = Stream(stream.session_id, hello, stream.owner, self._new_converter(hello))
        reopened.admitted = admitted
        return reopened

    def started(self, stream: Stream, now_ns: int) -> Started:
        """The answer to an admitted hello."""
        models, hello = self.admission.models(), stream.hello
        chosen = self.admission.choose(hello.model, now_ns)
        health = self.admission.services[chosen].health if chosen is not None else None
        stream.promise = first_promise(hello.hop_ms or self._config.hop_ms, health)
        return started_message(stream, self._config, models[0] if models else "")

    def resumed(self, stream: Stream, now_ns: int) -> Resumed:
        """The answer to a client that goes on with this stream."""
        return Resumed(
            session_id=stream.session_id,
            client_samples=stream.client_samples,
            finalizes_received=stream.num_finalizes,
            bye_received=stream.closing,
            latency_class=stream.promise.latency_class,
            hop_ms=stream.promise.hop_ms,
        )

    def claim(self, stream: Stream, now_ns: int) -> Error | None:
        """Give the stream a slot and a service: called at its first audio. While the services are
        being restarted it waits for one, as those do that had one.
        """
        model = stream.hello.model
        promised = stream.admitted.promised(now_ns)
        chosen = self.admission.choose(model, now_ns, promised=promised)
        is_full = chosen is None and self.admission.has_service(model, now_ns)
        claimed = None if is_full else self.admission.slots.claim()
        if claimed is None:
            return self.admission.full(now_ns)
        slot, generation = claimed
        stream.attach(slot, generation, self.ring(slot))
        stream.history.vad = effective_vad(stream.vad, self._config)
        self._by_slot[slot] = stream
        self._recorder.opened(stream, now_ns)
        if chosen is None:
            self.orphans.add(stream, now_ns)
        else:
            self._open(stream, chosen, now_ns)
        return None

    def adopt(self, stream: Stream, now_ns: int) -> None:
        """A stream that a dead worker left: it has its slot, and waits for a service."""
        self.metrics.sessions_open.labels(stream.owner.dialect_name).inc()
        stream.promise = first_promise(stream.hello.hop_ms or self._config.hop_ms, None)
        self._by_slot[stream.slot] = stream
        self.orphans.add(stream, now_ns)

    def ring(self, slot: int) -> Ring:
        """The audio of a slot."""
        return self._layout.ring(self._arena, slot)

    def _open(self, stream: Stream, service_index: int, now_ns: int) -> None:
        """Begin with a service where the last one left a checkpoint; at first, at 0."""
        link, history = self.links[service_index], stream.history
        history.begin_again()
        stream.suspicion.opened(self._step_counts[stream.slot], now_ns)
        stream.join(link, history.start_sample)
        self.admission.stream_opened(service_index)
        link.send(open_message(stream, service_index))
        for control in history.controls:
            if control.at_sample > stream.announced_samples:
                link.announce(stream.take_record_to(control.at_sample))
            link.send(control)
        stream.announce_rest()

    def pump(self, stream: Stream) -> None:
        """Write what fits of what waits, and send the controls whose turn has come."""
        link = self._link_of(stream)
        for control in stream.pump():
            stream.history.remember(control)
            stream.journal.controlled(control)
            self._recorder.sent(stream, control)
            if link is not None:
                link.send(control)

    def finalize(self, stream: Stream, finalize_id: int, now_ns: int) -> None:
        """End the utterance here; without any audio the answer needs no service.

        A client with MAX_OPEN_FINALIZES unanswered ones is refused: each is kept until answered.
        """
        stream.num_finalizes += 1
        if stream.is_attached:
            stream.open_finalizes += 1
            if stream.open_finalizes > MAX_OPEN_FINALIZES or stream.history.is_full:
                text = f"over {MAX_OPEN_FINALIZES} finalizes wait for their answers"
                stream.owner.refuse(refusal(ErrorCode.UNEXPECTED_MESSAGE, text))
                return
            stream.finalize(finalize_id, now_ns)
            self.pump(stream)
            return
        stream.owner.deliver(empty_final(finalize_id, now_ns))

    def configure(self, stream: Stream, vad: VadOptions) -> None:
        """New VAD options from here on."""
        if stream.history.is_full:
            stream.owner.refuse(refusal(ErrorCode.UNEXPECTED_MESSAGE, "too many new options"))
            return
        stream.configure(effective_vad(vad, self._config))
        if stream.is_attached:
            self.pump(stream)

    def close(self, stream: Stream, reason: str) -> None:
        """No more audio of this stream; one without a slot has ended at once."""
        if stream.closing or stream.ended:
            return
        stream.close(reason)
        if stream.is_attached:
            self.pump(stream)
        else:
            self._end(stream, engine_samples=0)

    def _link_of(self, stream: Stream) -> Link | None:
        for link in self.links.values():
            if link is stream.link:
                return link
        return None

    # From a service

    def receive(self, link: Link, message: StreamMessage, now_ns: int) -> None:
        """One message of a service about one of its streams."""
        stream = self._by_slot.get(message.slot)
        if stream is None or stream.generation != message.generation or stream.link is not link:
            self.num_stale += 1
            return
        stream.suspicion.was_heard_of = True
        if isinstance(message, service.Credit):
            self._credit(stream, message, now_ns)
        elif isinstance(message, service.StreamClosed):
            self._end(stream, message.engine_samples)
        elif isinstance(message, service.StreamError):
            self._fail(stream, message, now_ns)
        elif isinstance(message, service.Checkpoint):
            stream.history.commit(message)
            stream.journal.committed()
        elif isinstance(message, service.Pace):
            self._take_pace(stream, message)
        elif isinstance(message, service.Left):
            self._leave(stream)
            self._orphan(stream, now_ns)
        else:
            self._results.deliver(stream, link, message, now_ns)

    def _take_pace(self, stream: Stream, pace: service.Pace) -> None:
        promise = new_promise(stream.promise, pace)
        if promise is not None:
            stream.promise = promise
            stream.owner.deliver(latency_message(promise))

    def _fail(self, stream: Stream, message: service.StreamError, now_ns: int) -> None:
        if message.code is ErrorCode.AT_CAPACITY and stream.orphaned_ns:
            self._leave(stream)  # others were faster
            self.orphans.add(stream, stream.orphaned_ns)
            self.orphans.postpone(stream, now_ns)
            return
        stream.abandoned = True
        stream.owner.deliver(refusal(message.code, message.message))
        self.close(stream, message.code.value)

    def _credit(self, stream: Stream, message: service.Credit, now_ns: int) -> None:
        self._results.note_progress(stream, message.audio_decoded, now_ns)
        stream.credit(message.released_sample, message.audio_decoded)
        if self._is_watermark_due(stream, now_ns):
            watermark = stream.watermark()
            stream.watermark_ns = now_ns
            stream.told_client_samples = watermark.client_samples
            stream.owner.deliver(watermark)
        if stream.is_blocked:
            self.pump(stream)
            if not stream.is_blocked:
                stream.owner.resume()

    def _is_watermark_due(self, stream: Stream, now_ns: int) -> bool:
        """By time; by audio, too, because a client that may resume keeps it until then."""
        ahead_samples = stream.client_samples - stream.told_client_samples
        is_far_ahead = ahead_samples >= WATERMARK_EVERY_S * stream.format.sample_rate_hz
        return is_far_ahead or now_ns - stream.watermark_ns >= WATERMARK_INTERVAL_NS

    def _end(self, stream: Stream, engine_samples: int) -> None:
        """The close record; the slot is free from here on."""
        stream.decoded(engine_samples)
        record = self._settle(stream, engine_samples)
        stream.owner.deliver(record)
        stream.owner.stream_ended()

    def _settle(self, stream: Stream, engine_samples: int) -> Closed:
        """The close record, counted and told to everybody but the client; the slot is free."""
        record = stream.close_record(engine_samples)
        count_end(self.metrics, stream, record)
        self._release(stream)
        self._on_closed(stream, record)
        return record

    def _release(self, stream: Stream) -> None:
        stream.ended = True
        if stream.is_attached:
            del self._by_slot[stream.slot]
            self._leave(stream)
            self.admission.slots.free(stream.slot)

    def _leave(self, stream: Stream) -> None:
        """Its service, if it has one, has nothing to do with it any more."""
        link = self._link_of(stream)
        if link is not None:
            if stream.is_dirty:
                link.dirty.remove(stream)
            self.admission.stream_left(link.index)
        stream.leave()

    # Services that die

    def link_lost(self, link: Link, now_ns: int) -> None:
        """The service died: its streams wait for another, or for its successor."""
        del self.links[link.index]
        self.admission.service_lost(link.index)
        lost = [stream for stream in self.open_streams if stream.link is link]
        for stream in lost:
            stream.suspicion.service_died(self._step_counts[stream.slot], now_ns)
        self._recorder.service_lost(lost, now_ns)
        for stream in lost:
            stream.leave()
            self._orphan(stream, now_ns)

    def _orphan(self, stream: Stream, now_ns: int) -> None:
        if stream.abandoned:
            self._lose(stream, "")  # its client has been told why
        elif stream.released_samples > stream.history.start_sample:
            self._lose(stream, "the recognition service stopped, and kept no checkpoint")
        elif stream.suspicion.is_hopeless:
            self._lose(stream, "recognition services stop at this stream")
        else:
            self.orphans.add(stream, now_ns)

    def _lose(self, stream: Stream, reason: str) -> None:
        """No service will have it: a retryable error is the last that its client hears."""
        stream.closing = stream.abandoned = True
        if reason:
            stream.close_reason = ErrorCode.SERVICE_LOST.value
        self._settle(stream, stream.decoded_samples)
        if reason:
            stream.owner.deliver(refusal(ErrorCode.SERVICE_LOST, f"{reason}; try again"))
        stream.owner.stream_ended()
