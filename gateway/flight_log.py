"""What is remembered of one stream for a flight record: events, controls, options. Pure.

Bounded by bytes and counts, whatever a client does. FlightRecorder owns one Flight a stream.
"""

from __future__ import annotations

from collections import deque

from protocol.client_messages import Partial, ServerMessage, VadOptions, encode_payload
from protocol.flight_record import Reason, RecordedControl, RecordedEvent
from protocol.service_messages import Configure, Finalize

from .recovery import Control

# What is kept a stream; partials apart, so that they never push finals out.
MAX_PARTIAL_BYTES = 128 * 1024
MAX_OTHER_BYTES = 128 * 1024
MAX_CONTROLS = 1_024
MAX_STOPPED = 64


class EventQueue:
    """Events in the order in which they were sent, the newest of them that fit."""

    __slots__ = ("_max_bytes", "_num_bytes", "events", "num_dropped")

    def __init__(self, max_bytes: int) -> None:
        self.events: deque[RecordedEvent] = deque()
        self.num_dropped = 0
        self._max_bytes = max_bytes
        self._num_bytes = 0

    def add(self, event: RecordedEvent) -> None:
        """The newest one."""
        self.events.append(event)
        self._num_bytes += len(event.payload)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= len(self.events.popleft().payload)
            self.num_dropped += 1


class EventLog:
    """The newest events of one stream."""

    __slots__ = ("_others", "_partials")

    def __init__(self) -> None:
        self._partials = EventQueue(MAX_PARTIAL_BYTES)
        self._others = EventQueue(MAX_OTHER_BYTES)

    def add(self, event: ServerMessage, now_ns: int) -> None:
        """The newest one."""
        queue = self._partials if isinstance(event, Partial) else self._others
        queue.add(RecordedEvent(now_ns, int(event.TYPE), encode_payload(event)))

    def events(self) -> tuple[RecordedEvent, ...]:
        """In the order of their times."""
        both = (*self._others.events, *self._partials.events)
        return tuple(sorted(both, key=lambda event: event.time_ns))

    @property
    def num_dropped(self) -> int:
        """Older ones, for which there was no room."""
        return self._others.num_dropped + self._partials.num_dropped


class Flight:
    """What is remembered of one stream."""

    __slots__ = (
        "_vad",
        "controls",
        "log",
        "open_sample",
        "origin_ns",
        "saved_ns",
        "spoke",
        "stop_sample",
        "stopped",
    )

    def __init__(self, vad: VadOptions, now_ns: int) -> None:
        self.origin_ns = now_ns  # when its sample 0 came
        self.controls: deque[RecordedControl] = deque()
        self.log = EventLog()
        self.open_sample: int | None = None  # where the utterance begins that has no final yet
        self.spoke = -1  # the last utterance that began with speech
        # Those that ended by a pause: their finals may still have to come.
        self.stopped: deque[int] = deque(maxlen=MAX_STOPPED)
        self.stop_sample = -1  # where the last of them ended
        self.saved_ns: dict[Reason, int] = {}
        self._vad = vad  # in force before the controls

    def vad_at(self, sample: int) -> VadOptions:
        """In force there; not asked for what is forgotten."""
        vad = self._vad
        for control in self.controls:
            if control.at_sample <= sample:
                vad = control.vad or vad
        return vad

    def controls_from(self, sample: int) -> tuple[RecordedControl, ...]:
        """Those behind a sample: what lies at it has been done there."""
        return tuple(control for control in self.controls if control.at_sample > sample)

    def add_control(self, control: Control) -> None:
        """The newest one."""
        at = control.at_sample
        if isinstance(control, Finalize):
            recorded = RecordedControl(at_sample=at, finalize_id=control.finalize_id)
        elif isinstance(control, Configure):
            recorded = RecordedControl(at_sample=at, vad=control.vad)
        else:
            recorded = RecordedControl(at_sample=at, close_reason=control.reason)
        self.controls.append(recorded)
        if len(self.controls) > MAX_CONTROLS:
            self._forget()

    def forget_before(self, sample: int) -> None:
        """No record will reach back to there."""
        while self.controls and self.controls[0].at_sample < sample:
            self._forget()

    def _forget(self) -> None:
        self._vad = self.controls.popleft().vad or self._vad  # options remain in force
