"""Sessions as bytes: what is read is what was written, and garbage is a value."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import journal_state as state
from gateway.journal_state import (
    Acknowledged,
    Closing,
    Committed,
    Controlled,
    Event,
    Identity,
    Packed,
    SavedSession,
    Shown,
    Snapshot,
    pack_control,
    pack_event,
    read_session,
    with_generation,
)
from gateway.recovery import History
from protocol.client_messages import (
    Closed,
    EndOfTurn,
    Error,
    Final,
    Hello,
    NonSpeech,
    Overflow,
    Partial,
    SpeechStarted,
    VadOptions,
)
from protocol.errors import ErrorCode
from protocol.journal import Contents, Damage
from protocol.service_messages import Checkpoint, Close, Configure, Finalize

KEY = (2, 7)
IDENTITY = Identity("s-1", Hello(sample_rate_hz=48_000, resumable=True), b"digest", "anna", 1)
RING = 10_000
CHECKPOINT = Checkpoint(*KEY, 5, 300, b"state", 2)


def non_speech(start: int, end: int) -> NonSpeech:
    return NonSpeech(audio_received=end, audio_decoded=end, start_sample=start, end_sample=end)


def final(utterance: int, start: int, end: int, **more: Any) -> Final:
    return Final(
        audio_received=end, audio_decoded=end, utterance=utterance, start_sample=start,
        end_sample=end, text=f"text {utterance}", **more,
    )  # fmt: skip


def snapshot(**changes: Any) -> Snapshot:
    history = History(VadOptions())
    fields: dict[str, Any] = {
        "version": state.STATE_VERSION, "slot": 2, "generation": 7, "identity": IDENTITY,
        "lost_client_samples": 0, "finalizes_received": 1, "closing": None,
        "num_acknowledged": 0, "events": (), "history": history.save(), "controls": (),
        "strikes": 0, "silent_deaths": 0,
    }  # fmt: skip
    return Snapshot(**{**fields, **changes})


def contents(first: Snapshot, *records: state.Record, ring_samples: int = 500) -> Contents:
    encoded = tuple(state.encode(record) for record in records)
    return Contents(ring_samples, 400, state.encode(first), encoded)


def read(first: Snapshot, *records: state.Record, ring_samples: int = 500) -> SavedSession:
    session = read_session(contents(first, *records, ring_samples=ring_samples), 2, RING)
    assert isinstance(session, SavedSession), session
    return session


def test_a_snapshot_is_read_as_it_was_written() -> None:
    history = History(VadOptions(threshold=0.5))
    history.commit(CHECKPOINT)
    controls = (Finalize(*KEY, 4, 200), Configure(*KEY, 250, VadOptions()), Close(*KEY, 500, "x"))
    events = (final(0, 0, 100), non_speech(100, 200))
    session = read(
        snapshot(
            history=history.save(), controls=tuple(map(pack_control, controls)), strikes=2,
            events=tuple(map(pack_event, events)), num_acknowledged=5, silent_deaths=3,
            lost_client_samples=9, finalizes_received=4, closing=Closing("client", 499),
        )
    )  # fmt: skip
    assert session.identity == IDENTITY
    assert (session.slot, session.generation) == KEY
    assert (session.ring_samples, session.decoded_samples) == (500, 400)
    assert session.history.save() == history.save()
    assert session.history.controls == controls
    assert session.events == deque(events)
    assert (session.num_acknowledged, session.finalizes_received) == (5, 4)
    assert (session.lost_client_samples, session.closing) == (9, Closing("client", 499))
    assert (session.suspicion.strikes, session.suspicion.silent_deaths) == (2, 3)
    assert not session.is_over


def test_records_are_what_happened_since() -> None:
    controls = [Finalize(*KEY, 4, 200), Configure(*KEY, 250, VadOptions(threshold=0.1))]
    lost = Overflow(audio_received=1, audio_decoded=0, first_client_sample=7, num_client_samples=3)
    events = [non_speech(0, 100), final(0, 100, 400, finalize_id=4), lost]
    session = read(
        snapshot(),
        *(Controlled(pack_control(control), 600) for control in controls),
        Event(pack_event(events[0]), 0),
        Shown(0, "text"),
        Event(pack_event(events[1]), 1),
        Acknowledged(1),
        Event(pack_event(events[2]), 1),
        Committed(CHECKPOINT, 100, 0),
    )
    assert (session.num_acknowledged, session.events) == (1, deque(events[1:]))
    assert session.finalizes_received == 2
    assert session.lost_client_samples == 3
    assert session.closing is None
    history = session.history
    assert history.checkpoint == CHECKPOINT
    assert history.controls == ()
    assert history.vad == VadOptions(threshold=0.1), "what holds at the checkpoint"
    assert (history.shown, history.num_answers) == ((0, "text"), 1)
    assert history.at_checkpoint == (100, 0)


def test_a_close_and_its_last_event_are_the_end() -> None:
    closed = Closed(
        reason="client", client_samples=1, socket_samples=1, ring_samples=1, engine_samples=1
    )
    session = read(snapshot(), Controlled(pack_control(Close(*KEY, 500, "client")), 1_500))
    assert (session.closing, session.is_over) == (Closing("client", 1_500), False)
    assert session.finalizes_received == 1
    for last in (closed, Error(code=ErrorCode.SERVICE_LOST, message="no more")):
        assert read(snapshot(), Event(pack_event(last), 0)).is_over


def test_an_end_without_a_close_says_what_was_sent_until_a_close_does() -> None:
    error = pack_event(Error(code=ErrorCode.INTERNAL, message="trouble"))
    lost = Closing("internal", 1_500)
    session = read(snapshot(), Event(error, 0, lost))
    assert (session.closing, session.is_over) == (lost, True)
    close = Controlled(pack_control(Close(*KEY, 500, "internal")), 1_501)
    assert read(snapshot(), Event(error, 0, lost), close).closing == Closing("internal", 1_501)
    assert read(snapshot(closing=lost), Event(error, 0)).closing == lost


def test_more_is_never_acknowledged_than_there_is() -> None:
    session = read(snapshot(), Event(pack_event(non_speech(0, 1)), 0), Acknowledged(99))
    assert (session.num_acknowledged, session.events) == (1, deque())


def test_a_control_of_a_successor_has_its_generation() -> None:
    assert with_generation(Finalize(*KEY, 4, 200), 8) == Finalize(2, 8, 4, 200)


@pytest.mark.parametrize("ring_samples", [300, 300 + RING])
def test_the_ring_holds_what_the_checkpoint_needs(ring_samples: int) -> None:
    read(snapshot(), Committed(CHECKPOINT, 0, 0), ring_samples=ring_samples)


GARBAGE = [
    (snapshot(version=99), (), "state of version 99"),
    (snapshot(slot=3), (), "slot 3"),
    (snapshot(identity=Identity("s", Hello(sample_rate_hz=1), b"", "", 0)), (), "1 Hz"),
    (snapshot(events=(Packed(0x45, b""),)), (), "event of type 69"),
    (snapshot(events=(Packed(0x46, b"{"),)), (), "final"),
    (snapshot(controls=(Packed(0x01, b""),)), (), "open"),
    (snapshot(controls=(Packed(0x45, msgspec.msgpack.encode([2, 7, 1, 1])),)), (), "control of"),
    (snapshot(), (Event(Packed(0x3F, b""), 0),), "event of type 63"),
    (snapshot(), (Controlled(Packed(0x3F, b""), 0),), "control of type 63"),
    (snapshot(), (Committed(msgspec.structs.replace(CHECKPOINT, sample=501), 0, 0),), "501 to 500"),
]


@pytest.mark.parametrize(("first", "records", "reason"), GARBAGE)
def test_what_is_wrong_is_damage(
    first: Snapshot, records: tuple[state.Record, ...], reason: str
) -> None:
    damage = read_session(contents(first, *records), 2, RING)
    assert isinstance(damage, Damage)
    assert reason in damage.reason


def test_a_ring_that_is_too_small_is_damage() -> None:
    damage = read_session(contents(snapshot(), ring_samples=RING + 1), 2, RING)
    assert isinstance(damage, Damage)


def test_a_history_of_another_shape_is_damage() -> None:
    short = msgspec.structs.replace(snapshot().history, newest=(1, 2))
    damage = read_session(contents(snapshot(history=short)), 2, RING)
    assert isinstance(damage, Damage)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=60), max_size=3))
def test_garbage_is_damage(first: bytes, records: list[bytes]) -> None:
    assert isinstance(read_session(Contents(0, 0, first, tuple(records)), 2, RING), Damage)
    whole = Contents(0, 0, state.encode(snapshot()), tuple(records))
    assert isinstance(read_session(whole, 2, RING), Damage | SavedSession)


@given(st.integers(0, 400), st.integers(0, 255))
def test_changed_bytes_are_damage_or_another_session(at: int, value: int) -> None:
    """Checksums see them; should one not, nothing is raised all the same."""
    data = bytearray(state.encode(snapshot(controls=(pack_control(Finalize(*KEY, 4, 200)),))))
    data[at % len(data)] = value
    assert isinstance(read_session(Contents(0, 0, bytes(data), ()), 2, RING), Damage | SavedSession)


def test_other_events_change_nothing_of_the_history() -> None:
    history = History(VadOptions())
    before = history.save()
    event = Partial(
        audio_received=1, audio_decoded=1, utterance=0, start_sample=0, end_sample=1, stable="",
        volatile="",
    )  # fmt: skip
    history.heard(event, 0)
    history.heard(final(0, 5, 5, finalize_id=1), 0)
    assert history.save() == before
    where = {"audio_received": 1, "audio_decoded": 1, "utterance": 4}
    history.heard(SpeechStarted(**where, start_sample=3), 0)
    history.heard(EndOfTurn(**where, end_sample=3), 0)
    assert history.save().newest == (4, -1, 4)
