"""What a session.update may change, in both shapes, and what it means for the stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.dialects.hello_fields import MAX_NAME_CHARS, MAX_PROMPT_CHARS
from gateway.dialects.openai_session import (
    SessionUpdate,
    Settings,
    UnsupportedFormat,
)
from gateway.dialects.raw_audio import Coding
from protocol.client_messages import MAX_HOTWORDS, VadOptions

SERVER_VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
}


def updated(session: dict[str, Any], present: Settings | None = None) -> Settings:
    return (present or Settings()).updated(msgspec.convert(session, SessionUpdate))


def ga(present: Settings | None = None, **fields: Any) -> Settings:
    return updated({"type": "transcription", "audio": {"input": fields}}, present)


def detected(detection: Any, present: Any = SERVER_VAD) -> Any:
    return ga(Settings(detection=present), turn_detection=detection).detection


def test_the_defaults_are_openais() -> None:
    settings = Settings.of_query({"intent": ["transcription"]})
    assert settings == Settings()
    hello = settings.hello("key")
    assert (hello.token, hello.sample_rate_hz, hello.model, hello.language, hello.client) == (
        "key", 24_000, None, None, "openai",
    )  # fmt: skip
    assert hello.vad == VadOptions(threshold=0.5, min_silence_ms=500, speech_pad_ms=300)


def test_the_query_may_name_model_and_language() -> None:
    query = {"model": ["a", "whisper-1"], "language": ["de"]}
    assert Settings.of_query(query) == Settings(model="whisper-1", language="de")
    query = {"model": [""], "language": ["auto"]}
    assert Settings.of_query(query) == Settings()
    assert Settings.of_query({"model": ["m" * 999]}).model == "m" * MAX_NAME_CHARS
    assert Settings.of_query({"model": []}).model is None


def test_the_query_may_ask_for_two_ways_of_its_own() -> None:
    settings = Settings.of_query({"deltas": ["final"], "empty_commit": ["error"]})
    assert settings == Settings(live_deltas=False, refuses_empty_commits=True)
    assert not ga(settings, turn_detection=None).hello("").partials
    assert Settings().hello("").partials
    assert Settings.of_query({"deltas": ["live"], "empty_commit": ["answer"]}) == Settings()


def test_both_shapes_say_the_same() -> None:
    transcription = {"model": "gpt-4o-transcribe", "language": "en", "prompt": "Names."}
    nested = ga(format={"type": "audio/pcmu"}, transcription=transcription, turn_detection=None)
    flat = {
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": transcription,
        "turn_detection": None,
    }
    assert updated(flat) == nested
    assert nested.hello("").prompt == "Names."
    assert nested.vad == VadOptions(enabled=False)
    assert updated({**flat, "audio": {"input": {"format": "audio/pcma"}}}) == replace(
        nested, format=ga(format="audio/pcma").format
    )


@pytest.mark.parametrize("session", [{}, {"audio": None}, {"audio": {"input": None}}])
def test_what_is_absent_stays(session: dict[str, Any]) -> None:
    present = ga(
        format={"type": "audio/pcma"},
        transcription={"model": "m", "language": "de", "prompt": "p", "keywords": ["k"]},
        turn_detection=None,
    )
    assert updated(session, present) == present
    assert ga(present, transcription={}) == present
    assert ga(present, transcription={"language": None}) == replace(present, language=None)
    assert ga(present, transcription={"prompt": None}).prompt == ""
    off = ga(present, transcription=None)
    assert (off.model, off.language, off.prompt, off.keywords) == (None, None, "", ())


def test_languages_help_only_when_there_is_one() -> None:
    assert ga(transcription={"languages": ["fr"]}).language == "fr"
    assert ga(transcription={"languages": ["fr", "de"]}).language is None
    assert ga(transcription={"languages": ["fr"], "language": "de"}).language == "de"
    assert ga(transcription={"languages": []}).language is None
    assert ga(transcription={"language": "auto"}).language is None


def test_keywords_are_hotwords_within_limits() -> None:
    assert ga(transcription={"keywords": ["Earwire", "", "x" * 999]}).keywords == ("Earwire",)
    many = ga(transcription={"keywords": [f"w{number}" for number in range(999)]})
    assert len(many.hello("").hotwords) == MAX_HOTWORDS
    assert ga(many, transcription={"keywords": None}).keywords == ()
    prompt = ga(transcription={"prompt": "a" * MAX_PROMPT_CHARS + "end"}).prompt
    assert len(prompt) == MAX_PROMPT_CHARS
    assert prompt.endswith("aend")


@pytest.mark.parametrize(
    ("asked", "coding", "rate_hz"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, Coding.LINEAR16, 24_000),
        ({"type": "audio/pcm"}, Coding.LINEAR16, 24_000),
        ({"rate": 16_000}, Coding.LINEAR16, 16_000),
        ("pcm16", Coding.LINEAR16, 24_000),
        ({"type": "audio/pcmu"}, Coding.ULAW, 8_000),
        ({"type": "audio/pcma", "rate": 8_000}, Coding.ALAW, 8_000),
        ("g711_alaw", Coding.ALAW, 8_000),
    ],
)
def test_formats(asked: Any, coding: Coding, rate_hz: int) -> None:
    audio_format = ga(format=asked).format
    assert (audio_format.coding, audio_format.rate_hz) == (coding, rate_hz)
    assert ga(format=asked).hello("").sample_rate_hz == rate_hz


@pytest.mark.parametrize(
    "asked",
    ["opus", {"type": "audio/opus"}, {"type": "audio/pcm", "rate": 1}, {"rate": 10**9},
     {"type": "audio/pcmu", "rate": 16_000}],
)  # fmt: skip
def test_formats_that_do_not_work_are_named(asked: Any) -> None:
    with pytest.raises(UnsupportedFormat, match=r"opus|not come at"):
        ga(format=asked)


def test_turn_detection_is_completed_and_merged() -> None:
    assert detected({"type": "server_vad"}) == SERVER_VAD
    longer = detected({"type": "server_vad", "silence_duration_ms": 900})
    assert longer == {**SERVER_VAD, "silence_duration_ms": 900}
    assert detected({"threshold": 0.7}, longer) == {**longer, "threshold": 0.7}
    assert detected({"type": "server_vad"}, None) == SERVER_VAD
    assert detected({}, None) == SERVER_VAD
    assert detected({"type": "something_new"}) == SERVER_VAD
    assert detected(None) is None
    assert detected({"type": "none"}) is None


def test_turn_detection_out_of_range_is_clamped_and_nonsense_ignored() -> None:
    assert detected(
        {"threshold": 7, "prefix_padding_ms": -1.0, "silence_duration_ms": float("inf")}
    ) == {**SERVER_VAD, "threshold": 1.0, "prefix_padding_ms": 0, "silence_duration_ms": 10_000}
    nonsense = {"threshold": True, "prefix_padding_ms": "9", "silence_duration_ms": float("nan")}
    assert detected(nonsense) == SERVER_VAD
    huge = {"threshold": 10**400, "prefix_padding_ms": -(10**400), "silence_duration_ms": 10**400}
    assert detected(huge) == {
        **SERVER_VAD, "threshold": 1.0, "prefix_padding_ms": 0, "silence_duration_ms": 10_000
    }  # fmt: skip
    assert detected({"silence_duration_ms": 700.4})["silence_duration_ms"] == 700


@pytest.mark.parametrize(
    ("eagerness", "silence_ms"), [("low", 1_500), ("medium", 800), ("auto", 800), ("high", 400)]
)
def test_semantic_vad_is_patience(eagerness: str, silence_ms: int) -> None:
    settings = ga(turn_detection={"type": "semantic_vad", "eagerness": eagerness})
    assert settings.detection == {"type": "semantic_vad", "eagerness": eagerness}
    assert settings.vad == VadOptions(min_silence_ms=silence_ms)


def test_semantic_vad_without_a_known_eagerness_is_auto() -> None:
    automatic = {"type": "semantic_vad", "eagerness": "auto"}
    for asked in ({"type": "semantic_vad"}, {"type": "semantic_vad", "eagerness": ["high"]}):
        assert detected(asked) == automatic
    assert detected({}, automatic) == automatic
    assert detected({"type": "server_vad", "threshold": 0.6}, automatic)["threshold"] == 0.6


def test_the_session_is_shown_as_it_is() -> None:
    settings = ga(transcription={"model": "asked", "language": "en", "prompt": "p"})
    shown = settings.session_object("s-1", "tiny.en")
    assert (shown["type"], shown["id"]) == ("transcription", "s-1")
    audio_input = shown["audio"]["input"]
    assert audio_input["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert audio_input["transcription"] == {"model": "tiny.en", "language": "en", "prompt": "p"}
    assert audio_input["turn_detection"] == SERVER_VAD
    telephone = ga(format={"type": "audio/pcmu"}).session_object("s-1", None)
    assert telephone["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    flat = ga(format="audio/pcma", turn_detection=None).beta_session_object("s-1", "m")
    assert (flat["input_audio_format"], flat["turn_detection"]) == ("g711_alaw", None)
    assert flat["input_audio_transcription"]["model"] == "m"


def test_updates_share_no_mutable_default() -> None:
    assert Settings().detection is not Settings().detection
