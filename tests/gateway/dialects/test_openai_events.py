"""OpenAI's words for what happens, and what is read of its clients."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.dialects.openai_events import (
    MAX_EVENT_ID_CHARS,
    ClientMessage,
    Wording,
    decode_message,
    error_fields,
)
from protocol.client_messages import Error
from protocol.errors import RETRYABLE, ErrorCode

PREFIX = "conversation.item.input_audio_transcription."


def said(events: list[msgspec.Struct]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(msgspec.json.encode(event)) for event in events]


def error_of(code: ErrorCode) -> Error:
    return Error(code=code, message="why", retryable=code in RETRYABLE)


def test_messages_are_decoded_with_their_audio() -> None:
    message = decode_message('{"type":"input_audio_buffer.append","audio":"AAEC","more":[1]}')
    assert isinstance(message, ClientMessage)
    assert (message.audio, message.event_id, message.final) == (b"\0\1\2", None, False)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"type":3}', '{"type":"x","audio":"?"}', "[" * 100_000,
     '{"type":"\\ud800"}', '{"type":"x","session":[1,}'],
)  # fmt: skip
def test_what_is_no_message_says_why(text: str) -> None:
    reason = decode_message(text)
    assert isinstance(reason, str)
    assert len(reason) < 300


def test_the_session_events() -> None:
    wording = Wording()
    session = {"id": "s-1"}
    assert said(wording.created("s-1", 12, session)) == [
        {"type": "session.created", "event_id": "event_1", "id": "s-1", "created": 12,
         "session": session}
    ]  # fmt: skip
    assert said(wording.updated(session)) == [
        {"type": "session.updated", "event_id": "event_2", "session": session}
    ]
    wording.is_beta = True
    assert said(wording.updated(session)) == [
        {"type": "transcription_session.updated", "event_id": "event_3", "session": session}
    ]


def test_the_buffer_events_count_milliseconds() -> None:
    wording = Wording()
    assert said(wording.speech_started("item_1", 8_000)) == [
        {"type": "input_audio_buffer.speech_started", "event_id": "event_1",
         "audio_start_ms": 500, "item_id": "item_1"}
    ]  # fmt: skip
    assert said(wording.speech_stopped("item_1", 16_015)) == [
        {"type": "input_audio_buffer.speech_stopped", "event_id": "event_2",
         "audio_end_ms": 1_000, "item_id": "item_1"}
    ]  # fmt: skip
    assert said(wording.cleared()) == [
        {"type": "input_audio_buffer.cleared", "event_id": "event_3"}
    ]


def test_a_commit_announces_the_item_in_the_words_of_the_clients_shape() -> None:
    wording = Wording()
    committed, added, done = said(wording.committed("item_2", "item_1"))
    assert committed["type"] == "input_audio_buffer.committed"
    assert (committed["item_id"], committed["previous_item_id"]) == ("item_2", "item_1")
    assert added["type"] == "conversation.item.added"
    assert done["type"] == "conversation.item.done"
    assert added["item"] == done["item"] == {
        "type": "message", "id": "item_2", "object": "realtime.item", "status": "completed",
        "role": "user", "content": [{"type": "input_audio", "transcript": None}],
    }  # fmt: skip
    wording.is_beta = True
    _, created = said(wording.committed("item_3", None))
    assert created["type"] == "conversation.item.created"
    assert (created["item"]["id"], created["previous_item_id"]) == ("item_3", None)


def test_the_text_events() -> None:
    wording = Wording()
    assert said(wording.delta("item_1", " and")) == [
        {"type": PREFIX + "delta", "event_id": "event_1", "item_id": "item_1",
         "content_index": 0, "delta": " and"}
    ]  # fmt: skip
    assert said(wording.completed("item_1", "and", 24_000)) == [
        {"type": PREFIX + "completed", "event_id": "event_2", "item_id": "item_1",
         "content_index": 0, "transcript": "and", "usage": {"type": "duration", "seconds": 1.5}}
    ]  # fmt: skip
    (failed,) = said(wording.failed("item_1", error_of(ErrorCode.SERVICE_LOST)))
    assert (failed["type"], failed["item_id"]) == (PREFIX + "failed", "item_1")
    assert failed["error"] == {
        "type": "server_error", "code": "service_lost", "message": "why", "param": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ErrorCode.UNAUTHORIZED, ("invalid_api_key", "invalid_request_error", 1008)),
        (ErrorCode.UNKNOWN_MODEL, ("model_not_found", "invalid_request_error", 1008)),
        (ErrorCode.UNKNOWN_LANGUAGE, ("unknown_language", "invalid_request_error", 1008)),
        (ErrorCode.RATE_LIMITED, ("rate_limit_exceeded", "rate_limit_error", 1013)),
        (ErrorCode.AT_CAPACITY, ("at_capacity", "server_error", 1013)),
        (ErrorCode.INTERNAL, ("internal_error", "server_error", 1011)),
    ],
)
def test_errors_have_openais_names(code: ErrorCode, expected: tuple[str, str, int]) -> None:
    assert error_fields(error_of(code)) == expected


def test_only_an_end_that_trying_again_does_not_help_is_an_error_event() -> None:
    wording = Wording()
    assert wording.ended(error_of(ErrorCode.SERVICE_LOST)) == []
    (error,) = said(wording.ended(error_of(ErrorCode.UNKNOWN_MODEL)))
    assert error["type"] == "error"
    assert error["error"]["code"] == "model_not_found"
    assert error["error"]["event_id"] is None


def test_a_refusal_repeats_the_messages_id_within_bounds() -> None:
    wording = Wording()
    (error,) = said(wording.refused("invalid_value", "no", "e" * 9_999))
    assert error["error"]["event_id"] == "e" * MAX_EVENT_ID_CHARS
    (error,) = said(wording.refused("invalid_value", "no", None))
    assert error["error"] == {
        "type": "invalid_request_error", "code": "invalid_value", "message": "no", "param": None,
        "event_id": None,
    }  # fmt: skip
