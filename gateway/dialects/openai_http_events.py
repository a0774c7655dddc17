"""OpenAI's POST /v1/audio/transcriptions as data: what a form asks for, errors, answers' fields.

Pure tables and conversions, no state; openai_http.py and transcript_formats.py are the callers.
What OpenAI's server would refuse is refused; what it knows and this one does not (include[],
chunking_strategy, known_speaker_names[] and the like) is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from protocol.client_messages import Error, Hello
from protocol.errors import ErrorCode

from ..http import error_body
from .hello_fields import MAX_PROMPT_CHARS, fitting_hotwords, name_of
from .http_errors import status_of

MAX_TEMPERATURE = 1.0

INVALID = "invalid_request_error"
_SERVER = "server_error"


class Format(Enum):
    """response_format."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"


class Granularity(Enum):
    """timestamp_granularities[]."""

    WORD = "word"
    SEGMENT = "segment"


@dataclass(frozen=True, slots=True)
class FormRefused:
    """A field that cannot be served."""

    message: str
    param: str


@dataclass(frozen=True, slots=True)
class TranscriptionOptions:
    """What a form asks for."""

    model: str | None
    language: str | None
    prompt: str
    hotwords: tuple[str, ...]
    format: Format
    is_streamed: bool
    temperature: float
    granularities: frozenset[Granularity]
    translates: bool = False

    def hello(self, token: str) -> Hello:
        """The same in the stream's terms."""
        return Hello(
            token=token,
            model=self.model,
            language=self.language,
            prompt=self.prompt,
            hotwords=self.hotwords,
            translate=self.translates,
            partials=False,
            client="openai_http",
        )


Fields = Mapping[str, Sequence[str]]


def options_of(fields: Fields, *, translates: bool = False) -> TranscriptionOptions | FormRefused:
    """What a form's fields, by name and in order, ask for. The last of a name counts."""
    try:
        return TranscriptionOptions(
            model=name_of(_last(fields, "model")),
            language=name_of(_last(fields, "language")),
            prompt=_last(fields, "prompt")[-MAX_PROMPT_CHARS:],  # what is nearest to the audio
            hotwords=_hotwords(_all(fields, "keywords")),
            format=_format(_last(fields, "response_format")),
            is_streamed=_last(fields, "stream").lower() in ("true", "1"),
            temperature=_temperature(_last(fields, "temperature")),
            granularities=_granularities(_all(fields, "timestamp_granularities")),
            translates=translates,
        )
    except _RefusedError as refused:
        return FormRefused(refused.message, refused.param)


class _RefusedError(Exception):
    """Internal: becomes a FormRefused."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(param, message)
        self.param = param
        self.message = message


def _all(fields: Fields, name: str) -> list[str]:
    """Arrays come with brackets from OpenAI's SDKs and without from curl's users."""
    return [value for key in (name, f"{name}[]") for value in fields.get(key, ()) if value]


def _last(fields: Fields, name: str) -> str:
    values = fields.get(name)
    return values[-1].strip() if values else ""


def _hotwords(values: list[str]) -> tuple[str, ...]:
    """One a field, or several with commas between."""
    return fitting_hotwords(word.strip() for value in values for word in value.split(","))


def _format(value: str) -> Format:
    try:
        return Format(value or Format.JSON.value)
    except ValueError:
        known = ", ".join(item.value for item in Format)
        message = f"response_format {value[:64]!r} is not supported; there is {known}"
        raise _RefusedError("response_format", message) from None


def _granularities(values: list[str]) -> frozenset[Granularity]:
    try:
        return frozenset(map(Granularity, values)) or frozenset({Granularity.SEGMENT})
    except ValueError:
        message = "timestamp_granularities[] are word and segment"
        raise _RefusedError("timestamp_granularities", message) from None


def _temperature(value: str) -> float:
    try:
        temperature = float(value or 0.0)
    except ValueError:
        temperature = -1.0
    if not 0.0 <= temperature <= MAX_TEMPERATURE:
        raise _RefusedError("temperature", f"temperature is a number from 0 to {MAX_TEMPERATURE:g}")
    return temperature


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What an error body says besides its message."""

    type: str
    code: str | None
    param: str | None = None


_BY_STATUS = {
    401: ErrorKind(INVALID, "invalid_api_key"),
    408: ErrorKind(INVALID, "timeout"),
    413: ErrorKind(INVALID, "file_too_large", "file"),
    429: ErrorKind("rate_limit_error", "rate_limit_exceeded"),
    500: ErrorKind(_SERVER, "internal_error"),
    503: ErrorKind(_SERVER, "service_unavailable"),
}
_BY_CODE = {
    ErrorCode.BAD_AUDIO: ErrorKind(INVALID, "invalid_file_format", "file"),
    ErrorCode.UNKNOWN_MODEL: ErrorKind(INVALID, "model_not_found", "model"),
    ErrorCode.UNKNOWN_LANGUAGE: ErrorKind(INVALID, "unsupported_language", "language"),
}


def error_reply(status: int, message: str, kind: ErrorKind | None = None) -> bytes:
    """http.ErrorBody of this API; without a kind, that of the status."""
    kind = kind or _BY_STATUS.get(status, ErrorKind(INVALID, None))
    return error_body(message, kind.type, kind.code, kind.param)


def session_error(error: Error) -> bytes:
    """The body for one of ours."""
    return error_reply(status_of(error.code), error.message, _BY_CODE.get(error.code))


class Usage(msgspec.Struct, kw_only=True):
    """What was consumed."""

    type: str = "duration"
    seconds: float


class Transcription(msgspec.Struct, kw_only=True):
    """json."""

    text: str
    usage: Usage


class WordItem(msgspec.Struct, kw_only=True):
    """Times in seconds of the file."""

    word: str
    start: float
    end: float


class Segment(msgspec.Struct, kw_only=True):
    """One final; seek, no_speech_prob and tokens are Whisper's own and say nothing here."""

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float = 0.0


class VerboseTranscription(msgspec.Struct, kw_only=True):
    """verbose_json; words and segments are there when they were asked for."""

    task: str
    language: str
    duration: float
    text: str
    words: tuple[WordItem, ...] | msgspec.UnsetType = msgspec.UNSET
    segments: tuple[Segment, ...] | msgspec.UnsetType = msgspec.UNSET
    usage: Usage


class _StreamEvent(msgspec.Struct, tag_field="type", kw_only=True):
    pass


class TextDelta(_StreamEvent, tag="transcript.text.delta", kw_only=True):
    """More text; all of them together are the transcript."""

    delta: str


class TextDone(_StreamEvent, tag="transcript.text.done", kw_only=True):
    """The whole text."""

    text: str
    usage: Usage
