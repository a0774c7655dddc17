"""What is remembered of one stream stays within its limits, and the newest of it is there."""

from __future__ import annotations

from gateway.flight_log import (
    MAX_CONTROLS,
    MAX_OTHER_BYTES,
    MAX_PARTIAL_BYTES,
    MAX_STOPPED,
    EventLog,
    Flight,
)
from protocol.client_messages import Final, MessageType, Partial, VadOptions
from protocol.flight_record import RecordedControl
from protocol.service_messages import Close, Configure, Finalize

A, B, C = (VadOptions(threshold=value) for value in (0.1, 0.2, 0.3))
COUNTS = {"audio_received": 9, "audio_decoded": 9, "start_sample": 0, "end_sample": 9}


def final(text: str, utterance: int = 0) -> Final:
    return Final(utterance=utterance, text=text, **COUNTS)


def partial(text: str) -> Partial:
    return Partial(utterance=0, stable="", volatile=text, **COUNTS)


def test_events_come_in_the_order_of_their_times() -> None:
    log = EventLog()
    for now_ns, event in enumerate((partial("a"), final("ab"), partial("c"), final("cd"))):
        log.add(event, now_ns)
    types = [event.type for event in log.events()]
    assert types == [MessageType.PARTIAL, MessageType.FINAL] * 2
    assert [event.time_ns for event in log.events()] == [0, 1, 2, 3]
    assert log.num_dropped == 0


def test_partials_never_push_finals_out() -> None:
    log = EventLog()
    log.add(final("kept"), 0)
    for now_ns in range(1, 400):
        log.add(partial("x" * 1_000), now_ns)
    events = log.events()
    assert events[0].type == MessageType.FINAL
    assert events[-1].time_ns == 399
    assert sum(len(e.payload) for e in events[1:]) <= MAX_PARTIAL_BYTES
    assert log.num_dropped == 400 - len(events)


def test_old_finals_make_room_for_new_ones() -> None:
    log = EventLog()
    for now_ns in range(20):
        log.add(final("y" * 50_000), now_ns)
    assert [event.time_ns for event in log.events()] == [18, 19]
    log.add(final("z" * MAX_OTHER_BYTES), 20)
    assert log.events() == ()
    log.add(final("short"), 21)
    assert [event.time_ns for event in log.events()] == [21]
    assert log.num_dropped == 21


def test_options_in_force_and_controls_to_come() -> None:
    flight = Flight(A, 0)
    for control in (
        Configure(0, 1, 100, B), Finalize(0, 1, 7, 100), Configure(0, 1, 300, C),
        Close(0, 1, 400, "client"),
    ):  # fmt: skip
        flight.add_control(control)
    assert [flight.vad_at(sample) for sample in (0, 99, 100, 299, 300, 900)] == [A, A, B, B, C, C]
    assert flight.controls_from(100) == (
        RecordedControl(at_sample=300, vad=C),
        RecordedControl(at_sample=400, close_reason="client"),
    )
    assert flight.controls_from(99)[:2] == (
        RecordedControl(at_sample=100, vad=B),
        RecordedControl(at_sample=100, finalize_id=7),
    )
    flight.forget_before(300)
    assert len(flight.controls) == 2
    assert flight.vad_at(299) == B
    flight.forget_before(10_000)
    assert not flight.controls
    assert flight.vad_at(10_000) == C


def test_controls_are_bounded_and_options_stay_in_force() -> None:
    flight = Flight(A, 0)
    flight.add_control(Configure(0, 1, 5, B))
    for number in range(3 * MAX_CONTROLS):
        flight.add_control(Finalize(0, 1, number, 5))
    assert len(flight.controls) == MAX_CONTROLS
    assert flight.vad_at(5) == B
    flight.stopped.extend(range(2 * MAX_STOPPED))
    assert len(flight.stopped) == MAX_STOPPED
