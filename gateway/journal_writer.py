"""Keeps the journal of each resumable session that has a slot, while its worker lives. Pure, over
the arena.

What the client is told, acknowledges and asks is in the journal before a byte about it leaves the
worker: whatever a client knows, a successor knows. Each change is one record; when the records
fill their half, a snapshot of the session takes their place. A session that does not fit (a client
that leaves very much unacknowledged) has no journal until it fits again, and is lost with its
worker. journal_state.py knows the bytes, protocol/journal.py their place.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from protocol.client_messages import Error, Overflow, ServerMessage
from protocol.journal import Journal
from protocol.ring import ArenaLayout
from protocol.service_messages import Close, Finalize

from . import journal_state as state
from .journal_state import Closing, Identity, Record, SavedSession, Snapshot
from .kept_events import KeptEvents
from .recovery import Control
from .session_journal import NO_JOURNAL
from .stream import Stream


class StreamJournal:
    """One session's, from the claim of its slot until it ends for good.

    Callers change the session first and tell the journal then.
    """

    __slots__ = (
        "__weakref__", "_closing", "_finalizes_received", "_identity", "_journal", "_kept",
        "_lost_client_samples", "_shown", "_stream",
    )  # fmt: skip

    def __init__(
        self, journal: Journal, identity: Identity, stream: Stream, kept: KeptEvents
    ) -> None:
        self._journal = journal
        self._identity = identity
        self._stream = stream
        self._kept = kept
        self._finalizes_received = identity.early_finalizes
        self._closing: Closing | None = None
        self._lost_client_samples = 0  # named in Overflow events
        self._shown = stream.history.shown

    @classmethod
    def of_saved(
        cls, journal: Journal, saved: SavedSession, stream: Stream, kept: KeptEvents
    ) -> StreamJournal:
        """Of a session that a dead worker left."""
        one = cls(journal, saved.identity, stream, kept)
        one._finalizes_received = saved.finalizes_received
        one._closing = saved.closing
        one._lost_client_samples = saved.lost_client_samples
        return one

    # What happens

    def note(self) -> None:
        """The counters: at least before a client hears of them."""
        self._journal.note(self._stream.ring_samples, self._stream.decoded_samples)

    def told(self, event: ServerMessage) -> None:
        """A numbered event is kept for the client."""
        if isinstance(event, Overflow):
            self._lost_client_samples += event.num_client_samples
            if not self._stream.can_restart:
                self.forget()
                return
        closing = None
        if isinstance(event, Error) and self._closing is None:
            closing = self._closing = Closing(event.code.value, self._stream.client_samples)
        answers = self._stream.history.num_answers
        self._append(state.Event(state.pack_event(event), answers, closing))

    def acknowledged(self) -> None:
        """The client has some of them."""
        self._append(state.Acknowledged(self._kept.first_number), may_shrink=True)

    def controlled(self, control: Control) -> None:
        """A control has its place."""
        client_samples = self._stream.client_samples
        if isinstance(control, Finalize):
            self._finalizes_received += 1
        elif isinstance(control, Close):
            self._closing = Closing(control.reason, client_samples)
        self._append(state.Controlled(state.pack_control(control), client_samples))

    def committed(self) -> None:
        """There is a newer checkpoint."""
        history = self._stream.history
        if history.checkpoint is not None:
            record = state.Committed(history.checkpoint, *history.at_checkpoint)
            self._append(record, may_shrink=True)
            self.survived()

    def survived(self) -> None:
        """Whatever killed the workers before this one, it was not this session."""
        self._journal.forget_attempts()

    def drafted(self) -> None:
        """The client sees a draft, whose stable text may have grown."""
        shown = self._stream.history.shown
        if shown != self._shown:
            self._shown = shown
            self._append(state.Shown(*shown))

    def forget(self) -> None:
        """The session has ended for good, or cannot go on after a death of this worker."""
        self._journal.clear()
        self.detach()

    def detach(self) -> None:
        """Another session has the slot now, and its journal."""
        self._stream.journal = NO_JOURNAL

    # How it is kept

    def _append(self, record: Record, *, may_shrink: bool = False) -> None:
        journal = self._journal
        self.note()
        if not journal.append(state.encode(record)) and (may_shrink or not journal.is_empty):
            self.rewrite()

    def rewrite(self) -> None:
        """A snapshot in place of all records; nothing, if it does not fit."""
        journal, stream = self._journal, self._stream
        if self._kept.payload_bytes > journal.capacity_bytes:  # known before it is encoded
            journal.clear()
            return
        snapshot = state.encode(self._snapshot())
        if not journal.begin(snapshot, stream.ring_samples, stream.decoded_samples):
            journal.clear()

    def _events(self) -> tuple[ServerMessage, ...]:
        return self._kept.since(self._kept.first_number) or ()

    def _snapshot(self) -> Snapshot:
        stream = self._stream
        history = stream.history
        return Snapshot(
            version=state.STATE_VERSION,
            slot=stream.slot,
            generation=stream.generation,
            identity=self._identity,
            lost_client_samples=self._lost_client_samples,
            finalizes_received=self._finalizes_received,
            closing=self._closing,
            num_acknowledged=self._kept.first_number,
            events=tuple(state.pack_event(event) for event in self._events()),
            history=history.save(),
            controls=tuple(state.pack_control(control) for control in history.controls),
            strikes=stream.suspicion.strikes,
            silent_deaths=stream.suspicion.silent_deaths,
        )


class Journals:
    """The journals of an arena, by slot. Where the layout has none, nothing is kept."""

    def __init__(self, layout: ArenaLayout, arena: memoryview) -> None:
        self._layout = layout
        self._arena = arena
        # Those whose streams live: who holds a stream holds its journal.
        self._by_slot: WeakValueDictionary[int, StreamJournal] = WeakValueDictionary()

    def journal(self, slot: int) -> Journal | None:
        """What lies in the arena for this slot."""
        view = self._layout.journal(self._arena, slot)
        return Journal(view) if len(view) else None

    def claimed(self, stream: Stream, identity: Identity | None, kept: KeptEvents | None) -> None:
        """The stream has its slot; what was there goes. `identity` None: it is not resumable."""
        journal = self.journal(stream.slot)
        if journal is None:
            return
        self._detach(stream.slot)
        journal.forget_attempts()
        if identity is None or kept is None:
            journal.clear()
            return
        one = StreamJournal(journal, identity, stream, kept)
        self._keep(stream, one)

    def recovered(self, saved: SavedSession, stream: Stream, kept: KeptEvents) -> None:
        """The session goes on here, with another generation."""
        journal = self.journal(stream.slot)
        if journal is not None:
            self._keep(stream, StreamJournal.of_saved(journal, saved, stream, kept))

    def survived(self) -> None:
        """This worker has lived for a while with all that it goes on with."""
        for one in tuple(self._by_slot.values()):
            one.survived()

    def forget(self, slot: int) -> None:
        """Nobody goes on with what lies there."""
        journal = self.journal(slot)
        if journal is not None:
            journal.clear()

    def _keep(self, stream: Stream, one: StreamJournal) -> None:
        self._by_slot[stream.slot] = one
        stream.journal = one
        one.rewrite()

    def _detach(self, slot: int) -> None:
        former = self._by_slot.pop(slot, None)
        if former is not None:
            former.detach()
