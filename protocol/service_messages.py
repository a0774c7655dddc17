"""Messages between a gateway worker and a recognition service, over their Unix socket.

Same framing as the client protocol, magic "ES". One frame per worker per loop turn announces new
audio as N fixed records; the service trusts these counts and reads no shared cursor, so that
memory ordering rests on the socket. Everything else is MessagePack of typed array-like structs.

A stream is (slot, generation) on one link; a link is one worker epoch. A message for an older
generation of a slot is dropped by whoever receives it.

A samples record, little-endian, 32 bytes:

    byte   0       1       2       3       4       5       6       7
         +-------+-------+-------+-------+-------+-------+-------+-------+
       0 |             slot              |          generation           |
         +-------+-------+-------+-------+-------+-------+-------+-------+
       8 |                   first sample (ring position)                |
         +-------+-------+-------+-------+-------+-------+-------+-------+
      16 |        sample count           |        reserved (0)           |
         +-------+-------+-------+-------+-------+-------+-------+-------+
      24 |          time of receipt, monotonic nanoseconds               |
         +-------+-------+-------+-------+-------+-------+-------+-------+
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import msgspec

from .client_messages import DECODE_ERRORS, LatencyClass, Stages, Token, VadOptions, Word
from .errors import ErrorCode, RemoteProtocolError
from .framing import MAX_PAYLOAD_BYTES, SERVICE_MAGIC, encode_frame

CHECKPOINT_VERSION = 5
MAX_CHECKPOINT_BYTES = 64 * 1024
SAMPLES_RECORD = struct.Struct("<IIQIIQ")
MAX_SAMPLES_RECORDS = MAX_PAYLOAD_BYTES // SAMPLES_RECORD.size

Opaque: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=MAX_CHECKPOINT_BYTES)]


class ServiceMessageType(int, Enum):
    """The type byte. 0x01-0x3f: gateway to service; 0x40-0x7f: service to gateway."""

    OPEN = 0x01
    SAMPLES = 0x02
    FINALIZE = 0x03
    CLOSE = 0x04
    CONFIGURE = 0x05
    LEAVE = 0x06
    SPEECH_STARTED = 0x40
    SPEECH_STOPPED = 0x41
    NON_SPEECH = 0x42
    PARTIAL = 0x43
    FINAL = 0x44
    CREDIT = 0x45
    CHECKPOINT = 0x46
    CLOSED = 0x47
    STREAM_ERROR = 0x48
    HEALTH = 0x49
    END_OF_TURN = 0x4A
    LEFT = 0x4B
    PACE = 0x4C


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    TYPE: ClassVar[ServiceMessageType]


class Open(_Packed, frozen=True, array_like=True):
    """A stream begins at `first_sample`; above 0 it goes on from `checkpoint`."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.OPEN
    slot: int
    generation: int
    session_id: str
    first_sample: int = 0
    checkpoint: Opaque = b""
    language: str | None = None
    model: str | None = None
    prompt: str = ""
    hotwords: tuple[str, ...] = ()
    tokens: bool = False
    partials: bool = True
    hop_ms: int = 0  # 0: the service's default
    vad: VadOptions = VadOptions()  # at `first_sample`
    alone: bool = False  # a suspect: give it steps of its own until one has succeeded
    group: int = 0  # streams of one token have one: groups share the drafts that there is time for
    translate: bool = False
    was_admitted: bool = False  # before this service was there: what it cannot do is left out


class SamplesRecord(NamedTuple):
    """`num_samples` ring samples from `first_sample` on are in the slot's ring now."""

    slot: int
    generation: int
    first_sample: int
    num_samples: int
    receive_ns: int


class Finalize(_Packed, frozen=True, array_like=True):
    """End the utterance at `at_sample`; all audio before it has been announced."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.FINALIZE
    slot: int
    generation: int
    finalize_id: int
    at_sample: int


class Close(_Packed, frozen=True, array_like=True):
    """No audio after `at_sample`: decode what is left, send the finals, then Closed."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.CLOSE
    slot: int
    generation: int
    at_sample: int
    reason: str = ""


class Configure(_Packed, frozen=True, array_like=True):
    """From `at_sample` on these VAD options hold; an utterance open there ends there."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.CONFIGURE
    slot: int
    generation: int
    at_sample: int
    vad: VadOptions


class Leave(_Packed, frozen=True, array_like=True):
    """The stream is to go on at another service: let go of it where no utterance is open, or
    behind a cut; `at_once`: wherever it is. A Checkpoint and Left answer it."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.LEAVE
    slot: int
    generation: int
    at_once: bool = False


class SpeechStarted(_Packed, frozen=True, array_like=True):
    """See client_messages.SpeechStarted."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.SPEECH_STARTED
    slot: int
    generation: int
    audio_decoded: int
    utterance: int
    start_sample: int


class SpeechStopped(_Packed, frozen=True, array_like=True):
    """See client_messages.SpeechStopped."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.SPEECH_STOPPED
    slot: int
    generation: int
    audio_decoded: int
    utterance: int
    end_sample: int


class NonSpeech(_Packed, frozen=True, array_like=True):
    """[start, end) holds no speech; with the finals these tile the stream."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.NON_SPEECH
    slot: int
    generation: int
    audio_decoded: int
    start_sample: int
    end_sample: int


class Partial(_Packed, frozen=True, array_like=True):
    """Draft of the open utterance, decoded from [start, end)."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.PARTIAL
    slot: int
    generation: int
    audio_decoded: int
    utterance: int
    start_sample: int
    end_sample: int
    stable: str
    volatile: str
    stages: Stages = Stages()


class Final(_Packed, frozen=True, array_like=True):
    """Final text of [start, end); answers `finalize_id` when that is not None."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.FINAL
    slot: int
    generation: int
    audio_decoded: int
    utterance: int
    start_sample: int
    end_sample: int
    text: str
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()
    language: str | None = None
    revised: bool = False
    finalize_id: int | None = None
    stages: Stages = Stages()


class EndOfTurn(_Packed, frozen=True, array_like=True):
    """See client_messages.EndOfTurn."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.END_OF_TURN
    slot: int
    generation: int
    audio_decoded: int
    utterance: int
    end_sample: int


class Credit(_Packed, frozen=True, array_like=True):
    """Ring samples below `released_sample` may be overwritten."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.CREDIT
    slot: int
    generation: int
    audio_decoded: int
    released_sample: int


class Checkpoint(_Packed, frozen=True, array_like=True):
    """What a new service needs to go on from `sample`; `state` is opaque to the gateway.

    `controls` counts the finalizes, options and closes of the stream that were carried out before.
    """

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.CHECKPOINT
    slot: int
    generation: int
    version: int
    sample: int
    state: Opaque
    controls: int = 0


class Pace(_Packed, frozen=True, array_like=True):
    """What the present load allows this stream; once at its beginning, and when it changes."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.PACE
    slot: int
    generation: int
    latency_class: LatencyClass
    hop_ms: int  # between two partials, if there are any


class StreamClosed(_Packed, frozen=True, array_like=True):
    """Last message of a stream; `engine_samples` is what engine.step consumed of it."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.CLOSED
    slot: int
    generation: int
    engine_samples: int


class Left(_Packed, frozen=True, array_like=True):
    """Last message of a stream that goes on elsewhere, from the Checkpoint before it."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.LEFT
    slot: int
    generation: int


class StreamError(_Packed, frozen=True, array_like=True):
    """This stream cannot go on; the others are not concerned. StreamClosed follows."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.STREAM_ERROR
    slot: int
    generation: int
    code: ErrorCode
    message: str


class Health(_Packed, frozen=True, array_like=True):
    """State of the service; sent at start, and about twice a second."""

    TYPE: ClassVar[ServiceMessageType] = ServiceMessageType.HEALTH
    now_ns: int
    last_step_ns: int  # last recognition step that succeeded, same clock
    step_ms: float  # recent mean of one step
    open_streams: int  # of all workers
    link_streams: int  # of these, of the worker that this report goes to
    max_streams: int  # it has seats for
    hop_ms: int  # partial interval at the present load
    max_utterance_ms: int
    models: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()  # ISO 639-1, of all its models; empty: not known
    bearable_streams: int | None = None  # by what steps take; above it no new ones. None: any
    latency_class: LatencyClass = LatencyClass.FULL  # of the group that is worst off


StreamMessage: TypeAlias = (
    SpeechStarted | SpeechStopped | NonSpeech | Partial | Final | EndOfTurn | Credit | Checkpoint
    | Pace | StreamClosed | Left | StreamError
)  # fmt: skip
ServiceMessage: TypeAlias = Open | Finalize | Close | Configure | Leave | StreamMessage | Health

_TYPES: tuple[type[Any], ...] = (
    Open, Finalize, Close, Configure, Leave, SpeechStarted, SpeechStopped, NonSpeech, Partial,
    Final, EndOfTurn, Credit, Checkpoint, Pace, StreamClosed, Left, StreamError, Health,
)  # fmt: skip
_DECODERS = {int(t.TYPE): msgspec.msgpack.Decoder(t) for t in _TYPES}
_encoder = msgspec.msgpack.Encoder()


def encode_service_message(message: ServiceMessage, sequence: int) -> bytes:
    """A whole frame of any message but SAMPLES."""
    return encode_frame(SERVICE_MAGIC, message.TYPE, sequence, _encoder.encode(message))


def decode_service_payload(type_: int, payload: bytes) -> ServiceMessage | None:
    """The message of a frame other than SAMPLES; None for a type this version does not know.

    Raises RemoteProtocolError when it does not decode.
    """
    decoder = _DECODERS.get(type_)
    if decoder is None:
        return None
    try:
        message: ServiceMessage = decoder.decode(payload)
    except DECODE_ERRORS as error:
        raise RemoteProtocolError(
            ErrorCode.BAD_MESSAGE, f"{ServiceMessageType(type_).name.lower()}: {error}"
        ) from None
    return message


def encode_samples(records: Iterable[SamplesRecord], sequence: int) -> bytes:
    """One SAMPLES frame; at most MAX_SAMPLES_RECORDS records."""
    pack = SAMPLES_RECORD.pack
    payload = b"".join(
        [pack(slot, gen, first, count, 0, ns) for slot, gen, first, count, ns in records]
    )
    return encode_frame(SERVICE_MAGIC, ServiceMessageType.SAMPLES, sequence, payload)


def decode_samples(payload: bytes) -> Iterator[SamplesRecord]:
    """The records of a SAMPLES frame. Raises RemoteProtocolError for a torn record."""
    if len(payload) % SAMPLES_RECORD.size:
        raise RemoteProtocolError(
            ErrorCode.BAD_MESSAGE,
            f"samples of {len(payload)} bytes are not whole {SAMPLES_RECORD.size}-byte records",
        )
    for slot, generation, first, count, _, receive_ns in SAMPLES_RECORD.iter_unpack(payload):
        yield SamplesRecord(slot, generation, first, count, receive_ns)
