"""Fuzz targets of what a dead worker leaves: a slot's journal, and the session in it."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.journal_state import (
    STATE_VERSION,
    Acknowledged,
    Controlled,
    Event,
    Identity,
    SavedSession,
    Shown,
    Snapshot,
    encode,
    pack_control,
    pack_event,
    read_session,
)
from gateway.recovery import History
from protocol.client_messages import Hello, NonSpeech, VadOptions
from protocol.journal import Contents, Damage, Journal
from protocol.service_messages import Finalize

from .target import Script, Target, script

SIZE = 4_096
RING_SAMPLES = 16_000


def run_journal(data: bytes) -> None:
    """Anything in its place is a session, damage or nothing, and the next session has the place."""
    journal = Journal(memoryview(bytearray(data[:SIZE].ljust(SIZE, b"\0"))))
    found = journal.read()
    if isinstance(found, Contents):
        read_session(found, 0, RING_SAMPLES)
    assert journal.begin(b"next", 5, 4)
    assert journal.append(b"record")
    assert journal.read() == Contents(5, 4, b"next", (b"record",))


def run_journal_state(data: bytes) -> None:
    """Entries whose checksums are right, whatever is in them: a session that holds together."""
    source = Script(data)
    ring_samples = int.from_bytes(source.chunk()[:8], "little")
    snapshot = source.chunk()
    records = []
    while not source.is_over:
        records.append(source.chunk())
    session = read_session(Contents(ring_samples, 0, snapshot, tuple(records)), 0, RING_SAMPLES)
    if isinstance(session, Damage):
        return
    assert isinstance(session, SavedSession)
    start = session.history.start_sample
    assert start <= session.ring_samples <= start + RING_SAMPLES
    session.identity.hello.audio_format()


def _entries() -> tuple[bytes, ...]:
    history = History(VadOptions())
    identity = Identity("s", Hello(), b"digest", "", 0)
    silence = NonSpeech(audio_received=9, audio_decoded=9, start_sample=0, end_sample=9)
    first = Snapshot(
        STATE_VERSION,
        0,
        1,
        identity,
        0,
        0,
        None,
        0,
        (pack_event(silence),),
        history.save(),
        (),
        0,
        0,
    )
    control = pack_control(Finalize(0, 1, 7, 9))
    records = (
        Event(pack_event(silence), 0), Controlled(control, 9), Shown(0, "text"), Acknowledged(1),
    )  # fmt: skip
    return (encode(first), *map(encode, records))


def journal_seeds() -> Iterator[bytes]:
    """One session, in each half."""
    data = bytearray(SIZE)
    journal = Journal(memoryview(data))
    snapshot, *records = _entries()
    for _ in range(2):
        journal.begin(snapshot, 9, 9)
        for record in records:
            journal.append(record)
        yield bytes(data)


def journal_state_seeds() -> Iterator[bytes]:
    """Its entries."""
    yield script((9).to_bytes(8, "little"), *_entries())


TARGETS = (
    Target("journal", run_journal, journal_seeds),
    Target("journal_state", run_journal_state, journal_state_seeds),
)
