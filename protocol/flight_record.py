"""A flight record: the last seconds of one stream as a file, written by a gateway, read by
`earwire replay`. Pure: bytes in, bytes out.

    byte    0        8        10       12       16
          +--------+--------+--------+--------+------------------+---------------------+
          |"EWFLIGHT"|version| zero   |head len| head, MessagePack | s16le, 16 kHz, mono |
          +--------+--------+--------+--------+------------------+---------------------+

All little-endian; the samples go on to the end of the file. The head is a map of named fields, so
that a reader ignores what a later writer adds. Events are kept as the native protocol has them:
type and payload. The file may come from a stranger: everything is checked, nothing in it is code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, TypeAlias

import msgspec

from .audio import RING_SAMPLE_BYTES
from .client_messages import DECODE_ERRORS, Count, Hello, Message, VadOptions, decode_payload
from .errors import EarwireError, RemoteProtocolError
from .ring import MAX_RING_SAMPLES

MAGIC = b"EWFLIGHT"
VERSION = 1
SUFFIX = ".flight"  # of file names
# Voice activity is detected in frames counted from a stream's beginning: a record begins with a
# whole one, so that a new stream made of it has the same frames.
GRID_SAMPLES = 512
MAX_HEAD_BYTES = 4 * 1024 * 1024
_PREFIX = struct.Struct("<8sHHI")
MAX_RECORD_BYTES = _PREFIX.size + MAX_HEAD_BYTES + MAX_RING_SAMPLES * RING_SAMPLE_BYTES

ShortText: TypeAlias = Annotated[str, msgspec.Meta(max_length=4_096)]


class FlightRecordError(EarwireError):
    """This is no flight record, or a broken one; the text says what is wrong."""


class Reason(str, Enum):
    """Why a record was made."""

    LAG = "lag"  # text came late after its audio
    MISMATCH = "accounting_mismatch"  # the three counts of the close record differ
    EMPTY_FINAL = "empty_final"  # speech, and no word of it
    REPEATED_WORDS = "repeated_words"  # a final that goes round in circles
    SERVICE_LOST = "service_lost"  # the recognition process died


class RecognitionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the server that decide what is recognised; named as `earwire serve` has them."""

    model: ShortText
    engine: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp16", "fp32"] = "auto"
    vad: bool = True
    hop_ms: int
    guard_ms: int
    draft: Literal["incremental", "window"] = "incremental"
    window_s: int
    hotword_weight: float
    max_utterance_ms: int


class RecordedControl(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the client asked for at this place of its audio: one of the three."""

    at_sample: Count
    finalize_id: int | None = None
    vad: VadOptions | None = None  # new options from here on
    close_reason: ShortText | None = None


class RecordedEvent(msgspec.Struct, frozen=True, array_like=True):
    """What the client was told, as a message of the native protocol."""

    time_ns: int  # monotonic clock of the gateway's machine
    type: Annotated[int, msgspec.Meta(ge=0, le=255)]
    payload: bytes


class FlightHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of the stream beside its audio. Positions are samples of the stream."""

    reason: Reason
    detail: ShortText = ""
    session_id: ShortText
    dialect: ShortText
    saved_ns: int  # the clock of the events
    saved_wall_ns: Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # Unix time
    hello: Hello  # without its token
    vad: VadOptions  # in force at `first_sample`
    server: RecognitionSettings
    first_sample: Count  # of the audio in this file
    num_samples: Annotated[int, msgspec.Meta(ge=0, le=MAX_RING_SAMPLES)]
    overwritten_samples: Count = 0  # before it, wanted, and not in the ring any more
    decoded_samples: Count = 0
    client_samples: Count = 0  # delivered by the socket, at the client's rate
    lost_client_samples: Count = 0  # of these, dropped and announced
    controls: tuple[RecordedControl, ...] = ()
    events: tuple[RecordedEvent, ...] = ()
    num_events_dropped: Count = 0  # older ones, for which there was no room


@dataclass(frozen=True, slots=True)
class FlightRecord:
    """A whole file."""

    head: FlightHead
    pcm: bytes | memoryview

    @property
    def end_sample(self) -> int:
        """Behind the last sample of the file."""
        return self.head.first_sample + self.head.num_samples

    def events(self) -> Iterator[tuple[int, Message]]:
        """Times and messages; types that this version does not know are left out.

        Raises FlightRecordError.
        """
        for event in self.head.events:
            try:
                message = decode_payload(event.type, event.payload)
            except RemoteProtocolError as error:
                raise FlightRecordError(f"an event in it does not decode: {error}") from None
            if message is not None:
                yield event.time_ns, message


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FlightHead)


def encode_head(head: FlightHead) -> bytes:
    """Everything before the samples."""
    data = _encoder.encode(head)
    if len(data) > MAX_HEAD_BYTES:
        raise AssertionError(f"the head of a flight record has {len(data)} bytes")
    return _PREFIX.pack(MAGIC, VERSION, 0, len(data)) + data


def decode_record(data: bytes) -> FlightRecord:
    """The record in a file. Raises FlightRecordError for anything else."""
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise FlightRecordError("this is not a flight record")
    _, version, _, num_head_bytes = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise FlightRecordError(f"version {version} is not known here; {VERSION} is")
    end = _PREFIX.size + num_head_bytes
    if num_head_bytes > MAX_HEAD_BYTES or end > len(data):
        raise FlightRecordError("the file is cut off, or its head is too long")
    try:
        head = _decoder.decode(memoryview(data)[_PREFIX.size : end])
    except DECODE_ERRORS as error:
        raise FlightRecordError(f"its head does not decode: {error}") from None
    pcm = memoryview(data)[end:]
    if len(pcm) != head.num_samples * RING_SAMPLE_BYTES:
        raise FlightRecordError(
            f"it holds {len(pcm)} bytes of audio; {head.num_samples} samples are due"
        )
    return FlightRecord(head, pcm)
