"""Deepgram's live API as its SDK, Pipecat and LiveKit need it: what goes in, what comes out."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import (
    MAX_BAD_MESSAGES,
    AudioIn,
    ByeIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
)
from gateway.dialects.deepgram import MAX_QUOTED_CHARS, DeepgramDialect
from gateway.dialects.deepgram_events import model_uuid
from gateway.dialects.g711 import ulaw_to_pcm16
from protocol.audio import Encoding
from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    Closed,
    EndOfTurn,
    Error,
    Final,
    NonSpeech,
    Partial,
    SpeechStarted,
    SpeechStopped,
    VadOptions,
    Word,
)
from protocol.errors import ErrorCode
from tests.harness import STARTED, random_cuts

LINEAR = {"encoding": "linear16", "sample_rate": "16000", "interim_results": "true"}
STEREO = {**LINEAR, "channels": "2", "multichannel": "true"}
FORMATTED = {**LINEAR, "punctuate": "true"}
NO_COUNTS: dict[str, Any] = {"audio_received": 0, "audio_decoded": 0}


def dialect_of(query: dict[str, str]) -> DeepgramDialect:
    listed = {name: [value] for name, value in query.items()}
    return DeepgramDialect(listed, "key", "request-1", wall_offset_ns=1_700_000_000_000_000_000)


def started(query: dict[str, str]) -> DeepgramDialect:
    """With its streams open and nothing said yet."""
    dialect = dialect_of(query)
    for intent in intents(dialect):
        assert isinstance(intent, OpenStream)
        dialect.handle_event(STARTED, 250_000_000, intent.channel)
    assert dialect.data_to_send() == []
    return dialect


def intents(dialect: DeepgramDialect) -> list[Intent]:
    found: list[Intent] = []
    while (intent := dialect.next_event()) is not None:
        found.append(intent)
    return found


def sent(dialect: DeepgramDialect) -> list[dict[str, Any]]:
    items = dialect.data_to_send()
    assert all(isinstance(item, str) for item in items)
    return [json.loads(item) for item in items if isinstance(item, str)]


def say(dialect: DeepgramDialect, type_: str, **fields: Any) -> list[Intent]:
    dialect.receive_data(json.dumps({"type": type_, **fields}))
    return intents(dialect)


def heard(dialect: DeepgramDialect, event: Any, channel: int = 0) -> list[dict[str, Any]]:
    dialect.handle_event(event, 1, channel)
    return sent(dialect)


def partial(stable: str, volatile: str = "") -> Partial:
    return Partial(
        **NO_COUNTS, utterance=0, start_sample=8_000, end_sample=24_000, stable=stable,
        volatile=volatile,
    )  # fmt: skip


def final(
    utterance: int, text: str, *words: Word, end: int = 24_000, finalize_id: int | None = None,
    language: str | None = None,
) -> Final:  # fmt: skip
    return Final(
        **NO_COUNTS, utterance=utterance, start_sample=8_000, end_sample=end, text=text,
        words=words, finalize_id=finalize_id, language=language,
    )  # fmt: skip


def speech_started(utterance: int, at: int) -> SpeechStarted:
    return SpeechStarted(**NO_COUNTS, utterance=utterance, start_sample=at)


def speech_stopped(utterance: int, at: int) -> SpeechStopped:
    return SpeechStopped(**NO_COUNTS, utterance=utterance, end_sample=at)


def closed(ring_samples: int, reason: str = "client") -> Closed:
    return Closed(
        reason=reason, client_samples=ring_samples, socket_samples=ring_samples,
        ring_samples=ring_samples, engine_samples=ring_samples,
    )  # fmt: skip


# --- opening -------------------------------------------------------------------------------


def test_the_stream_is_opened_unasked_with_what_the_query_says() -> None:
    dialect = dialect_of(
        {**LINEAR, "model": "nova-3", "language": "en-US", "keyterm": "Earwire",
         "endpointing": "300", "utterance_end_ms": "1000"}
    )  # fmt: skip
    (intent,) = intents(dialect)
    assert isinstance(intent, OpenStream)
    hello = intent.hello
    assert (intent.any_model, intent.channel, intent.container) == (True, 0, None)
    assert (hello.token, hello.client) == ("key", "deepgram")
    assert (hello.model, hello.language, hello.hotwords) == ("nova-3", "en-US", ("Earwire",))
    assert (hello.sample_rate_hz, hello.channels, hello.partials) == (16_000, 1, True)
    assert hello.vad == VadOptions(min_silence_ms=300, end_of_turn_ms=1_000)
    assert sent(dialect) == []


def test_without_interim_results_no_drafts_are_asked_for_or_shown() -> None:
    dialect = dialect_of({"encoding": "mulaw"})
    (intent,) = intents(dialect)
    assert isinstance(intent, OpenStream)
    assert not intent.hello.partials
    assert heard(dialect, partial("hello")) == []


def test_multichannel_opens_a_stream_for_each_channel() -> None:
    opened = intents(dialect_of(STEREO))
    assert [(i.channel, i.hello.channels) for i in opened if isinstance(i, OpenStream)] == [
        (0, 1),
        (1, 1),
    ]


def test_two_channels_without_multichannel_are_one_stream() -> None:
    (intent,) = intents(dialect_of({**LINEAR, "channels": "2"}))
    assert isinstance(intent, OpenStream)
    assert intent.hello.channels == 2


def test_what_can_not_be_served_is_explained_and_ends_the_session() -> None:
    dialect = dialect_of({"encoding": "speex"})
    (intent,) = intents(dialect)
    assert isinstance(intent, FailIn)
    assert intent.error.code is ErrorCode.UNSUPPORTED_FORMAT
    (error,) = sent(dialect)
    assert (error["type"], error["variant"]) == ("Error", "unsupported_format")
    assert "speex" in error["description"]
    assert (dialect.close_code, dialect.close_reason[:18]) == (1008, "unsupported_format")
    dialect.receive_data(b"1234")
    dialect.receive_data(b"")
    assert intents(dialect) == []
    assert not dialect.receive_audio(b"12", lambda pcm, now_ns: True, 1)
    assert heard(dialect, closed(0)) == []


# --- audio ---------------------------------------------------------------------------------


@given(st.binary(min_size=8, max_size=64).flatmap(random_cuts))
def test_audio_arrives_whole_however_it_is_cut(chunks: list[bytes]) -> None:
    dialect = started(LINEAR)
    taken = b""
    for chunk in chunks:
        dialect.receive_data(chunk)
        for intent in intents(dialect):
            assert isinstance(intent, AudioIn)
            assert len(intent.pcm) % 2 == 0
            taken += bytes(intent.pcm)
    data = b"".join(chunks)
    assert taken == data[: len(data) // 2 * 2]


def test_channels_go_to_their_streams() -> None:
    dialect = started(STEREO)
    dialect.receive_data(b"aabbccdd")
    assert intents(dialect) == [AudioIn(b"aacc", 0), AudioIn(b"bbdd", 1)]


def test_a_long_message_is_cut_up() -> None:
    dialect = started(LINEAR)
    dialect.receive_data(bytes(3 * MAX_AUDIO_BYTES))
    found = [intent for intent in intents(dialect) if isinstance(intent, AudioIn)]
    assert sum(len(intent.pcm) for intent in found) == 3 * MAX_AUDIO_BYTES
    assert max(len(intent.pcm) for intent in found) <= MAX_AUDIO_BYTES


def test_telephone_audio_is_expanded_and_floats_are_declared() -> None:
    dialect = started({"encoding": "mulaw"})
    dialect.receive_data(b"\x00\xff")
    assert intents(dialect) == [AudioIn(ulaw_to_pcm16(b"\x00\xff"))]
    (intent,) = intents(dialect_of({"encoding": "linear32", "sample_rate": "48000"}))
    assert isinstance(intent, OpenStream)
    assert intent.hello.encoding is Encoding.PCM_F32LE
    assert intent.hello.sample_rate_hz == 48_000


def test_a_container_is_passed_on_as_it_is() -> None:
    dialect = dialect_of({"interim_results": "true"})
    (intent,) = intents(dialect)
    assert isinstance(intent, OpenStream)
    assert intent.container is Container.LIVE
    dialect.receive_data(b"OggS")
    dialect.receive_data(b"x")
    assert not dialect.receive_audio(b"12", lambda pcm, now_ns: True, 1)
    assert say(dialect, "CloseStream") == [EncodedIn(b"OggS"), EncodedIn(b"x"), EncodedEnd()]


# --- the fast lane -------------------------------------------------------------------------


def test_the_lane_takes_what_needs_no_change() -> None:
    dialect = started(LINEAR)
    written: list[tuple[bytes, int]] = []

    def write(pcm: bytes | memoryview, now_ns: int) -> bool:
        written.append((bytes(pcm), now_ns))
        return True

    assert dialect.receive_audio(memoryview(b"1234"), write, 7)
    assert written == [(b"1234", 7)]
    for data in (b"", b"123"):
        assert not dialect.receive_audio(data, write, 8)
    assert not dialect.receive_audio(b"1234", lambda pcm, now_ns: False, 8)
    dialect.receive_data(b"1")  # half a sample waits
    assert not dialect.receive_audio(b"1234", write, 8)
    dialect.receive_data(b"2")  # and now an intent
    assert not dialect.receive_audio(b"1234", write, 8)
    assert intents(dialect) == [AudioIn(b"12")]
    assert dialect.receive_audio(b"56", write, 9)
    assert written == [(b"1234", 7), (b"56", 9)]
    say(dialect, "CloseStream")
    assert not dialect.receive_audio(b"1234", write, 10)
    (metadata,) = heard(dialect, closed(4))
    assert metadata["sha256"] == hashlib.sha256(b"12341256").hexdigest()


@pytest.mark.parametrize(
    "query",
    [STEREO, {**LINEAR, "sample_rate": "8000"}, {"encoding": "mulaw", "sample_rate": "16000"},
     {**LINEAR, "channels": "2"}],
)  # fmt: skip
def test_other_formats_have_no_lane(query: dict[str, str]) -> None:
    assert not started(query).receive_audio(b"1234", lambda pcm, now_ns: True, 1)


# --- results -------------------------------------------------------------------------------


def test_drafts() -> None:
    (results,) = heard(started(FORMATTED), partial("Hello", "world."))
    uuid = model_uuid("tiny.en")
    assert results == {
        "type": "Results",
        "channel_index": [0, 1],
        "duration": 1.0,
        "start": 0.5,
        "is_final": False,
        "speech_final": False,
        "from_finalize": False,
        "channel": {
            "alternatives": [{"transcript": "Hello world.", "confidence": 0.0, "words": []}]
        },
        "metadata": {
            "request_id": "request-1",
            "model_info": {"name": "tiny.en", "version": "1", "arch": "earwire"},
            "model_uuid": uuid,
        },
    }


def test_an_empty_draft_is_not_worth_a_message() -> None:
    assert heard(started(LINEAR), partial("")) == []


def test_finals_have_words_in_seconds_of_the_stream() -> None:
    said = final(0, "Hello.", Word("Hello.", 8_000, 16_000, 0.9))
    (results,) = heard(started(FORMATTED), said)
    assert (results["is_final"], results["speech_final"]) == (True, True)
    assert results["from_finalize"] is False
    (alternative,) = results["channel"]["alternatives"]
    assert alternative["transcript"] == "Hello."
    assert alternative["confidence"] == 0.9
    assert alternative["words"] == [
        {"word": "hello", "start": 0.5, "end": 1.0, "confidence": 0.9, "punctuated_word": "Hello."}
    ]
    assert "languages" not in alternative


def test_without_punctuate_words_are_bare() -> None:
    dialect = started(LINEAR)
    for event in (partial("Hello,", "You."), final(0, "Hello, You.")):
        (results,) = heard(dialect, event)
        assert results["channel"]["alternatives"][0]["transcript"] == "hello you"


@pytest.mark.parametrize(
    ("language", "heard_language", "languages"),
    [("multi", "fr", ["fr"]), ("multi", None, None), ("fr", "fr", None)],
)
def test_languages_only_for_multi(
    language: str, heard_language: str | None, languages: list[str] | None
) -> None:
    dialect = started({**LINEAR, "language": language})
    (results,) = heard(dialect, final(0, "oui", language=heard_language))
    assert results["channel"]["alternatives"][0].get("languages") == languages


def test_a_final_without_words_still_ends_the_speech() -> None:
    (results,) = heard(started(LINEAR), final(0, ""))
    assert results["speech_final"]
    assert results["channel"]["alternatives"][0]["transcript"] == ""


def test_channels_are_named_in_results() -> None:
    dialect = started({**STEREO, "vad_events": "true", "utterance_end_ms": "1000"})
    (results,) = heard(dialect, final(0, "yes", Word("yes", 0, 8_000, 1.0)), channel=1)
    assert results["channel_index"] == [1, 2]
    (speech,) = heard(dialect, speech_started(1, 32_000), channel=1)
    assert speech == {"type": "SpeechStarted", "channel": [1, 2], "timestamp": 2.0}
    turn = EndOfTurn(**NO_COUNTS, utterance=0, end_sample=9_000)
    assert heard(dialect, turn, channel=0) == []
    assert heard(dialect, turn, channel=1) == [
        {"type": "UtteranceEnd", "channel": [1, 2], "last_word_end": 0.5}
    ]


# --- where speech begins and ends ----------------------------------------------------------


def test_speech_started_only_when_asked_for() -> None:
    assert heard(started(LINEAR), speech_started(0, 8_000)) == []
    asked = started({**LINEAR, "vad_events": "true"})
    (event,) = heard(asked, speech_started(0, 8_000))
    assert event == {"type": "SpeechStarted", "channel": [0, 1], "timestamp": 0.5}


LONG = 16_000 * 15  # half of the longest utterance


def test_speech_that_was_cut_for_its_length_goes_on() -> None:
    dialect = started({**LINEAR, "vad_events": "true"})
    heard(dialect, speech_started(0, 8_000))
    cut = 8_000 + LONG
    assert heard(dialect, speech_stopped(0, cut)) == []
    assert heard(dialect, speech_started(1, cut)) == []  # not new
    (first,) = heard(dialect, final(0, "and so", end=cut))
    assert (first["is_final"], first["speech_final"]) == (True, False)
    end = cut + LONG
    heard(dialect, speech_stopped(1, end))
    (second,) = heard(dialect, final(1, "on", end=end))
    assert second["speech_final"]
    # a pause ended it, so what begins there is new
    (event,) = heard(dialect, speech_started(2, end))
    assert event["type"] == "SpeechStarted"


def test_cuts_are_known_while_recognition_is_behind() -> None:
    dialect = started(LINEAR)
    edges = [8_000 + number * LONG for number in range(4)]
    for utterance in range(3):
        heard(dialect, speech_started(utterance, edges[utterance]))
        heard(dialect, speech_stopped(utterance, edges[utterance + 1]))
    finals = [heard(dialect, final(utterance, "on"))[0] for utterance in range(3)]
    assert [results["speech_final"] for results in finals] == [False, False, True]


def test_the_answer_to_a_finalize_in_a_pause_leaves_the_next_utterance_its_cut() -> None:
    dialect = started(LINEAR)
    heard(dialect, speech_started(0, 8_000))
    heard(dialect, speech_stopped(0, 24_000))
    say(dialect, "Finalize")
    heard(dialect, speech_started(1, 48_000))  # recognition is behind
    heard(dialect, speech_stopped(1, 48_000 + LONG))
    heard(dialect, speech_started(2, 48_000 + LONG))
    heard(dialect, final(0, "yes"))
    (answer,) = heard(dialect, final(1, "", end=8_000, finalize_id=1))
    (results,) = heard(dialect, final(1, "and so", end=48_000 + LONG))
    assert (answer["from_finalize"], results["speech_final"]) == (True, False)


def test_a_pause_that_its_padding_fills_is_a_pause() -> None:
    dialect = started({**LINEAR, "vad_events": "true"})
    heard(dialect, speech_started(0, 8_000))
    heard(dialect, speech_stopped(0, 24_000))
    (event,) = heard(dialect, speech_started(1, 24_000))  # recognition is behind
    assert event["type"] == "SpeechStarted"
    (results,) = heard(dialect, final(0, "yes"))
    assert results["speech_final"]


def test_speech_goes_on_after_the_answer_to_finalize() -> None:
    dialect = started(LINEAR)
    heard(dialect, speech_started(0, 8_000))
    heard(dialect, speech_stopped(0, 24_000))
    (answer,) = heard(dialect, final(0, "and", finalize_id=1))
    heard(dialect, speech_started(1, 24_000))
    (results,) = heard(dialect, final(1, "so", end=40_000))
    assert (answer["speech_final"], results["speech_final"]) == (False, True)


def test_endpointing_false_reports_no_speech_final() -> None:
    (results,) = heard(started({**LINEAR, "endpointing": "false"}), final(0, "hello"))
    assert (results["is_final"], results["speech_final"]) == (True, False)


def test_utterance_end_comes_once_and_only_after_words() -> None:
    dialect = started({**LINEAR, "utterance_end_ms": "1000"})
    turn = EndOfTurn(**NO_COUNTS, utterance=0, end_sample=24_000)
    heard(dialect, final(0, ""))
    assert heard(dialect, turn) == []
    heard(dialect, final(1, "a b", Word("a", 0, 4_000, 1.0), Word("b", 4_000, 8_000, 1.0)))
    heard(dialect, final(2, ""))
    (end,) = heard(dialect, turn)
    assert end == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.5}
    assert heard(dialect, turn) == []


def test_silence_is_not_worth_a_message() -> None:
    assert heard(started(LINEAR), NonSpeech(**NO_COUNTS, start_sample=0, end_sample=1)) == []


# --- Finalize, KeepAlive, CloseStream ------------------------------------------------------


def test_finalize_is_answered_by_from_finalize() -> None:
    dialect = started(LINEAR)
    assert say(dialect, "Finalize") == [FinalizeIn(1)]
    (earlier,) = heard(dialect, final(0, "before"))
    assert earlier["from_finalize"] is False
    (answer,) = heard(dialect, final(1, "", finalize_id=1))
    assert (answer["from_finalize"], answer["is_final"]) == (True, True)
    assert answer["speech_final"] is False
    assert answer["channel"]["alternatives"][0]["transcript"] == ""
    assert say(dialect, "Finalize") == [FinalizeIn(2)]


@pytest.mark.parametrize(
    ("named", "channels"), [(None, [0, 1]), ([], [0, 1]), (1, [1]), (0, [0]), ([1, 2], [1])]
)
def test_finalize_of_channels(named: Any, channels: list[int]) -> None:
    fields = {} if named is None else {"channel": named}
    found = say(started(STEREO), "Finalize", **fields)
    assert found == [FinalizeIn(number + 1, channel) for number, channel in enumerate(channels)]


@pytest.mark.parametrize("named", [2, -1, [7, 2]])
def test_finalize_of_a_channel_that_is_not_there(named: Any) -> None:
    dialect = started(STEREO)
    assert say(dialect, "Finalize", channel=named) == []
    (error,) = sent(dialect)
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")
    assert dialect.close_code is None


def test_keep_alive_and_unknown_messages_change_nothing() -> None:
    dialect = started(LINEAR)
    assert say(dialect, "KeepAlive") == []
    assert say(dialect, "Later", more={"x": 1}) == []
    assert sent(dialect) == []


def test_configure_is_refused_and_the_session_goes_on() -> None:
    dialect = started(LINEAR)
    assert say(dialect, "Configure", keyterms=["x"]) == []
    (failure,) = sent(dialect)
    assert failure["type"] == "ConfigureFailure"
    assert failure["request_id"] == "request-1"
    assert dialect.close_code is None


def test_close_stream_ends_with_metadata() -> None:
    dialect = started(LINEAR)
    dialect.receive_data(b"123")
    dialect.receive_data(b"4")
    assert say(dialect, "CloseStream") == [AudioIn(b"12"), AudioIn(b"34"), ByeIn()]
    assert say(dialect, "Finalize") == []
    (results,) = heard(dialect, final(0, "bye"))
    assert results["is_final"]
    (metadata,) = heard(dialect, closed(24_000))
    uuid = model_uuid("tiny.en")
    assert metadata == {
        "type": "Metadata",
        "transaction_key": "deprecated",
        "request_id": "request-1",
        "sha256": hashlib.sha256(b"1234").hexdigest(),
        "created": "2023-11-14T22:13:20.250Z",
        "duration": 1.5,
        "channels": 1,
        "models": [uuid],
        "model_info": {uuid: {"name": "tiny.en", "version": "1", "arch": "earwire"}},
    }
    assert (dialect.close_code, dialect.close_reason) == (1000, "client")


def test_an_empty_message_is_the_old_close_stream() -> None:
    dialect = started(LINEAR)
    dialect.receive_data(b"")
    assert intents(dialect) == [ByeIn()]
    dialect.receive_data(b"")
    assert intents(dialect) == []


def test_metadata_waits_for_all_channels() -> None:
    dialect = started(STEREO)
    say(dialect, "CloseStream")
    assert heard(dialect, closed(16_000), channel=1) == []
    assert dialect.close_code is None
    (metadata,) = heard(dialect, closed(15_000), channel=0)
    assert (metadata["type"], metadata["duration"], metadata["channels"]) == ("Metadata", 1.0, 2)


def test_a_server_that_goes_away_says_so_after_the_finals() -> None:
    dialect = started(LINEAR)
    (metadata,) = heard(dialect, closed(0, "draining"))
    assert metadata["type"] == "Metadata"
    assert (dialect.close_code, dialect.close_reason) == (1000, "draining")
    dialect.receive_data(b"12")
    assert intents(dialect) == []


# --- errors --------------------------------------------------------------------------------


def test_an_error_is_said_once_and_closes() -> None:
    dialect = started(STEREO)
    (error,) = heard(dialect, Error(code=ErrorCode.AT_CAPACITY, message="full"))
    assert error == {"type": "Error", "variant": "at_capacity", "description": "full"}
    assert (dialect.close_code, dialect.close_reason) == (1013, "at_capacity: full")
    assert heard(dialect, Error(code=ErrorCode.INTERNAL, message="x"), channel=1) == []
    assert heard(dialect, partial("late")) == []
    assert heard(dialect, final(0, "late"), channel=1) == []
    assert heard(dialect, closed(0)) == []
    assert heard(dialect, closed(0), channel=1) == []
    assert dialect.close_code == 1013


def test_too_long_without_audio_or_keep_alive() -> None:
    dialect = started(LINEAR)
    assert heard(dialect, Error(code=ErrorCode.IDLE_TIMEOUT, message="idle")) == []
    assert (dialect.close_code, dialect.close_reason) == (1011, "NET-0001")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": 3}', "[" * 5_000, "KeepAlive"])
def test_what_is_no_message_is_answered_and_survived(text: str) -> None:
    dialect = started(LINEAR)
    dialect.receive_data(text)
    (error,) = sent(dialect)
    assert (error["type"], error["variant"]) == ("Error", "SchemaError")
    assert error["message"] == text[:MAX_QUOTED_CHARS]
    assert dialect.close_code is None
    assert say(dialect, "Finalize") == [FinalizeIn(1)]


def test_too_many_of_them_end_the_session() -> None:
    dialect = started(LINEAR)
    for _ in range(MAX_BAD_MESSAGES):
        dialect.receive_data("?")
    assert (len(sent(dialect)), intents(dialect)) == (MAX_BAD_MESSAGES, [])
    dialect.receive_data("?")
    (failure,) = intents(dialect)
    assert isinstance(failure, FailIn)
    assert failure.error.code is ErrorCode.BAD_MESSAGE
    assert sent(dialect)[0]["variant"] == "bad_message"
    assert dialect.close_code == 1008
    dialect.receive_data("?")
    assert intents(dialect) == []


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    dialect = started(LINEAR)
    dialect.receive_data(text)
    intents(dialect)
    sent(dialect)
