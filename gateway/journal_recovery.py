"""What a dead worker left in its arena, and its sessions as they go on at the successor. Pure.

The successor calls `recover_sessions` once, before it lets anybody in. Each session that can be
gone on with is a stream again, or, if it had ended already, the events that its client has not
acknowledged. It waits for its client as any session does whose client is away, and for a service
as any stream does that has lost its own.

What cannot be read is dropped and named. So is a session that workers died over again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from protocol.client_messages import Hello
from protocol.journal import Damage, Journal
from protocol.ring import ArenaLayout, Ring
from protocol.service_messages import Close

from .channel import Channel
from .gatekeeper import Gatekeeper
from .journal_state import Closing, SavedSession, read_session, with_generation
from .kept_events import KeptEvents
from .parking import Parking, Resumable
from .recovery import History
from .router import Router
from .stream import Stream
from .stream_ports import Converter, StreamOwner

# Successors that may begin with a session and die before it has a checkpoint, or within this time.
# Fewer than the deaths on the way to Ready after which the server gives up.
MAX_ATTEMPTS = 4
SURVIVED_NS = 10_000_000_000

DIALECT = "native"  # whose sessions are resumable


class RestartedConverter(Converter, Protocol):
    """A converter that goes on where the dead worker's was (resampler.restart_converter)."""

    @property
    def client_samples(self) -> int:
        """Where it begins to listen."""


RestartConverter: TypeAlias = Callable[[Hello, int], RestartedConverter | None]


def recover_sessions(
    sessions: list[SavedSession],
    router: Router,
    parking: Parking,
    gatekeeper: Gatekeeper,
    restart_converter: RestartConverter,
    now_ns: int,
) -> int:
    """Let these wait for their clients; how many do. Whose token is gone is forgotten."""
    num_recovered = 0
    for saved in sessions:
        grant = gatekeeper.readmit(saved.identity.token_name)
        if grant is None:
            router.journals.forget(saved.slot)
            continue
        hello = saved.identity.hello
        channel = Channel(0, hello, grant, gatekeeper, DIALECT, parking)
        kept = KeptEvents(saved.num_acknowledged, saved.events)
        channel.session = Resumable(saved.identity.secret_hash, kept)
        if saved.is_over:
            stream = channel.stream = ended_stream(saved, channel)
            channel.release()
        else:
            generation = router.admission.slots.reclaim(saved.slot, saved.generation)
            ring = router.ring(saved.slot)
            stream = restore_stream(saved, channel, ring, generation, restart_converter)
            channel.stream = stream
            stream.group = channel.group
            router.adopt(stream, now_ns)
        router.journals.recovered(saved, stream, kept)
        router.pump(stream)
        parking.restore(channel, now_ns)
        num_recovered += 1
    return num_recovered


def read_sessions(
    layout: ArenaLayout, arena: memoryview, on_damage: Callable[[int, str], None]
) -> list[SavedSession]:
    """All sessions that can be gone on with, by slot; the others are forgotten and named."""
    sessions = []
    for slot in range(layout.num_slots if layout.journal_bytes else 0):
        journal = Journal(layout.journal(arena, slot))
        found = _read(journal, slot, layout.ring_samples)
        if isinstance(found, SavedSession):
            sessions.append(found)
        elif found is not None:
            journal.clear()
            on_damage(slot, found.reason)
    return sessions


def _read(journal: Journal, slot: int, ring_samples: int) -> SavedSession | Damage | None:
    contents = journal.read()
    if contents is None or isinstance(contents, Damage):
        return contents
    # Counted before anything is done with it: what is wrong with it may end this worker, too.
    if journal.count_attempt() >= MAX_ATTEMPTS:
        return Damage(f"{MAX_ATTEMPTS} workers have died over it")
    return read_session(contents, slot, ring_samples)


def restore_stream(
    saved: SavedSession,
    owner: StreamOwner,
    ring: Ring,
    generation: int,
    restart_converter: RestartConverter,
) -> Stream:
    """The stream as it was, without a service; its client goes on at `client_samples`. To be
    pumped once it has its journal.
    """
    hello = saved.identity.hello
    converter = restart_converter(hello, saved.ring_samples)
    stream = Stream(saved.identity.session_id, hello, owner, converter)
    stream.history = _of_generation(saved.history, generation)
    stream.suspicion = saved.suspicion
    stream.released_samples = stream.history.start_sample
    stream.attach(saved.slot, generation, ring)
    stream.ring_samples = stream.announced_samples = saved.ring_samples
    stream.decoded_samples = min(saved.decoded_samples, saved.ring_samples)
    stream.restored_samples = saved.ring_samples
    stream.lost_client_samples = saved.lost_client_samples
    stream.client_samples = _client_samples(saved, converter)
    stream.num_finalizes = saved.finalizes_received
    num_answered = saved.identity.early_finalizes + stream.history.num_answers
    stream.open_finalizes = saved.finalizes_received - num_answered
    if saved.closing is not None:
        _close_again(stream, saved.closing)
    return stream


def _close_again(stream: Stream, closing: Closing) -> None:
    if any(isinstance(control, Close) for control in stream.history.controls):
        stream.closing = True
        stream.close_reason = closing.reason
        return
    # An error has closed it while audio waited for room, which is lost: the Close that stood
    # behind that audio takes its place at the next pump. Without one it would never end.
    stream.abandoned = True
    stream.close(closing.reason)


def ended_stream(saved: SavedSession, owner: StreamOwner) -> Stream:
    """A stream that had ended, and says how much its client had sent. It has no slot: its client
    may still have to hear of the end.
    """
    stream = Stream(saved.identity.session_id, saved.identity.hello, owner, None)
    stream.slot, stream.generation = saved.slot, saved.generation
    stream.history = saved.history
    stream.ring_samples = saved.ring_samples
    stream.client_samples = _client_samples(saved, None)
    stream.num_finalizes = saved.finalizes_received
    stream.closing = stream.ended = True
    return stream


def _client_samples(saved: SavedSession, converter: RestartedConverter | None) -> int:
    """Where the client's next audio begins, or where it ended."""
    if saved.closing is not None:
        return saved.closing.client_samples
    if converter is not None:
        return converter.client_samples
    return saved.ring_samples + saved.lost_client_samples


def _of_generation(history: History, generation: int) -> History:
    controls = [with_generation(control, generation) for control in history.controls]
    return History.restore(history.save(), controls)
