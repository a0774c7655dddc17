"""A resumable session as bytes: what its journal (protocol/journal.py) holds, and how it is read.
Pure.

A snapshot is everything that a worker's successor has to know; records are what happened since:
events that the client is told, its acknowledgements, controls, checkpoints, and the stable text
that it has seen. journal_writer.py writes them, journal_recovery.py reads what a dead worker left.
What is read is typed, versioned and checked; whatever else lies there is Damage, a value.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from msgspec import structs

from protocol.client_messages import (
    DECODE_ERRORS,
    NUMBERED,
    Closed,
    Error,
    Hello,
    Message,
    Overflow,
    ServerMessage,
    decode_payload,
    encode_payload,
)
from protocol.errors import RemoteProtocolError
from protocol.journal import Contents, Damage
from protocol.service_messages import (
    Checkpoint,
    Close,
    Configure,
    Finalize,
    decode_service_payload,
)

from .recovery import Control, History, SavedHistory, Suspicion

STATE_VERSION = 2  # of everything here; another release's journal is not read


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """What of a session never changes."""

    session_id: str
    hello: Hello  # without its token: secrets are not kept
    secret_hash: bytes  # SHA-256 of the resume token's secret
    token_name: str  # of the access token that it was granted to; "": none
    early_finalizes: int  # answered before there was any audio


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A message of one of the protocols: its type number and its payload there."""

    type: int
    payload: bytes


class Closing(msgspec.Struct, frozen=True, array_like=True):
    """No more audio is taken: why, and how much the client has sent."""

    reason: str
    client_samples: int


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """A session at one moment."""

    version: int
    slot: int
    generation: int
    identity: Identity
    lost_client_samples: int
    finalizes_received: int  # taken in their places, and those before any audio
    closing: Closing | None  # None: audio is still taken
    num_acknowledged: int  # events; the first of `events` has this number
    events: tuple[Packed, ...]
    history: SavedHistory
    controls: tuple[Packed, ...]
    strikes: int
    silent_deaths: int


class Event(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The next numbered event."""

    event: Packed
    num_answers: int  # of finalizes, with this one
    closing: Closing | None = None  # of an end that no Close has announced


class Acknowledged(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The client has so many events."""

    num_events: int


class Controlled(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A control in its place, and how much the client had sent then."""

    control: Packed
    client_samples: int


class Committed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A checkpoint, and where the service was."""

    checkpoint: Checkpoint
    tiled_sample: int
    num_answers: int


class Shown(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Stable text that the client saw."""

    utterance: int
    stable: str


Record: TypeAlias = Event | Acknowledged | Controlled | Committed | Shown

_encoder = msgspec.msgpack.Encoder()
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)
_record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


@dataclass(slots=True)
class SavedSession:
    """A session as its journal has it."""

    slot: int
    generation: int
    identity: Identity
    ring_samples: int
    decoded_samples: int
    lost_client_samples: int
    finalizes_received: int
    closing: Closing | None
    num_acknowledged: int
    events: deque[ServerMessage]
    history: History
    suspicion: Suspicion

    @property
    def is_over(self) -> bool:
        """Nothing is left but events to be acknowledged: it needs no slot any more."""
        return bool(self.events) and isinstance(self.events[-1], Closed | Error)


def encode(what: Snapshot | Record) -> bytes:
    """As the journal keeps it."""
    return _encoder.encode(what)


def pack_event(event: ServerMessage) -> Packed:
    """A numbered event."""
    return Packed(event.TYPE, encode_payload(event))


def pack_control(control: Control) -> Packed:
    """A control; of a successor's stream it has another generation."""
    return Packed(control.TYPE, _encoder.encode(control))


def read_session(contents: Contents, slot: int, capacity_samples: int) -> SavedSession | Damage:
    """The session of this slot, whose ring holds so many samples."""
    try:
        snapshot = _snapshot_decoder.decode(contents.snapshot)
        if snapshot.version != STATE_VERSION:
            return Damage(f"state of version {snapshot.version}")
        session = _begin(snapshot, contents)
        for record in contents.records:
            _replay(session, _record_decoder.decode(record))
    except (*DECODE_ERRORS, RemoteProtocolError, ValueError) as error:
        return Damage(f"state: {error}")
    start = session.history.start_sample
    if session.slot != slot or not start <= session.ring_samples <= start + capacity_samples:
        return Damage(f"slot {session.slot}, samples {start} to {session.ring_samples}")
    return session


def _begin(snapshot: Snapshot, contents: Contents) -> SavedSession:
    snapshot.identity.hello.audio_format()  # raises
    controls = [_unpack_control(packed) for packed in snapshot.controls]
    return SavedSession(
        slot=snapshot.slot,
        generation=snapshot.generation,
        identity=snapshot.identity,
        ring_samples=contents.ring_samples,
        decoded_samples=contents.decoded_samples,
        lost_client_samples=snapshot.lost_client_samples,
        finalizes_received=snapshot.finalizes_received,
        closing=snapshot.closing,
        num_acknowledged=snapshot.num_acknowledged,
        events=deque(_unpack_event(packed) for packed in snapshot.events),
        history=History.restore(snapshot.history, controls),
        suspicion=Suspicion(snapshot.strikes, snapshot.silent_deaths),
    )


def _replay(session: SavedSession, record: Record) -> None:
    if isinstance(record, Event):
        event = _unpack_event(record.event)
        session.events.append(event)
        session.history.heard(event, record.num_answers)
        session.closing = record.closing or session.closing
        if isinstance(event, Overflow):
            session.lost_client_samples += event.num_client_samples
    elif isinstance(record, Acknowledged):
        _acknowledge(session, record.num_events)
    elif isinstance(record, Controlled):
        _control(session, _unpack_control(record.control), record.client_samples)
    elif isinstance(record, Committed):
        session.history.commit_again(record.checkpoint, record.tiled_sample, record.num_answers)
    else:
        session.history.saw(record.utterance, record.stable)


def _acknowledge(session: SavedSession, num_events: int) -> None:
    while session.events and session.num_acknowledged < num_events:
        session.events.popleft()
        session.num_acknowledged += 1


def _control(session: SavedSession, control: Control, client_samples: int) -> None:
    session.history.remember(control)
    if isinstance(control, Finalize):
        session.finalizes_received += 1
    elif isinstance(control, Close):
        session.closing = Closing(control.reason, client_samples)


def _unpack_event(packed: Packed) -> ServerMessage:
    if packed.type not in NUMBERED:
        raise ValueError(f"event of type {packed.type}")
    message: Message | None = decode_payload(packed.type, packed.payload)
    return message  # type: ignore[return-value]  # numbered ones are the server's, and all known


def _unpack_control(packed: Packed) -> Control:
    message = decode_service_payload(packed.type, packed.payload)
    if not isinstance(message, Finalize | Configure | Close):
        raise ValueError(f"control of type {packed.type}")
    return message


def with_generation(control: Control, generation: int) -> Control:
    """The control as one of the stream's later generation."""
    return structs.replace(control, generation=generation)
