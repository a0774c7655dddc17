"""Deepgram's query parameters as data: what a client of /v1/listen asks for in the URL.

Pure conversions, no state; the two Deepgram dialects are the only callers. Booleans are "true" and
"false", lists are repeated keys, unknown keys are ignored, and a number that makes no sense is
clamped or left at its default. What would make the transcript wrong, or show what it was asked to
hide, is refused: a Refusal's text is for the client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.audio import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from protocol.client_messages import MAX_END_OF_TURN_MS, VadOptions

from .hello_fields import fitting_hotwords, name_of
from .raw_audio import Coding

Query = Mapping[str, list[str]]

# Shorter pauses lie inside sentences, and a model that hears a sentence in bits writes it worse.
# Clients ask for 10 or 25 ms, which Deepgram's own model can bear. Word errors of tiny.en over 64 s
# of reading: 5.1 % at 32 ms, 2.6 % at 200 ms, 1.3 % at 300 ms and at the server's own 352 ms.
MIN_ENDPOINTING_MS = 300
MAX_ENDPOINTING_MS = 10_000
TELEPHONE_RATE_HZ = 8_000

_RAW = {coding.value: coding for coding in Coding}
_CONTAINERS = ("opus", "ogg-opus", "webm", "flac")
_TELEPHONE = (Coding.ULAW, Coding.ALAW)


@dataclass(frozen=True, slots=True)
class Refusal:
    """This request can not be served; why, for its author."""

    message: str


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When a pause ends an utterance, and whether results say so."""

    min_silence_ms: int | None  # None: the server's default
    is_reported: bool  # speech_final


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """What the client sends. Without a coding it is a container, which says everything itself."""

    coding: Coding | None = None
    sample_rate_hz: int = 0
    channels: int = 1
    is_split: bool = False  # a stream for each channel


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What the query says about a live session."""

    audio: AudioOptions
    model: str | None
    language: str | None
    is_multilingual: bool  # the client wants to know which language it was
    hotwords: tuple[str, ...]
    interim_results: bool
    is_formatted: bool
    endpointing: Endpointing
    utterance_end_ms: int | None
    vad_events: bool

    def vad(self) -> VadOptions:
        """The same in the stream's terms."""
        return VadOptions(
            min_silence_ms=self.endpointing.min_silence_ms, end_of_turn_ms=self.utterance_end_ms
        )


def listen_options(query: Query) -> ListenOptions | Refusal:
    """Everything a live session needs of the query."""
    audio = _audio(query)
    if isinstance(audio, Refusal):
        return audio
    refused = unsafe_option(query)
    if refused is not None:
        return refused
    language = value(query, "language")
    return ListenOptions(
        audio=audio,
        model=name_of(value(query, "model")),
        language=language_of(query),
        is_multilingual=language == "multi",
        hotwords=hotwords_of(query),
        interim_results=flag(query, "interim_results"),
        is_formatted=wants_formatting(query),
        endpointing=_endpointing(value(query, "endpointing")),
        utterance_end_ms=_milliseconds(value(query, "utterance_end_ms"), 0, MAX_END_OF_TURN_MS),
        vad_events=flag(query, "vad_events"),
    )


def value(query: Query, name: str) -> str | None:
    """The last value of a parameter; None when it is absent or empty."""
    values = query.get(name)
    return values[-1] or None if values else None


def flag(query: Query, name: str) -> bool:
    """A boolean parameter; absent is false."""
    return (value(query, name) or "").lower() == "true"


def wants_formatting(query: Query) -> bool:
    """Capitals and punctuation; without them this API's words are bare."""
    return flag(query, "punctuate") or flag(query, "smart_format") or flag(query, "dictation")


def language_of(query: Query) -> str | None:
    """The language to recognise; None leaves it to the model."""
    language = value(query, "language")
    return None if language in (None, "multi") or detects(query) else name_of(language)


def detects(query: Query) -> bool:
    """The client wants the language to be found out (or one of those it lists)."""
    return value(query, "detect_language") not in (None, "false")


def hotwords_of(query: Query) -> tuple[str, ...]:
    """keyterm, and keywords without their weights; those with a negative one are no hotwords."""
    found = dict.fromkeys(query.get("keyterm", ()))
    for keyword in query.get("keywords", ()):
        word, _, weight = keyword.partition(":")
        if not weight.startswith("-"):
            found[word] = None
    return fitting_hotwords(found)


def unsafe_option(query: Query) -> Refusal | None:
    """What must not be ignored, and can not be done."""
    redacted = [name for name in query.get("redact", ()) if name not in ("", "false")]
    if redacted:
        return Refusal("redact: this server can not hide anything in a transcript")
    return None


def _audio(query: Query) -> AudioOptions | Refusal:
    encoding = value(query, "encoding")
    channels = _whole_number(value(query, "channels") or "1")
    is_split = flag(query, "multichannel")
    if channels is None or not 1 <= channels <= MAX_CHANNELS:
        return Refusal(f"channels: 1 to {MAX_CHANNELS} are supported")
    if encoding is None or encoding in _CONTAINERS:
        if is_split and value(query, "channels") != "1":  # absent: as many as the container has
            return Refusal("multichannel needs raw audio: a container's channels are mixed here")
        return AudioOptions()
    coding = _RAW.get(encoding)
    if coding is None:
        known = ", ".join((*_RAW, *_CONTAINERS))
        return Refusal(f"encoding {encoding[:64]!r} is not supported; there is {known}")
    rate_hz = _rate_hz(value(query, "sample_rate"), coding)
    if rate_hz is None:
        return Refusal(f"sample_rate is needed with {encoding}: {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    return AudioOptions(coding, rate_hz, channels, is_split)


def _rate_hz(text: str | None, coding: Coding) -> int | None:
    if text is None:
        return TELEPHONE_RATE_HZ if coding in _TELEPHONE else None
    rate_hz = _whole_number(text)
    return rate_hz if rate_hz is not None and MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ else None


def _endpointing(text: str | None) -> Endpointing:
    if text in ("false", "0"):
        return Endpointing(None, is_reported=False)
    return Endpointing(
        _milliseconds(text, MIN_ENDPOINTING_MS, MAX_ENDPOINTING_MS), is_reported=True
    )


def _milliseconds(text: str | None, low: int, high: int) -> int | None:
    number = _whole_number(text or "")
    return None if number is None else min(max(number, low), high)


def _whole_number(text: str) -> int | None:
    """Decimal digits only, and few enough for int() to be quick."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
