"""Deepgram's /v1/listen as data: its messages, how words and results are written, its close codes.

Pure tables and conversions, no state. deepgram.py has the state machine; the pre-recorded dialect
uses what both answers share: words, alternatives, model information.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from statistics import fmean

import msgspec

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Word
from protocol.errors import RETRYABLE, ErrorCode

MODEL_ARCH = "earwire"
MODEL_VERSION = "1"

CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_INTERNAL = 1011
CLOSE_TRY_AGAIN = 1013
IDLE_REASON = "NET-0001"  # neither audio nor KeepAlive came in time
BAD_AUDIO_REASON = "DATA-0000"  # the audio can not be decoded
_NANOSECONDS = 1_000_000_000
_MARKS = "\"'.,;:!?()[]{}<>-–—…¿¡«»„“”‘’、。，！？：；"  # noqa: RUF001  of several scripts


class ClientMessage(msgspec.Struct, gc=False):
    """Any text message of a client."""

    type: str
    channel: int | list[int] | None = None  # Finalize


class _Message(msgspec.Struct, tag_field="type", kw_only=True, omit_defaults=True):
    pass


class WordItem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One word; times in seconds of the stream."""

    word: str
    start: float
    end: float
    confidence: float
    punctuated_word: str | msgspec.UnsetType = msgspec.UNSET  # when formatting is asked for
    language: str | msgspec.UnsetType = msgspec.UNSET


class Alternative(msgspec.Struct, kw_only=True):
    """What was said. All three keys are always there: clients index them."""

    transcript: str
    confidence: float  # 0 where it is not known
    words: tuple[WordItem, ...]
    languages: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET  # of language=multi


class Channel(msgspec.Struct, kw_only=True):
    """There is always one alternative."""

    alternatives: tuple[Alternative, ...]


class ModelInfo(msgspec.Struct, kw_only=True):
    """Which model made a result."""

    name: str
    version: str = MODEL_VERSION
    arch: str = MODEL_ARCH


class ResultMetadata(msgspec.Struct, kw_only=True):
    """The same in every result of a session."""

    request_id: str
    model_info: ModelInfo
    model_uuid: str


class Results(_Message, tag="Results", kw_only=True, omit_defaults=False):
    """Text of [start, start + duration) seconds: a draft, or for good when `is_final`."""

    channel_index: tuple[int, int]  # which, of how many
    duration: float
    start: float
    is_final: bool
    speech_final: bool  # a pause, or the end of the audio, ended the speech
    from_finalize: bool  # the answer to Finalize
    channel: Channel
    metadata: ResultMetadata


class SpeechStarted(_Message, tag="SpeechStarted", kw_only=True):
    """Somebody began to speak at `timestamp` seconds."""

    channel: tuple[int, int]
    timestamp: float


class UtteranceEnd(_Message, tag="UtteranceEnd", kw_only=True):
    """Nobody has spoken for utterance_end_ms."""

    channel: tuple[int, int]
    last_word_end: float


class Metadata(_Message, tag="Metadata", kw_only=True, omit_defaults=False):
    """The last message of a session."""

    transaction_key: str = "deprecated"
    request_id: str
    sha256: str  # of the audio as it was received
    created: str
    duration: float
    channels: int
    models: tuple[str, ...]
    model_info: dict[str, ModelInfo]  # by the ids in `models`


class ConfigureFailure(_Message, tag="ConfigureFailure", kw_only=True):
    """A session's settings stay as they are."""

    request_id: str
    code: str
    description: str


class ErrorMessage(_Message, tag="Error", kw_only=True):
    """Something went wrong; when it was fatal the close follows."""

    variant: str
    description: str
    message: str | msgspec.UnsetType = msgspec.UNSET  # SchemaError: what the client sent


def close_of(code: ErrorCode, message: str) -> tuple[int, str]:
    """The close code and reason for an error that ended the session."""
    if code is ErrorCode.IDLE_TIMEOUT:
        return CLOSE_INTERNAL, IDLE_REASON
    if code is ErrorCode.BAD_AUDIO:
        return CLOSE_POLICY, f"{BAD_AUDIO_REASON}: {message}"
    if code in (ErrorCode.INTERNAL, ErrorCode.SERVICE_LOST):
        return CLOSE_INTERNAL, f"{code.value}: {message}"
    return CLOSE_TRY_AGAIN if code in RETRYABLE else CLOSE_POLICY, f"{code.value}: {message}"


def alternative(
    text: str, words: Sequence[Word] = (), *, is_formatted: bool, languages: Sequence[str] = ()
) -> Alternative:
    """A text and its words as this API writes them; `languages` when the client asked for them."""
    return Alternative(
        transcript=text if is_formatted else plain_text(text),
        confidence=round(fmean(word.confidence for word in words), 4) if words else 0.0,
        words=tuple(
            item for item in (_word_item(word, is_formatted, languages) for word in words) if item
        ),
        languages=tuple(languages) or msgspec.UNSET,
    )


def plain_text(text: str) -> str:
    """The words alone: lower case, without the marks around them."""
    return " ".join(filter(None, (plain_word(word) for word in text.split())))


def plain_word(word: str) -> str:
    """One word in lower case, without the marks around it; those inside it stay."""
    return word.strip(_MARKS).lower()


def _word_item(word: Word, is_formatted: bool, languages: Sequence[str]) -> WordItem | None:
    """None for a mark that stands alone, where marks are not asked for."""
    bare = plain_word(word.text)
    if not bare and not is_formatted:
        return None
    return WordItem(
        word=bare or word.text,
        start=seconds(word.start_sample),
        end=seconds(word.end_sample),
        confidence=word.confidence,
        punctuated_word=word.text if is_formatted else msgspec.UNSET,
        language=languages[0] if languages else msgspec.UNSET,
    )


def seconds(samples: int) -> float:
    """Ring samples as seconds."""
    return samples / RING_RATE_HZ


def model_info(name: str) -> ModelInfo:
    """What results say about the model of this name."""
    return ModelInfo(name=name)


def model_uuid(name: str) -> str:
    """An id that is the same for the same model everywhere."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def created(wall_ns: int) -> str:
    """A Unix time as this API writes it."""
    moment = datetime.fromtimestamp(wall_ns / _NANOSECONDS, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
