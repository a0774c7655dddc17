"""Messages between a client and the gateway: one frozen type each, one table by number.

Audio and watermarks are packed structs, because they are most of the traffic; everything else is
JSON decoded straight into a typed struct, so that a browser or a shell script can speak it. Types
0x01-0x3f travel from client to server, 0x40-0x7f from server to client.

Positions are ring samples (16 kHz, mono) from the start of the stream unless the name says
`client`: those are at the client's own rate. Every event repeats `audio_received` and
`audio_decoded`, what the gateway took and recognition consumed: so nothing is dropped unseen.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

from .audio import MAX_END_OF_TURN_MS as MAX_END_OF_TURN_MS
from .audio import MAX_UTTERANCE_MS, AudioFormat, Encoding
from .errors import ErrorCode, RemoteProtocolError
from .event_parts import Stages as Stages
from .event_parts import Token as Token
from .event_parts import Word as Word
from .framing import CLIENT_MAGIC, MAX_PAYLOAD_BYTES, encode_frame
from .message_types import FROM_CLIENT as FROM_CLIENT
from .message_types import FROM_SERVER as FROM_SERVER
from .message_types import NUMBERED as NUMBERED
from .message_types import Count as Count
from .message_types import Hotword, JsonMessage, Name, Ratio, Secret, Text
from .message_types import LatencyClass as LatencyClass
from .message_types import MessageType as MessageType
from .resume_messages import Ack as Ack
from .resume_messages import Resume as Resume
from .resume_messages import Resumed as Resumed

MAX_CONTROL_BYTES = 64 * 1024  # JSON of one message of a client
MAX_EVENT_BYTES = MAX_PAYLOAD_BYTES  # JSON of one message of the server: a minute, word by word
MAX_AUDIO_BYTES = 256 * 1024  # PCM of one Audio message: 8 s at 16 kHz
AUDIO_PREFIX = struct.Struct("<Q")
MAX_AUDIO_PAYLOAD_BYTES = AUDIO_PREFIX.size + MAX_AUDIO_BYTES
_WATERMARK = struct.Struct("<QQQ")
_NUMBER = struct.Struct("<Q")
# What msgspec raises for hostile bytes; RecursionError: some thousand nested brackets.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

MAX_HOTWORDS = 256


class VadOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Voice activity detection of one session; None keeps the server's default."""

    enabled: bool = True  # False: all audio is one utterance up to the stated maximum
    threshold: Ratio | None = None  # speech probability
    min_speech_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    min_silence_ms: Annotated[int, msgspec.Meta(ge=32, le=10_000)] | None = None  # endpoint
    speech_pad_ms: Annotated[int, msgspec.Meta(ge=0, le=2_000)] | None = None
    max_utterance_ms: Annotated[int, msgspec.Meta(ge=1_000, le=MAX_UTTERANCE_MS)] | None = None
    # patience: silence behind speech after which EndOfTurn comes; None: never
    end_of_turn_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_END_OF_TURN_MS)] | None = None


class Hello(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """First message of a client: who it is, what it sends, what it wants."""

    TYPE: ClassVar[MessageType] = MessageType.HELLO
    token: Secret = ""
    encoding: Encoding = Encoding.PCM_S16LE
    sample_rate_hz: int = 16_000
    channels: int = 1
    language: Name | None = None  # None: the model decides
    model: Name | None = None  # None: the server's default
    prompt: Annotated[str, msgspec.Meta(max_length=2_048)] = ""
    hotwords: Annotated[tuple[Hotword, ...], msgspec.Meta(max_length=MAX_HOTWORDS)] = ()
    translate: bool = False  # the text is English, whatever is spoken; where the model can
    tokens: bool = False  # finals list the model's tokens, where it has them
    partials: bool = True
    hop_ms: Annotated[int, msgspec.Meta(ge=80, le=5_000)] | None = None  # wished partial interval
    vad: VadOptions = VadOptions()
    live: bool = False  # may lose audio rather than be slowed down; overflow then says what
    resumable: bool = False  # the session is to outlive its connection
    client: Name = ""  # for logs: "earwire-python/0.1"

    def audio_format(self) -> AudioFormat:
        """The declared format; raises RemoteProtocolError when it is not supported."""
        try:
            return AudioFormat(self.encoding, self.sample_rate_hz, self.channels)
        except ValueError as error:
            raise RemoteProtocolError(ErrorCode.UNSUPPORTED_FORMAT, str(error)) from None


@dataclass(frozen=True, slots=True)
class Audio:
    """PCM, with the client sample at which it begins (u64 little-endian, then the bytes)."""

    TYPE: ClassVar[MessageType] = MessageType.AUDIO
    client_offset: int
    pcm: bytes


class Finalize(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """End the utterance here; answered by a Final that carries the same `finalize_id`."""

    TYPE: ClassVar[MessageType] = MessageType.FINALIZE
    finalize_id: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered at once by the gateway; `nonce` is opaque (u64)."""

    TYPE: ClassVar[MessageType] = MessageType.PING
    nonce: int


class Bye(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """No more audio: the server sends what is left, then Closed, then ends the connection."""

    TYPE: ClassVar[MessageType] = MessageType.BYE


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the server holds this session to."""

    max_utterance_ms: int
    max_audio_bytes: int = MAX_AUDIO_BYTES
    ring_ms: int  # audio the server buffers before it stops reading
    idle_timeout_ms: int
    resume_window_ms: int = 0  # how long a session waits for its client; 0: it does not


class Started(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The session is admitted; first message of the server."""

    TYPE: ClassVar[MessageType] = MessageType.STARTED
    session_id: str
    model: str
    language: str | None = None
    hop_ms: int
    latency_class: LatencyClass = LatencyClass.FULL
    limits: Limits
    resume_token: str = ""  # a secret: whoever has it may go on with the session


@dataclass(frozen=True, slots=True)
class Watermark:
    """Audio taken and decoded so far; client audio below `client_samples` need not be kept."""

    TYPE: ClassVar[MessageType] = MessageType.WATERMARK
    client_samples: int
    audio_received: int
    audio_decoded: int


class _Event(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    audio_received: Count
    audio_decoded: Count


class SpeechStarted(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """Speech was detected; the utterance begins at `start_sample` (padding included)."""

    TYPE: ClassVar[MessageType] = MessageType.SPEECH_STARTED
    utterance: Count
    start_sample: Count


class SpeechStopped(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """The utterance ends at `end_sample`; its Final follows."""

    TYPE: ClassVar[MessageType] = MessageType.SPEECH_STOPPED
    utterance: Count
    end_sample: Count


class NonSpeech(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """[start, end) holds no speech. Finals and NonSpeech tile the stream without gap or overlap."""

    TYPE: ClassVar[MessageType] = MessageType.NON_SPEECH
    start_sample: Count
    end_sample: Count


class Partial(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """Text of the open utterance: `stable` only grows, `volatile` is replaced each time."""

    TYPE: ClassVar[MessageType] = MessageType.PARTIAL
    utterance: Count
    start_sample: Count
    end_sample: Count  # audio this text was decoded from
    stable: Text
    volatile: Text
    stages: Stages = Stages()


class Final(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """The text of [start, end), for good. `finalize_id` is set when it answers a Finalize."""

    TYPE: ClassVar[MessageType] = MessageType.FINAL
    utterance: Count
    start_sample: Count
    end_sample: Count
    text: Text
    words: tuple[Word, ...] = ()
    tokens: tuple[Token, ...] = ()  # when the hello asked for them
    language: str | None = None
    revised: bool = False  # differs from text that was shown as stable
    finalize_id: int | None = None
    stages: Stages = Stages()

    @property
    def is_empty_answer(self) -> bool:
        """It answers a Finalize that had nothing to end: no utterance's final. Its `utterance` is
        the number of the next one, which may have begun already.
        """
        return self.finalize_id is not None and self.end_sample == self.start_sample


class EndOfTurn(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """Nobody spoke for `end_of_turn_ms` behind `utterance`, which ended at `end_sample`."""

    TYPE: ClassVar[MessageType] = MessageType.END_OF_TURN
    utterance: Count
    end_sample: Count


class Overflow(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """A live session lost these client samples because the server was behind."""

    TYPE: ClassVar[MessageType] = MessageType.OVERFLOW
    first_client_sample: Count
    num_client_samples: Count


class Closed(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The close record: audio counted at the socket, in the ring and in engine.step.

    socket_samples = ring_samples + lost_samples, and ring_samples = engine_samples.
    """

    TYPE: ClassVar[MessageType] = MessageType.CLOSED
    reason: str
    client_samples: Count  # as counted by the client's offsets
    socket_samples: Count  # as delivered by the socket, in ring samples
    ring_samples: Count  # as written to the ring
    engine_samples: Count  # as consumed by engine.step
    lost_samples: Count = 0  # ring samples named in Overflow events


class Error(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The session ends, or was never begun, for this reason."""

    TYPE: ClassVar[MessageType] = MessageType.ERROR
    code: ErrorCode
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to Ping."""

    TYPE: ClassVar[MessageType] = MessageType.PONG
    nonce: int


class Latency(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The session's latency class changed."""

    TYPE: ClassVar[MessageType] = MessageType.LATENCY
    latency_class: LatencyClass
    hop_ms: int


ClientMessage: TypeAlias = Hello | Audio | Finalize | Ping | Bye | Resume | Ack
ServerMessage: TypeAlias = (
    Started
    | Watermark
    | SpeechStarted
    | SpeechStopped
    | NonSpeech
    | Partial
    | Final
    | Overflow
    | Closed
    | Error
    | Pong
    | Latency
    | EndOfTurn
    | Resumed
)
Message: TypeAlias = ClientMessage | ServerMessage

_JSON_TYPES: tuple[type[Any], ...] = (
    Hello, Finalize, Bye, Started, SpeechStarted, SpeechStopped, NonSpeech, Partial, Final,
    Overflow, Closed, Error, Latency, EndOfTurn, Resume, Resumed,
)  # fmt: skip
_JSON_DECODERS: dict[int, msgspec.json.Decoder[Any]] = {
    int(t.TYPE): msgspec.json.Decoder(t) for t in _JSON_TYPES
}
_PACKED: dict[int, tuple[struct.Struct, type[Any]]] = {
    MessageType.PING: (_NUMBER, Ping),
    MessageType.PONG: (_NUMBER, Pong),
    MessageType.ACK: (_NUMBER, Ack),
    MessageType.WATERMARK: (_WATERMARK, Watermark),
}
_json_encoder = msgspec.json.Encoder()


def encode_payload(message: Message) -> bytes:
    """The payload of `message`; its type number is `message.TYPE`."""
    if isinstance(message, Audio):
        return AUDIO_PREFIX.pack(message.client_offset) + message.pcm
    if isinstance(message, Watermark):
        return _WATERMARK.pack(
            message.client_samples, message.audio_received, message.audio_decoded
        )
    if isinstance(message, Ping | Pong):
        return _NUMBER.pack(message.nonce)
    if isinstance(message, Ack):
        return _NUMBER.pack(message.events_received)
    return _json_encoder.encode(message)


def encode_message(message: Message, sequence: int) -> bytes:
    """A whole client-protocol frame."""
    return encode_frame(CLIENT_MAGIC, message.TYPE, sequence, encode_payload(message))


def decode_payload(type_: int, payload: bytes) -> Message | None:
    """The message of a frame, or None for a type this version does not know.

    Raises RemoteProtocolError when the payload is too long or does not decode.
    """
    if type_ == MessageType.AUDIO:
        return _decode_audio(payload)
    limit = MAX_CONTROL_BYTES if type_ in FROM_CLIENT else MAX_EVENT_BYTES
    if len(payload) > limit:
        raise RemoteProtocolError(
            ErrorCode.FRAME_TOO_LARGE,
            f"message of {len(payload)} bytes is over the limit of {limit}",
        )
    packed = _PACKED.get(type_)
    if packed is not None:
        return _decode_packed(*packed, payload)
    decoder = _JSON_DECODERS.get(type_)
    if decoder is None:
        return None
    try:
        message: Message = decoder.decode(payload)
    except DECODE_ERRORS as error:
        raise RemoteProtocolError(
            ErrorCode.BAD_MESSAGE, f"{MessageType(type_).name.lower()}: {error}"
        ) from None
    return message


def _decode_audio(payload: bytes) -> Audio:
    if not AUDIO_PREFIX.size <= len(payload) <= MAX_AUDIO_PAYLOAD_BYTES:
        raise RemoteProtocolError(
            ErrorCode.FRAME_TOO_LARGE if len(payload) > 8 else ErrorCode.BAD_MESSAGE,
            f"audio message of {len(payload)} bytes; "
            f"{AUDIO_PREFIX.size} to {MAX_AUDIO_PAYLOAD_BYTES} are allowed",
        )
    return Audio(AUDIO_PREFIX.unpack_from(payload)[0], payload[AUDIO_PREFIX.size :])


def _decode_packed(layout: struct.Struct, type_: type[Any], payload: bytes) -> Message:
    if len(payload) < layout.size:
        raise RemoteProtocolError(
            ErrorCode.BAD_MESSAGE,
            f"{type_.__name__.lower()} of {len(payload)} bytes; {layout.size} are due",
        )
    message: Message = type_(*layout.unpack_from(payload))
    return message
