"""What the journals of an arena hold of sessions that begin, end, do not fit or lose their slot."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from gateway.journal_recovery import MAX_ATTEMPTS, read_sessions
from gateway.journal_state import Closing, Identity, SavedSession
from gateway.journal_writer import Journals, StreamJournal
from gateway.kept_events import KeptEvents
from gateway.session_journal import NO_JOURNAL
from gateway.stream import Stream
from protocol.client_messages import Final, Hello, NonSpeech, Overflow, ServerMessage
from protocol.journal import Contents
from protocol.ring import PAGE_BYTES, ArenaLayout
from protocol.service_messages import Checkpoint, Close, Finalize
from protocol.service_messages import NonSpeech as ServiceNonSpeech

from .journal_world import HALF_RATE, Client, Halver, Session

KEY = (0, 1)


class Bench:
    """An arena and one session in it."""

    def __init__(self, journal_pages: int = 4, **hello: Any) -> None:
        self.layout = ArenaLayout(2, 1_000, journal_pages * PAGE_BYTES)
        self.arena = memoryview(bytearray(self.layout.size_bytes))
        self.journals = Journals(self.layout, self.arena)
        self.kept = KeptEvents()
        self.stream = self.claim(self.kept, **hello)

    def claim(self, kept: KeptEvents | None, **fields: Any) -> Stream:
        hello = Hello(**fields)
        converter = Halver() if hello.sample_rate_hz == HALF_RATE else None
        stream = Stream("s-1", hello, Session(Client(hello), KeptEvents()), converter)
        stream.attach(0, 1, self.layout.ring(self.arena, 0))
        identity = None if kept is None else Identity("s-1", hello, b"digest", "", 2)
        self.journals.claimed(stream, identity, kept)
        return stream

    def tell(self, event: ServerMessage) -> None:
        self.kept.append(event)
        self.stream.journal.told(event)

    def found(self) -> list[SavedSession]:
        return read_sessions(self.layout, self.arena, lambda slot, reason: pytest.fail(reason))

    def the_session(self) -> SavedSession:
        (session,) = self.found()
        return session


def silence(start: int, end: int) -> NonSpeech:
    return NonSpeech(audio_received=end, audio_decoded=end, start_sample=start, end_sample=end)


def long_final(num_chars: int) -> Final:
    return Final(
        audio_received=1, audio_decoded=1, utterance=0, start_sample=0, end_sample=1,
        text="x" * num_chars,
    )  # fmt: skip


def lost(num_samples: int) -> Overflow:
    return Overflow(
        audio_received=0, audio_decoded=0, first_client_sample=0, num_client_samples=num_samples
    )


def test_a_session_is_there_from_the_claim_of_its_slot() -> None:
    bench = Bench()
    session = bench.the_session()
    assert session.identity == Identity("s-1", Hello(), b"digest", "", 2)
    assert (session.slot, session.generation) == KEY
    assert session.finalizes_received == 2, "the early ones"
    assert list(session.events) == []


def test_what_happens_is_there() -> None:
    bench = Bench()
    stream, journal = bench.stream, bench.stream.journal
    stream.write(bytes(600), 0)
    stream.take_record_to(0)
    stream.announced_samples = 300
    stream.decoded(100)
    journal.note()
    for control in (Finalize(*KEY, 7, 300), Close(*KEY, 300, "client")):
        stream.history.remember(control)
        journal.controlled(control)
    stream.history.sift(ServiceNonSpeech(*KEY, 100, 0, 90))
    bench.tell(silence(0, 90))
    bench.tell(silence(90, 100))
    bench.kept.acknowledge(1)
    journal.acknowledged()
    stream.history.commit(Checkpoint(*KEY, 5, 50, b"state", 1))
    journal.committed()
    session = bench.the_session()
    assert (session.ring_samples, session.decoded_samples) == (300, 100)
    assert (session.finalizes_received, session.closing) == (3, Closing("client", 300))
    assert (session.num_acknowledged, list(session.events)) == (1, [silence(90, 100)])
    assert session.history.controls == (Close(*KEY, 300, "client"),)
    assert session.history.state == b"state"


def test_a_draft_is_kept_when_its_stable_text_has_grown() -> None:
    bench = Bench()
    journal = bench.journals.journal(0)
    assert journal is not None

    def num_records() -> int:
        contents = journal.read()
        assert isinstance(contents, Contents)
        return len(contents.records)

    history = bench.stream.history
    bench.stream.journal.drafted()
    assert num_records() == 0
    history.saw(0, "text")
    bench.stream.journal.drafted()
    bench.stream.journal.drafted()
    assert num_records() == 1
    assert bench.the_session().history.shown == (0, "text")


def test_a_checkpoint_that_is_none_is_not_kept() -> None:
    bench = Bench()
    bench.stream.journal.committed()
    assert bench.the_session().history.checkpoint is None


def test_records_make_room_for_a_snapshot_when_their_half_is_full() -> None:
    bench = Bench()
    for number in range(400):
        bench.tell(silence(number, number + 1))
        bench.kept.acknowledge(number)
        bench.stream.journal.acknowledged()
    session = bench.the_session()
    assert (session.num_acknowledged, list(session.events)) == (399, [silence(399, 400)])


def test_what_does_not_fit_is_lost_until_the_client_acknowledges() -> None:
    bench = Bench()
    bench.tell(long_final(3 * PAGE_BYTES))
    assert bench.found() == []
    bench.tell(silence(0, 1))
    bench.stream.journal.note()
    assert bench.found() == []
    bench.kept.acknowledge(1)
    bench.stream.journal.acknowledged()
    assert list(bench.the_session().events) == [silence(0, 1)]


class CountedEvents(KeptEvents):
    """Who takes all of them for a snapshot is counted."""

    num_taken = 0

    def since(self, number: int) -> tuple[ServerMessage, ...] | None:
        self.num_taken += 1
        return super().since(number)


def test_what_can_not_fit_is_not_encoded() -> None:
    """One acknowledgement of many would cost a whole snapshot each."""
    bench = Bench()
    kept = bench.kept = CountedEvents()
    bench.stream = bench.claim(kept)
    for _ in range(3):
        bench.tell(long_final(PAGE_BYTES))
    assert bench.found() == []
    taken = kept.num_taken
    bench.kept.acknowledge(1)
    bench.stream.journal.acknowledged()
    assert (bench.found(), kept.num_taken) == ([], taken)
    bench.kept.acknowledge(2)
    bench.stream.journal.acknowledged()
    assert len(bench.the_session().events) == 1


def test_a_recovered_session_is_kept_on() -> None:
    bench = Bench()
    bench.tell(silence(0, 1))
    bench.stream.journal.controlled(Finalize(*KEY, 7, 0))
    saved = bench.the_session()
    bench.kept = KeptEvents(saved.num_acknowledged, saved.events)
    bench.stream = Stream("s-1", saved.identity.hello, bench.stream.owner, None)
    bench.stream.attach(0, 2, bench.layout.ring(bench.arena, 0))
    bench.journals.recovered(saved, bench.stream, bench.kept)
    bench.tell(silence(1, 2))
    session = bench.the_session()
    assert session.generation == 2
    assert session.identity == saved.identity
    assert session.finalizes_received == 3
    assert list(session.events) == [silence(0, 1), silence(1, 2)]
    for _ in range(MAX_ATTEMPTS):  # and one above
        assert bench.the_session() is not None
        bench.journals.survived()
    bench.journals.forget(0)
    assert bench.found() == []


def test_a_session_that_has_ended_for_good_is_forgotten() -> None:
    bench = Bench()
    bench.stream.journal.forget()
    assert bench.stream.journal is NO_JOURNAL
    assert bench.found() == []


def test_the_next_session_of_a_slot_has_its_journal() -> None:
    bench = Bench()
    former = bench.stream
    other = bench.claim(KeptEvents(), language="en")
    assert former.journal is NO_JOURNAL
    assert isinstance(other.journal, StreamJournal)
    assert bench.the_session().identity.hello.language == "en"
    bench.claim(None)
    assert bench.found() == []
    assert other.journal is NO_JOURNAL


def test_nobody_else_keeps_a_session_that_is_gone() -> None:
    bench = Bench()
    gc.collect()
    gc.disable()
    try:
        bench.stream.journal.forget()
        before = sum(isinstance(one, StreamJournal) for one in gc.get_objects())
        bench.claim(KeptEvents()).journal.forget()
        assert sum(isinstance(one, StreamJournal) for one in gc.get_objects()) == before
    finally:
        gc.enable()


def test_lost_audio_is_counted_once_it_is_told() -> None:
    bench = Bench(live=True)
    bench.stream.lost_client_samples = 30
    bench.tell(lost(30))
    assert bench.the_session().lost_client_samples == 30
    assert isinstance(bench.stream.journal, StreamJournal)
    bench.stream.journal.rewrite()
    assert bench.the_session().lost_client_samples == 30
    assert bench.stream.safe_client_samples == 30


def test_a_converter_that_missed_audio_can_not_begin_again() -> None:
    bench = Bench(live=True, sample_rate_hz=HALF_RATE)
    bench.stream.client_samples = 900
    assert bench.stream.safe_client_samples == 0
    bench.stream.lost_client_samples = 30
    bench.tell(lost(30))
    assert bench.found() == []
    assert bench.stream.journal is NO_JOURNAL
    assert bench.stream.safe_client_samples == 900


def test_without_journals_nothing_is_kept() -> None:
    bench = Bench(journal_pages=0)
    assert bench.stream.journal is NO_JOURNAL
    assert bench.journals.journal(0) is None
    bench.journals.forget(0)
    bench.journals.recovered(None, bench.stream, bench.kept)  # type: ignore[arg-type]
    for nothing in (NO_JOURNAL.note, NO_JOURNAL.committed, NO_JOURNAL.drafted):
        nothing()
    NO_JOURNAL.acknowledged()
    NO_JOURNAL.forget()
    NO_JOURNAL.told(lost(1))
    NO_JOURNAL.controlled(Finalize(*KEY, 1, 1))
    assert bench.found() == []
