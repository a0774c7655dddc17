"""vLLM's words for what happens."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.dialects.openai_vllm import VllmWording
from protocol.client_messages import Error
from protocol.errors import ErrorCode

ERROR = Error(code=ErrorCode.AT_CAPACITY, message="full", retryable=True)


def said(events: list[msgspec.Struct]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(msgspec.json.encode(event)) for event in events]


def test_text_grows_and_is_done() -> None:
    wording = VllmWording()
    assert said(wording.delta("item_1", " there")) == [
        {"type": "transcription.delta", "delta": " there"}
    ]
    assert said(wording.completed("item_1", "Hello there.", 16_001)) == [
        {
            "type": "transcription.done",
            "text": "Hello there.",
            "usage": {"prompt_tokens": 13, "completion_tokens": 2, "total_tokens": 15},
        }
    ]


def test_an_error_is_a_text_and_a_code() -> None:
    wording = VllmWording()
    assert said(wording.ended(ERROR)) == [{"type": "error", "error": "full", "code": "at_capacity"}]
    assert said(wording.refused("invalid_value", "no", "e")) == [
        {"type": "error", "error": "no", "code": "invalid_value"}
    ]


def test_what_has_no_word_is_not_said() -> None:
    wording = VllmWording()
    silent = [wording.updated({}), wording.cleared(), wording.committed("item_1", None)]
    assert [*silent, wording.failed("item_1", ERROR)] == [[], [], [], []]


def test_the_session_is_announced_as_everywhere() -> None:
    (created,) = said(VllmWording().created("s-1", 12, {"id": "s-1"}))
    assert (created["type"], created["id"], created["created"]) == ("session.created", "s-1", 12)
