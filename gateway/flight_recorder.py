"""Which moments of which streams are worth keeping, and what is kept of them. Pure.

With `--flight-recorder DIR` a worker has one FlightRecorder. The router tells it what streams hear
and are asked; it keeps the newest of that for each stream, within fixed limits, and looks for what
should not happen: text that comes late, speech without a word, a final that repeats itself, counts
that differ, a service that dies. Then it copies the last seconds of audio out of the stream's ring
and hands both to `save` (flight_files.FlightFiles). How many records that may make is bounded.

What is kept is what people said: nothing of this runs unless the operator asks for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec import structs

from protocol.audio import RING_RATE_HZ, ms_to_samples
from protocol.client_messages import (
    Closed,
    Final,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    Watermark,
)
from protocol.flight_record import GRID_SAMPLES, FlightHead, Reason

from .config import FlightSettings
from .flight_log import Flight
from .metrics import Metrics
from .recovery import Control
from .repeated_words import find_repeat
from .stream import Stream, is_consistent

NS_PER_S = 1_000_000_000
WINDOW_SAMPLES = 30 * RING_RATE_HZ
LEAD_SAMPLES = 2 * RING_RATE_HZ  # of audio before an utterance that began before the window
# Records of one worker in a minute. When the server is slow all streams are, and one of them tells
# as much as all: the rest is kept for what is rare.
MAX_A_MINUTE = 6
MAX_LAGS_A_MINUTE = 2
REPEAT_AFTER_NS = 30 * NS_PER_S  # of one stream, for one reason
MIN_EMPTY_SAMPLES = RING_RATE_HZ  # shorter speech without words is a cough
DEFAULT_PAUSE_MS = 352  # silence that ends an utterance, if the client does not say


class Recorder(Protocol):
    """What the router tells. A stream is known from its first audio until it has ended."""

    def opened(self, stream: Stream, now_ns: int) -> None:
        """Its first audio is there."""

    def sent(self, stream: Stream, control: Control) -> None:
        """A control took its place in the audio."""

    def heard(self, stream: Stream, event: ServerMessage, now_ns: int) -> None:
        """Its client is told this."""

    def service_lost(self, streams: Iterable[Stream], now_ns: int) -> None:
        """The service of these has died."""


class NoRecorder:
    """What a server has that records nothing."""

    def opened(self, stream: Stream, now_ns: int) -> None:
        """See Recorder."""

    def sent(self, stream: Stream, control: Control) -> None:
        """See Recorder."""

    def heard(self, stream: Stream, event: ServerMessage, now_ns: int) -> None:
        """See Recorder."""

    def service_lost(self, streams: Iterable[Stream], now_ns: int) -> None:
        """See Recorder."""


NO_RECORDER = NoRecorder()


class FlightRecorder:
    """See the module text."""

    def __init__(
        self,
        settings: FlightSettings,
        metrics: Metrics,
        wall_offset_ns: int,
        save: Callable[[FlightHead, bytes], bool],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._wall_offset_ns = wall_offset_ns  # Unix time - the clock of the arguments
        self._save = save  # False: not now
        self._flights: dict[Stream, Flight] = {}
        self._recent: deque[tuple[int, Reason]] = deque()  # records of the last minute

    # What the router tells (Recorder)

    def opened(self, stream: Stream, now_ns: int) -> None:
        """Its first audio is there."""
        self._flights[stream] = Flight(stream.history.vad, now_ns)

    def sent(self, stream: Stream, control: Control) -> None:
        """A control took its place in the audio."""
        flight = self._flights.get(stream)
        if flight is not None:
            flight.add_control(control)
            flight.forget_before(_oldest_sample(stream))

    def heard(self, stream: Stream, event: ServerMessage, now_ns: int) -> None:
        """Its client is told this."""
        flight = self._flights.get(stream)
        if flight is None or isinstance(event, Watermark):
            return
        flight.log.add(event, now_ns)
        if isinstance(event, Partial):
            flight.open_sample = event.start_sample
            self._check_lag(stream, flight, event, 0, now_ns)
        elif isinstance(event, Final):
            flight.open_sample = event.start_sample
            self._check_final(stream, flight, event, now_ns)
            flight.open_sample = None
        elif isinstance(event, SpeechStarted):
            if flight.stopped and event.start_sample == flight.stop_sample:
                flight.stopped.pop()  # no pause: it was cut
            flight.spoke = event.utterance
            flight.open_sample = event.start_sample
        elif isinstance(event, SpeechStopped):
            flight.stopped.append(event.utterance)
            flight.stop_sample = event.end_sample

    def service_lost(self, streams: Iterable[Stream], now_ns: int) -> None:
        """The service of these has died: first those that may be the cause."""
        for stream in sorted(streams, key=lambda stream: not stream.suspicion.is_suspect):
            suspect = stream.suspicion.is_suspect
            detail = "a step with this stream ran" if suspect else "no step with this stream ran"
            self._record(stream, Reason.SERVICE_LOST, detail, now_ns)

    def ended(self, stream: Stream, record: Closed, now_ns: int) -> None:
        """The close record; the ring still holds the stream's audio."""
        flight = self._flights.get(stream)
        if flight is None:
            return
        flight.log.add(record, now_ns)
        if not is_consistent(record) and not stream.abandoned:
            detail = (
                f"socket {record.socket_samples}, lost {record.lost_samples}, "
                f"ring {record.ring_samples}, engine {record.engine_samples} samples"
            )
            self._record(stream, Reason.MISMATCH, detail, now_ns)
        del self._flights[stream]

    # What should not happen

    def _check_final(self, stream: Stream, flight: Flight, final: Final, now_ns: int) -> None:
        num_samples = final.end_sample - final.start_sample
        is_speech = final.utterance <= flight.spoke and num_samples >= MIN_EMPTY_SAMPLES
        if is_speech and not final.text.strip():
            detail = f"{num_samples / RING_RATE_HZ:.1f} s of speech without a word"
            self._record(stream, Reason.EMPTY_FINAL, detail, now_ns)
            return
        repeat = find_repeat(final.text)
        if repeat is not None:
            detail = f"{repeat.num_words} words in a row, {repeat.times} times"
            self._record(stream, Reason.REPEATED_WORDS, detail, now_ns)
            return
        # Only a pause tells when a final was due: a cut lies well before what was heard.
        if final.utterance in flight.stopped:
            pause_ms = stream.vad.min_silence_ms or DEFAULT_PAUSE_MS
            self._check_lag(stream, flight, final, pause_ms, now_ns)

    def _check_lag(
        self, stream: Stream, flight: Flight, event: Partial | Final, pause_ms: int, now_ns: int
    ) -> None:
        """Late by the audio that has come since, and by the time that has passed: the first alone
        would blame files, which come faster than real time, the second clients that pause. While
        another service takes over, everything is late.
        """
        if stream.orphaned_ns:
            return
        by_audio = stream.ring_samples - event.end_sample - ms_to_samples(pause_ms)
        if by_audio * 1000 <= self._settings.lag_ms * RING_RATE_HZ:
            return
        by_time_ns = now_ns - flight.origin_ns - event.end_sample * NS_PER_S // RING_RATE_HZ
        lag_ms = min(by_audio * 1000 // RING_RATE_HZ, by_time_ns // 1_000_000 - pause_ms)
        if lag_ms > self._settings.lag_ms:
            kind = type(event).__name__.lower()
            self._record(stream, Reason.LAG, f"a {kind} came {lag_ms} ms late", now_ns)

    # Records

    def _record(self, stream: Stream, reason: Reason, detail: str, now_ns: int) -> None:
        flight = self._flights.get(stream)
        if flight is None:
            return
        last_ns = flight.saved_ns.get(reason)
        if last_ns is not None and now_ns - last_ns < REPEAT_AFTER_NS:
            return
        flight.saved_ns[reason] = now_ns
        if not self._has_room(reason, now_ns):
            self._metrics.flight_records_skipped.inc()
            return
        head, pcm = self._capture(stream, flight, reason, detail, now_ns)
        if not self._save(head, pcm):
            self._metrics.flight_records_skipped.inc()
            return
        self._recent.append((now_ns, reason))
        self._metrics.flight_records.labels(reason.value).inc()

    def _has_room(self, reason: Reason, now_ns: int) -> bool:
        while self._recent and now_ns - self._recent[0][0] >= 60 * NS_PER_S:
            self._recent.popleft()
        if reason is Reason.LAG:
            num_lags = sum(recent is Reason.LAG for _, recent in self._recent)
            return num_lags < MAX_LAGS_A_MINUTE and len(self._recent) < MAX_A_MINUTE
        return len(self._recent) < MAX_A_MINUTE

    def _capture(
        self, stream: Stream, flight: Flight, reason: Reason, detail: str, now_ns: int
    ) -> tuple[FlightHead, bytes]:
        if stream.ring is None:
            raise AssertionError("a stream without audio is not recorded")
        wanted = _wanted_sample(stream, flight)
        first = max(wanted, _oldest_sample(stream))
        num_samples = stream.ring_samples - first
        head = FlightHead(
            reason=reason,
            detail=detail,
            session_id=stream.session_id,
            dialect=stream.owner.dialect_name,
            saved_ns=now_ns,
            saved_wall_ns=self._wall_offset_ns + now_ns,
            hello=structs.replace(stream.hello, token=""),
            vad=flight.vad_at(first),
            server=self._settings.server,
            first_sample=first,
            num_samples=num_samples,
            overwritten_samples=first - wanted,
            decoded_samples=stream.decoded_samples,
            client_samples=stream.client_samples,
            lost_client_samples=stream.lost_client_samples,
            controls=flight.controls_from(first),
            events=flight.log.events(),
            num_events_dropped=flight.log.num_dropped,
        )
        return head, stream.ring.read(first, num_samples)


def _oldest_sample(stream: Stream) -> int:
    """From where on the ring has all, in whole frames."""
    num_samples = stream.ring.num_samples if stream.ring is not None else 0
    return max(0, -(-(stream.ring_samples - num_samples) // GRID_SAMPLES) * GRID_SAMPLES)


def _wanted_sample(stream: Stream, flight: Flight) -> int:
    """Where a record should begin."""
    wanted = stream.ring_samples - WINDOW_SAMPLES
    if flight.open_sample is not None:
        wanted = min(wanted, flight.open_sample - LEAD_SAMPLES)
    return max(0, wanted // GRID_SAMPLES * GRID_SAMPLES)
