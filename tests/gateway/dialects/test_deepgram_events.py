"""Words, alternatives and close codes as Deepgram writes them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.dialects import deepgram_events as wire
from protocol.client_messages import Word
from protocol.errors import ErrorCode

WORDS = (Word("Don't", 0, 8_000, 0.5), Word("stop.", 8_000, 16_000, 1.0))


def written(message: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(message))


def test_formatted_words_come_in_both_forms() -> None:
    assert written(wire.alternative("Don't stop.", WORDS, is_formatted=True)) == {
        "transcript": "Don't stop.",
        "confidence": 0.75,
        "words": [
            {
                "word": "don't",
                "start": 0.0,
                "end": 0.5,
                "confidence": 0.5,
                "punctuated_word": "Don't",
            },
            {
                "word": "stop",
                "start": 0.5,
                "end": 1.0,
                "confidence": 1.0,
                "punctuated_word": "stop.",
            },
        ],
    }


def test_plain_words_have_no_second_form() -> None:
    said = written(wire.alternative("Don't stop.", WORDS, is_formatted=False))
    assert said["transcript"] == "don't stop"
    assert [sorted(word) for word in said["words"]] == [["confidence", "end", "start", "word"]] * 2


def test_a_mark_that_stands_alone_is_a_word_only_with_formatting() -> None:
    words = (Word("Yes", 0, 1, 1.0), Word("-", 1, 2, 1.0))
    plain = wire.alternative("Yes -", words, is_formatted=False)
    assert (plain.transcript, [item.word for item in plain.words]) == ("yes", ["yes"])
    formatted = wire.alternative("Yes -", words, is_formatted=True)
    assert (formatted.transcript, [w.word for w in formatted.words]) == ("Yes -", ["yes", "-"])


def test_languages_are_there_when_asked_for() -> None:
    said = written(wire.alternative("Oui.", (Word("Oui.", 0, 1, 1.0),), is_formatted=True,
                                    languages=("fr",)))  # fmt: skip
    assert said["languages"] == ["fr"]
    assert said["words"][0]["language"] == "fr"


def test_nothing_said_has_all_keys() -> None:
    nothing = {"transcript": "", "confidence": 0.0, "words": []}
    assert written(wire.alternative("", is_formatted=True)) == nothing


@pytest.mark.parametrize(
    ("word", "plain"),
    [("Hello,", "hello"), ("it's", "it's"), ("“Ja!”", "ja"), ("3.5", "3.5"), ("¿Qué?", "qué"),
     ("well-known", "well-known"), ("...", ""), ("好。", "好")],
)  # fmt: skip
def test_plain_words(word: str, plain: str) -> None:
    assert wire.plain_word(word) == plain


@pytest.mark.parametrize(
    ("code", "close"),
    [
        (ErrorCode.IDLE_TIMEOUT, (1011, "NET-0001")),
        (ErrorCode.BAD_AUDIO, (1008, "DATA-0000: why")),
        (ErrorCode.INTERNAL, (1011, "internal: why")),
        (ErrorCode.SERVICE_LOST, (1011, "service_lost: why")),
        (ErrorCode.AT_CAPACITY, (1013, "at_capacity: why")),
        (ErrorCode.RATE_LIMITED, (1013, "rate_limited: why")),
        (ErrorCode.UNAUTHORIZED, (1008, "unauthorized: why")),
        (ErrorCode.UNKNOWN_LANGUAGE, (1008, "unknown_language: why")),
    ],
)
def test_close_codes(code: ErrorCode, close: tuple[int, str]) -> None:
    assert wire.close_of(code, "why") == close


def test_model_names() -> None:
    assert written(wire.model_info("tiny.en")) == {
        "name": "tiny.en", "version": "1", "arch": "earwire",
    }  # fmt: skip
    assert wire.model_uuid("tiny.en") == wire.model_uuid("tiny.en") != wire.model_uuid("x")


def test_times() -> None:
    assert wire.created(1_700_000_000_250_000_000) == "2023-11-14T22:13:20.250Z"
    assert wire.seconds(24_000) == 1.5
