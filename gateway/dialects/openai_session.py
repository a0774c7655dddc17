"""The settings of an OpenAI Realtime session: what a client may change, and what it means here.

Pure data and conversions. A Settings is frozen; an update makes another one of it: what is absent
stays, null switches off. Both shapes of the API are read (GA's nested `audio.input`, the beta's
flat keys), in whichever event they come, and both are written. openai_realtime.py owns the present
settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import msgspec

from protocol.audio import MAX_RATE_HZ, MIN_RATE_HZ
from protocol.client_messages import Hello, VadOptions

from .hello_fields import MAX_NAME_CHARS, MAX_PROMPT_CHARS, fitting_hotwords, name_of
from .raw_audio import Coding

PCM_RATE_HZ = 24_000  # of audio/pcm where no rate is said; GA has no other
G711_RATE_HZ = 8_000

Field: TypeAlias = "str | msgspec.UnsetType | None"


@dataclass(frozen=True, slots=True)
class Format:
    """One audio format by its two names."""

    type: str  # GA
    beta: str
    coding: Coding
    rate_hz: int


PCM = Format("audio/pcm", "pcm16", Coding.LINEAR16, PCM_RATE_HZ)
_FORMATS = (
    PCM,
    Format("audio/pcmu", "g711_ulaw", Coding.ULAW, G711_RATE_HZ),
    Format("audio/pcma", "g711_alaw", Coding.ALAW, G711_RATE_HZ),
)
_BY_NAME = {name: known for known in _FORMATS for name in (known.type, known.beta)}

Detection: TypeAlias = dict[str, Any]  # as the API shows it, complete; None stands for null
_SERVER_VAD: Detection = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
}
_LIMITS = {
    "threshold": (0.0, 1.0),
    "prefix_padding_ms": (0, 2_000),
    "silence_duration_ms": (32, 10_000),
}
# How long semantic_vad waits after the last word. It does not weigh the words here: eagerness is
# patience alone.
_SEMANTIC_SILENCE_MS = {"low": 1_500, "medium": 800, "auto": 800, "high": 400}


class TranscriptionUpdate(msgspec.Struct):
    """`transcription` of GA, `input_audio_transcription` of the beta."""

    model: Field = msgspec.UNSET
    language: Field = msgspec.UNSET
    prompt: Field = msgspec.UNSET
    languages: list[str] | None = None
    keywords: list[str] | msgspec.UnsetType | None = msgspec.UNSET


class FormatUpdate(msgspec.Struct):
    """GA's `format`."""

    type: str = PCM.type
    rate: int | None = None


class InputUpdate(msgspec.Struct):
    """GA's `audio.input`."""

    format: FormatUpdate | str | None = None
    transcription: TranscriptionUpdate | msgspec.UnsetType | None = msgspec.UNSET
    turn_detection: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class AudioUpdate(msgspec.Struct):
    """GA's `audio`."""

    input: InputUpdate | None = None


class SessionUpdate(msgspec.Struct):
    """The `session` of an update, in either shape; other keys are ignored."""

    audio: AudioUpdate | None = None
    input_audio_format: str | None = None
    input_audio_transcription: TranscriptionUpdate | msgspec.UnsetType | None = msgspec.UNSET
    turn_detection: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET

    def parts(self) -> InputUpdate:
        """Both shapes as one; GA's wins."""
        nested = self.audio.input if self.audio is not None else None
        nested = nested or InputUpdate()
        given = nested.transcription
        detection = nested.turn_detection
        return InputUpdate(
            nested.format or self.input_audio_format,
            self.input_audio_transcription if given is msgspec.UNSET else given,
            self.turn_detection if detection is msgspec.UNSET else detection,
        )


class UnsupportedFormat(ValueError):
    """The text of it is for the client."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a session."""

    format: Format = PCM
    model: str | None = None  # as asked for
    language: str | None = None
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    detection: Detection | None = field(default_factory=lambda: dict(_SERVER_VAD))
    live_deltas: bool = True  # while it is spoken; else with the final, and then of its words
    refuses_empty_commits: bool = False  # as OpenAI does, whose clients connect again after it

    @classmethod
    def of_query(cls, query: Mapping[str, list[str]]) -> Settings:
        """What a URL may say before the first update: the last two, for good."""
        return cls(
            model=name_of(_value(query, "model")),
            language=_language_of(_value(query, "language")),
            live_deltas=_value(query, "deltas") != "final",
            refuses_empty_commits=_value(query, "empty_commit") == "error",
        )

    def updated(self, update: SessionUpdate) -> Settings:
        """These settings with the update's changes. Raises UnsupportedFormat."""
        parts = update.parts()
        settings = self._with_transcription(parts.transcription)
        if parts.format is not None:
            settings = replace(settings, format=_format_of(parts.format))
        if parts.turn_detection is not msgspec.UNSET:
            detection = _detection_of(parts.turn_detection, self.detection)
            settings = replace(settings, detection=detection)
        return settings

    def _with_transcription(
        self, update: TranscriptionUpdate | msgspec.UnsetType | None
    ) -> Settings:
        if update is msgspec.UNSET:
            return self
        if update is None:
            return replace(self, model=None, language=None, prompt="", keywords=())
        language = update.language
        if language is msgspec.UNSET and update.languages and len(update.languages) == 1:
            language = update.languages[0]
        keywords = self.keywords
        if update.keywords is not msgspec.UNSET:
            keywords = fitting_hotwords(update.keywords or ())
        return replace(
            self,
            model=self.model if update.model is msgspec.UNSET else name_of(update.model),
            language=self.language if language is msgspec.UNSET else _language_of(language),
            prompt=self.prompt if update.prompt is msgspec.UNSET else _prompt_of(update.prompt),
            keywords=keywords,
        )

    @property
    def vad(self) -> VadOptions:
        """Turn detection in the stream's terms."""
        if self.detection is None:
            return VadOptions(enabled=False)
        if self.detection["type"] == "semantic_vad":
            return VadOptions(min_silence_ms=_SEMANTIC_SILENCE_MS[self.detection["eagerness"]])
        return VadOptions(
            threshold=self.detection["threshold"],
            min_silence_ms=self.detection["silence_duration_ms"],
            speech_pad_ms=self.detection["prefix_padding_ms"],
        )

    def hello(self, token: str) -> Hello:
        """What the stream is opened with."""
        return Hello(
            token=token,
            sample_rate_hz=self.format.rate_hz,
            language=self.language,
            model=self.model,
            prompt=self.prompt,
            hotwords=self.keywords,
            partials=self.live_deltas,
            vad=self.vad,
            client="openai",
        )

    def session_object(self, session_id: str, model: str | None) -> dict[str, Any]:
        """The `session` of session.created and session.updated; `model` is the one that serves."""
        audio_format: dict[str, Any] = {"type": self.format.type}
        if self.format.type == PCM.type:
            audio_format["rate"] = self.format.rate_hz
        return {
            "type": "transcription",
            "id": session_id,
            "object": "realtime.transcription_session",
            "audio": {
                "input": {
                    "format": audio_format,
                    "transcription": self._transcription(model),
                    "noise_reduction": None,
                    "turn_detection": self.detection,
                }
            },
        }

    def beta_session_object(self, session_id: str, model: str | None) -> dict[str, Any]:
        """The `session` of transcription_session.updated."""
        return {
            "id": session_id,
            "object": "realtime.transcription_session",
            "input_audio_format": self.format.beta,
            "input_audio_transcription": self._transcription(model),
            "input_audio_noise_reduction": None,
            "turn_detection": self.detection,
        }

    def _transcription(self, model: str | None) -> dict[str, Any]:
        return {"model": model, "language": self.language, "prompt": self.prompt}


def _language_of(text: str | None) -> str | None:
    """None, which "auto" means too, lets the model decide."""
    return None if text == "auto" else name_of(text)


def _prompt_of(text: str | None) -> str:
    return (text or "")[-MAX_PROMPT_CHARS:]  # what is nearest to the audio


def _format_of(asked: FormatUpdate | str) -> Format:
    if isinstance(asked, str):
        asked = FormatUpdate(asked)
    known = _BY_NAME.get(asked.type)
    if known is None:
        types = ", ".join(_BY_NAME)
        raise UnsupportedFormat(
            f"unsupported format {asked.type[:MAX_NAME_CHARS]!r}: it must be one of {types}"
        )
    if asked.rate is None or (known is not PCM and asked.rate == G711_RATE_HZ):
        return known
    if known is not PCM or not MIN_RATE_HZ <= asked.rate <= MAX_RATE_HZ:
        raise UnsupportedFormat(f"{known.type} does not come at {asked.rate} Hz here")
    return replace(PCM, rate_hz=asked.rate)


def _detection_of(
    asked: dict[str, Any] | msgspec.UnsetType | None, present: Detection | None
) -> Detection | None:
    if not isinstance(asked, dict) or asked.get("type") == "none":
        return None
    kind = asked.get("type", (present or _SERVER_VAD)["type"])
    if kind == "semantic_vad":
        eagerness = asked.get("eagerness")
        known = isinstance(eagerness, str) and eagerness in _SEMANTIC_SILENCE_MS
        return {"type": kind, "eagerness": eagerness if known else "auto"}
    base = present if present is not None and present["type"] == "server_vad" else _SERVER_VAD
    return {
        "type": "server_vad",
        **{name: _clamped(asked.get(name), base[name], *_LIMITS[name]) for name in _LIMITS},
    }


def _clamped(value: Any, default: float, low: float, high: float) -> float:
    """A number within its limits; `default` for what is none. Whole where the limits are."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return default  # only NaN differs from itself; math.isnan takes no integer of 400 digits
    bounded = min(max(value, low), high)
    return round(bounded) if isinstance(low, int) else float(bounded)


def _value(query: Mapping[str, list[str]], name: str) -> str | None:
    """The last value of a query parameter."""
    values = query.get(name)
    return values[-1] if values else None
