"""What the URL of /v1/listen asks for."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.deepgram_query import (
    MIN_ENDPOINTING_MS,
    AudioOptions,
    ListenOptions,
    Refusal,
    listen_options,
)
from gateway.dialects.hello_fields import MAX_HOTWORD_CHARS
from gateway.dialects.raw_audio import Coding
from protocol.client_messages import MAX_END_OF_TURN_MS, MAX_HOTWORDS, VadOptions


def options(**query: str | list[str]) -> ListenOptions | Refusal:
    return listen_options(
        {name: [value] if isinstance(value, str) else value for name, value in query.items()}
    )


def served(**query: str | list[str]) -> ListenOptions:
    found = options(**query)
    assert isinstance(found, ListenOptions)
    return found


def refused(**query: str | list[str]) -> str:
    found = options(**query)
    assert isinstance(found, Refusal)
    return found.message


def test_nothing_asked_for() -> None:
    assert served() == ListenOptions(
        audio=AudioOptions(),
        model=None,
        language=None,
        is_multilingual=False,
        hotwords=(),
        interim_results=False,
        is_formatted=False,
        endpointing=served().endpointing,
        utterance_end_ms=None,
        vad_events=False,
    )
    assert served().vad() == VadOptions()
    assert served().endpointing.is_reported


@pytest.mark.parametrize(
    ("query", "audio"),
    [
        ({"encoding": "linear16", "sample_rate": "24000"}, AudioOptions(Coding.LINEAR16, 24_000)),
        ({"encoding": "linear32", "sample_rate": "48000"}, AudioOptions(Coding.LINEAR32, 48_000)),
        ({"encoding": "mulaw"}, AudioOptions(Coding.ULAW, 8_000)),
        ({"encoding": "alaw", "sample_rate": "16000"}, AudioOptions(Coding.ALAW, 16_000)),
        (
            {"encoding": "mulaw", "channels": "2", "multichannel": "true"},
            AudioOptions(Coding.ULAW, 8_000, 2, is_split=True),
        ),
        ({"encoding": "mulaw", "channels": "2"}, AudioOptions(Coding.ULAW, 8_000, 2)),
        ({"sample_rate": "16000"}, AudioOptions()),
        ({"encoding": ""}, AudioOptions()),
        ({"encoding": "opus", "channels": "2"}, AudioOptions()),
        ({"channels": "1", "multichannel": "true"}, AudioOptions()),
        ({"encoding": "webm"}, AudioOptions()),
        ({"encoding": "flac"}, AudioOptions()),
    ],
)
def test_audio(query: dict[str, Any], audio: AudioOptions) -> None:
    assert served(**query).audio == audio


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"encoding": "speex"}, "encoding 'speex' is not supported; there is linear16"),
        ({"encoding": "linear16"}, "sample_rate is needed with linear16: 8000 to 192000 Hz"),
        ({"encoding": "linear16", "sample_rate": "4000"}, "sample_rate is needed"),
        ({"encoding": "linear16", "sample_rate": "1e9"}, "sample_rate is needed"),
        ({"encoding": "mulaw", "sample_rate": "9" * 5_000}, "sample_rate is needed"),
        ({"channels": "0"}, "channels: 1 to 8"),
        ({"channels": "9"}, "channels: 1 to 8"),
        ({"channels": "two"}, "channels: 1 to 8"),
        ({"channels": "²"}, "channels: 1 to 8"),
        ({"encoding": "opus", "channels": "2", "multichannel": "true"}, "multichannel needs raw"),
        ({"encoding": "ogg-opus", "multichannel": "true"}, "multichannel needs raw"),
        ({"multichannel": "true"}, "multichannel needs raw"),
        ({"redact": ["pci", "ssn"]}, "redact: this server can not hide"),
    ],
)
def test_what_can_not_be_served_is_refused(query: dict[str, Any], message: str) -> None:
    assert refused(**query).startswith(message)


def test_a_long_encoding_is_not_echoed_whole() -> None:
    assert len(refused(encoding="x" * 10_000)) < 300


def test_features_that_are_off_or_unknown_are_ignored() -> None:
    assert served(redact="false", diarize="true", mip_opt_out="true", new="x") == served()
    assert served(interim_results="yes", vad_events="false", punctuate="") == served()


def test_results() -> None:
    found = served(interim_results="true", vad_events="True", smart_format="true")
    assert (found.interim_results, found.vad_events, found.is_formatted) == (True, True, True)
    assert served(punctuate="true").is_formatted
    assert served(dictation="true").is_formatted


def test_model_and_language() -> None:
    found = served(model="nova-3", language="en-US")
    assert (found.model, found.language, found.is_multilingual) == ("nova-3", "en-US", False)
    multi = served(language="multi", model="m" * 1000)
    assert (multi.language, multi.is_multilingual, multi.model) == (None, True, "m" * 256)
    assert served(language="fr", detect_language="true").language is None
    assert served(language="fr", detect_language=["de", "fr"]).language is None
    assert served(language="fr", detect_language="false").language == "fr"


def test_hotwords_of_both_names() -> None:
    found = served(
        keyterm=["Earwire", "Ulaanbaatar: the capital", ""],
        keywords=["snail:2", "boring:-1", "plain", "Earwire:1.5"],
    )
    assert found.hotwords == ("Earwire", "Ulaanbaatar: the capital", "snail", "plain")


def test_hotwords_are_bounded() -> None:
    many = [f"word{number}" for number in range(MAX_HOTWORDS + 10)]
    assert served(keyterm=["x" * (MAX_HOTWORD_CHARS + 1), *many]).hotwords == tuple(
        many[:MAX_HOTWORDS]
    )


@pytest.mark.parametrize(
    ("text", "min_silence_ms", "is_reported"),
    [
        ("500", 500, True),
        ("10", MIN_ENDPOINTING_MS, True),
        ("999999", 10_000, True),
        ("true", None, True),
        ("soon", None, True),
        ("-1", None, True),
        ("false", None, False),
        ("0", None, False),
    ],
)
def test_endpointing(text: str, min_silence_ms: int | None, is_reported: bool) -> None:
    found = served(endpointing=text)
    assert found.endpointing.min_silence_ms == min_silence_ms
    assert found.endpointing.is_reported == is_reported
    assert found.vad() == VadOptions(min_silence_ms=min_silence_ms)


@pytest.mark.parametrize(
    ("text", "end_of_turn_ms"),
    [("1000", 1_000), ("0", 0), ("99999999", MAX_END_OF_TURN_MS), ("x", None), ("false", None)],
)
def test_utterance_end(text: str, end_of_turn_ms: int | None) -> None:
    assert served(utterance_end_ms=text).vad() == VadOptions(end_of_turn_ms=end_of_turn_ms)
