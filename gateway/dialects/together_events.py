"""Together's /v1/realtime as data: its event types, audio formats, VAD parameters and error codes.

Pure tables and conversions, no state; together.py holds the state machine and is the only caller.
Defaults and names are Together's. Where a client sends what makes no sense, the value is clamped
or the default taken rather than refused: clients of this API answer an error by reconnecting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from protocol.client_messages import MAX_END_OF_TURN_MS, VadOptions
from protocol.errors import ErrorCode

FORMAT_RATES_HZ = {
    "pcm_s16le_8000": 8_000,
    "pcm_s16le_16000": 16_000,
    "pcm_s16le_24000": 24_000,
    # the names without a rate mean 24 kHz, as in Together's own SDK
    "pcm16": 24_000,
    "pcm_s16": 24_000,
    "pcm_s16le": 24_000,
}

# Close codes: the SDK fails over on 4503 at once; of the others it only sees that they are not.
CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_INTERNAL = 1011
CLOSE_RETRY_ELSEWHERE = 4503

TRANSCRIPTION = "conversation.item.input_audio_transcription."


class ClientMessage(msgspec.Struct, gc=False):
    """Any message of a client: one decode, base64 included; fields that are not its own default."""

    type: str
    audio: bytes = b""  # input_audio_buffer.append
    session: msgspec.Raw = msgspec.Raw()  # transcription_session.updated
    echo_id: msgspec.Raw = msgspec.Raw(b"null")  # echo, this and the next two
    client_sent_at: msgspec.Raw = msgspec.Raw(b"null")
    payload: msgspec.Raw = msgspec.Raw(b"null")


class SessionUpdate(msgspec.Struct):
    """What transcription_session.updated may change here; other keys are ignored."""

    turn_detection: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


class _Event(msgspec.Struct, tag_field="type", kw_only=True):
    event_id: str


class SessionObject(msgspec.Struct, kw_only=True):
    """What holds for the session, in both session events."""

    id: str
    object: str = "realtime.session"
    model: str | None
    modalities: tuple[str, ...] = ("text",)
    input_audio_format: str
    turn_detection: dict[str, float | str] | None


class SessionCreated(_Event, tag="session.created", kw_only=True):
    """The first frame of the server, always."""

    session: SessionObject


class SessionUpdated(_Event, tag="transcription_session.updated", kw_only=True):
    """The confirmation of the client's message of the same name."""

    session: SessionObject


class EchoResponse(_Event, tag="echo.response", kw_only=True):
    """Times are Unix seconds."""

    echo_id: msgspec.Raw
    client_sent_at: msgspec.Raw
    server_received_at: float
    server_sent_at: float
    payload: msgspec.Raw


class Delta(_Event, tag=TRANSCRIPTION + "delta", kw_only=True):
    """The whole text of the segment so far, twice: SDKs read `delta`, Pipecat `transcript`."""

    item_id: str
    delta: str
    transcript: str
    start: float
    duration: float


class Completed(_Event, tag=TRANSCRIPTION + "completed", kw_only=True):
    """The text of a segment for good; start and duration in seconds of the connection's audio."""

    item_id: str
    transcript: str
    start: float
    duration: float


class TurnEvent(msgspec.Struct, kw_only=True):
    """One of the four turn events (together_turns.py); `transcript` is the turn's text so far."""

    type: str
    event_id: str
    item_id: str | None  # the segment that ended last in this connection
    transcript: str


class ErrorInfo(msgspec.Struct, kw_only=True):
    """Of both error events."""

    message: str
    type: str
    param: str | None = None
    code: str


class Failed(_Event, tag=TRANSCRIPTION + "failed", kw_only=True):
    """Without `event_type`, which is never sent here, the session is over."""

    item_id: str | None = None
    error: ErrorInfo


class ErrorReply(_Event, tag="error", kw_only=True):
    """One message was not taken; the session goes on."""

    error: ErrorInfo


# What the SDK does: authentication_error and invalid_request_error are fatal, idle_timeout is
# its own exception, no_healthy_workers fails over, anything else reconnects and replays.
_INVALID = "invalid_request_error"
_UNAVAILABLE = "service_unavailable_error"
_FAIL_OVER = ("no_healthy_workers", _UNAVAILABLE, CLOSE_RETRY_ELSEWHERE)
_RETRY = {
    ErrorCode.INTERNAL: ("internal_error", "server_error", CLOSE_INTERNAL),
    ErrorCode.SLOW_READER: ("slow_reader", "server_error", CLOSE_POLICY),
    ErrorCode.HANDSHAKE_TIMEOUT: ("handshake_timeout", "server_error", CLOSE_POLICY),
}
_CODES = {
    ErrorCode.SERVICE_LOST: _FAIL_OVER,
    ErrorCode.AT_CAPACITY: _FAIL_OVER,
    ErrorCode.DRAINING: _FAIL_OVER,
    ErrorCode.IDLE_TIMEOUT: ("idle_timeout", _UNAVAILABLE, CLOSE_NORMAL),
    ErrorCode.UNKNOWN_MODEL: ("model_not_available", _INVALID, CLOSE_NORMAL),
    ErrorCode.UNAUTHORIZED: ("invalid_api_key", "authentication_error", CLOSE_NORMAL),
    **_RETRY,
}


def error_fields(code: ErrorCode) -> tuple[str, str, int]:
    """Together's code, its error type and the close code for one of ours."""
    return _CODES.get(code, (code.value, _INVALID, CLOSE_NORMAL))


def query_value(query: Mapping[str, list[str]], name: str) -> str | None:
    """The last value of a query parameter; None when it is absent or empty."""
    values = query.get(name)
    return values[-1] or None if values else None


_VAD_DEFAULTS: dict[str, float] = {
    "threshold": 0.3,
    "min_silence_duration_ms": 500,
    "min_speech_duration_ms": 250,
    "max_speech_duration_s": 5.0,
    "speech_pad_ms": 250,
}
_VAD_LIMITS: dict[str, tuple[float, float]] = {
    "threshold": (0.0, 1.0),
    "min_silence_duration_ms": (32, 10_000),
    "min_speech_duration_ms": (0, 10_000),
    "max_speech_duration_s": (1.0, 30.0),
    "speech_pad_ms": (0, 2_000),
}
# A client that sends any of these wants turn events. Whether a turn is over is decided by silence
# alone: eot_threshold is taken and means nothing.
_TURN_LIMITS: dict[str, tuple[float, float]] = {
    "eot_timeout_ms": (0, MAX_END_OF_TURN_MS),
    "eot_threshold": (0.0, 1.0),
    "eager_eot_threshold": (0.0, 1.0),
}
_DEFAULT_PATIENCE_MS = 1_000.0  # with a threshold and no time-out
_LIMITS = _VAD_LIMITS | _TURN_LIMITS
# The five VAD parameters, all present, and those of turns as asked for; None stands for "none".
TurnDetection = dict[str, float]


def turn_detection_of(
    parameters: Mapping[str, Any], present: TurnDetection | None
) -> TurnDetection | None:
    """What a query or a session update asks for, on top of what holds now; None: no VAD."""
    if parameters.get("type") == "none":
        return None
    base = _VAD_DEFAULTS if present is None else present
    detection = {name: _clamped(name, parameters.get(name), base[name]) for name in _VAD_DEFAULTS}
    for name in _TURN_LIMITS:
        number = _clamped(name, parameters.get(name, base.get(name)), math.nan)
        if not math.isnan(number):
            detection[name] = number
    if not detection.keys().isdisjoint(_TURN_LIMITS):
        detection.setdefault("eot_timeout_ms", _DEFAULT_PATIENCE_MS)
    return detection


def turn_detection_from_query(query: Mapping[str, list[str]]) -> TurnDetection | None:
    """The flat parameters of the URL."""
    flat = {name: query_value(query, name) for name in _LIMITS}
    return turn_detection_of({**flat, "type": query_value(query, "turn_detection")}, None)


def wants_turns(detection: TurnDetection) -> bool:
    """The client asked for turn events."""
    return "eot_timeout_ms" in detection


def wants_eager_turns(detection: TurnDetection) -> bool:
    """It wants to know as well when a turn may have ended."""
    return "eager_eot_threshold" in detection


def vad_options(detection: TurnDetection | None) -> VadOptions:
    """The same in the stream's terms."""
    if detection is None:
        return VadOptions(enabled=False)
    return VadOptions(
        threshold=detection["threshold"],
        min_speech_ms=round(detection["min_speech_duration_ms"]),
        min_silence_ms=round(detection["min_silence_duration_ms"]),
        speech_pad_ms=round(detection["speech_pad_ms"]),
        max_utterance_ms=round(detection["max_speech_duration_s"] * 1000),
        end_of_turn_ms=round(detection["eot_timeout_ms"]) if wants_turns(detection) else None,
    )


def session_object(
    session_id: str, model: str | None, audio_format: str, detection: TurnDetection | None
) -> SessionObject:
    """The `session` of both session events: what holds, not what was asked for."""
    return SessionObject(
        id=session_id,
        model=model,
        input_audio_format=audio_format,
        turn_detection=None if detection is None else {"type": "server_vad", **detection},
    )


def _clamped(name: str, value: Any, default: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    if math.isnan(number):
        return default
    low, high = _LIMITS[name]
    return min(max(number, low), high)
