"""Deepgram's pre-recorded audio: the body is the file, one document is the answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from gateway.dialects import Container, EncodedEnd, EncodedIn, FailIn, HttpReply, Intent, OpenStream
from gateway.dialects.deepgram_http import DeepgramFileDialect, error_reply
from gateway.errors import refusal
from protocol.client_messages import Closed, Final, NonSpeech, VadOptions, Word
from protocol.errors import ErrorCode
from tests.harness import STARTED

CLOSED = Closed(
    reason="client",
    client_samples=56_000,
    socket_samples=56_000,
    ring_samples=56_000,
    engine_samples=56_000,
)


def final(utterance: int, text: str, *words: Word, language: str | None = "en") -> Final:
    return Final(
        audio_received=0, audio_decoded=0, utterance=utterance, start_sample=8_000 * utterance,
        end_sample=8_000 * utterance + 8_000, text=text, words=words, language=language,
    )  # fmt: skip


FINALS = (
    final(0, "Hello you.", Word("Hello", 0, 4_000, 0.5), Word("you.", 4_000, 8_000, 1.0)),
    final(1, ""),
    final(2, "Bye.", Word("Bye.", 16_000, 20_000, 0.9)),
)


def dialect_of(content_type: str = "audio/flac", **query: str) -> DeepgramFileDialect:
    fields = {name: [value] for name, value in query.items()}
    return DeepgramFileDialect({"content-type": content_type}, fields, "key", "r-1", 1_700_000_000)


def intents(dialect: DeepgramFileDialect) -> list[Intent]:
    found: list[Intent] = []
    while (intent := dialect.next_event()) is not None:
        found.append(intent)
    return found


def answer(**query: str) -> Any:
    dialect = dialect_of(**query)
    dialect.receive_data(b"fLaC")
    dialect.receive_data(b"more")
    dialect.end_of_body()
    gap = NonSpeech(audio_received=0, audio_decoded=0, start_sample=0, end_sample=1)
    for event in (STARTED, gap, *FINALS):
        dialect.handle_event(event, 1)
    assert dialect.data_to_send() == []
    dialect.handle_event(CLOSED, 1)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.content_type) == (200, "application/json")
    return json.loads(reply.body)


# --- the request ---------------------------------------------------------------------------


def test_the_body_is_the_file() -> None:
    dialect = dialect_of(model="nova-3", language="en-US", keyterm="Earwire")
    (opened,) = intents(dialect)
    assert isinstance(opened, OpenStream)
    assert (opened.any_model, opened.container) == (True, Container.FILE)
    hello = opened.hello
    assert (hello.token, hello.model, hello.language) == ("key", "nova-3", "en-US")
    assert (hello.hotwords, hello.partials, hello.vad) == (("Earwire",), False, VadOptions())
    dialect.receive_data(b"fLaC")
    dialect.receive_data(b"")  # vanished: the shell knows
    assert intents(dialect) == [EncodedIn(b"fLaC")]
    dialect.end_of_body()
    assert intents(dialect) == [EncodedEnd()]
    with pytest.raises(AssertionError):
        dialect.receive_data("text")


def test_headerless_audio_gets_the_head_of_a_wav_file_once() -> None:
    dialect = dialect_of(encoding="mulaw", sample_rate="8000")
    dialect.receive_data(b"abc")
    dialect.receive_data(b"def")
    _, first, second = intents(dialect)
    assert isinstance(first, EncodedIn)
    assert first.data.startswith(b"RIFF")
    assert first.data.endswith(b"\xff\xff\xff\xffabc")
    assert second == EncodedIn(b"def")


@pytest.mark.parametrize(
    ("content_type", "query", "message"),
    [
        ("application/json; charset=utf-8", {}, "fetches nothing"),
        ("audio/wav", {"callback": "https://a.example"}, "callback"),
        ("audio/wav", {"multichannel": "true"}, "the channels of a file are mixed"),
        ("audio/wav", {"multichannel": "true", "channels": "2"}, "of a file are mixed"),
        ("audio/wav", {"redact": "pci"}, "redact"),
        ("audio/wav", {"encoding": "amr-wb"}, "encoding"),
    ],
)
def test_what_is_not_done_here_is_refused(
    content_type: str, query: dict[str, str], message: str
) -> None:
    dialect = dialect_of(content_type, **query)
    (failed,) = intents(dialect)
    assert isinstance(failed, FailIn)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert reply.status == 400
    body = json.loads(reply.body)
    assert (body["err_code"], body["request_id"]) == ("Bad Request", "r-1")
    assert message in body["err_msg"]
    dialect.receive_data(b"{}")
    dialect.end_of_body()
    dialect.handle_event(CLOSED, 1)
    assert (intents(dialect), dialect.data_to_send()) == ([], [])


# --- the answer ----------------------------------------------------------------------------


def test_the_document_has_metadata_and_one_channel() -> None:
    document = answer()
    metadata = document["metadata"]
    assert metadata["sha256"] == hashlib.sha256(b"fLaCmore").hexdigest()
    assert (metadata["request_id"], metadata["duration"], metadata["channels"]) == ("r-1", 3.5, 1)
    assert metadata["created"] == "2023-11-14T22:13:20.000Z"
    (model_id,) = metadata["models"]
    assert metadata["model_info"][model_id]["name"] == "tiny.en"
    (channel,) = document["results"]["channels"]
    assert list(document["results"]) == ["channels"]
    (alternative,) = channel["alternatives"]
    assert alternative["transcript"] == "hello you bye"
    assert alternative["confidence"] == 0.8
    assert alternative["words"][2] == {"word": "bye", "start": 1.0, "end": 1.25, "confidence": 0.9}


def test_formatting_is_for_those_who_ask() -> None:
    (channel,) = answer(smart_format="true")["results"]["channels"]
    (alternative,) = channel["alternatives"]
    assert alternative["transcript"] == "Hello you. Bye."
    assert [word["punctuated_word"] for word in alternative["words"]] == ["Hello", "you.", "Bye."]


def test_utterances_and_the_detected_language() -> None:
    results = answer(utterances="true", punctuate="true", detect_language="true")["results"]
    assert results["channels"][0]["detected_language"] == "en"
    first, second = results["utterances"]
    assert (first["transcript"], first["start"], first["end"]) == ("Hello you.", 0.0, 0.5)
    assert (second["confidence"], second["channel"], len(second["words"])) == (0.9, 0, 1)
    assert first["id"] != second["id"]


def test_silence_has_no_language() -> None:
    dialect = dialect_of(detect_language="true", utterances="true")
    dialect.handle_event(CLOSED, 1)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    results = json.loads(reply.body)["results"]
    alternative = {"transcript": "", "confidence": 0.0, "words": []}
    assert results == {"channels": [{"alternatives": [alternative]}], "utterances": []}


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (ErrorCode.UNAUTHORIZED, 401, "INVALID_AUTH"),
        (ErrorCode.TOO_LARGE, 413, "PAYLOAD_TOO_LARGE"),
        (ErrorCode.RATE_LIMITED, 429, "TOO_MANY_REQUESTS"),
        (ErrorCode.BAD_AUDIO, 400, "Bad Request"),
        (ErrorCode.SERVICE_LOST, 503, "SERVICE_UNAVAILABLE"),
    ],
)
def test_errors_of_the_session(code: ErrorCode, status: int, name: str) -> None:
    dialect = dialect_of()
    dialect.handle_event(refusal(code, "because"), 1)
    dialect.handle_event(CLOSED, 2)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert reply.status == status
    body = {"err_code": name, "err_msg": "because", "request_id": "r-1"}
    assert json.loads(reply.body) == body


def test_errors_of_the_transport_know_no_request() -> None:
    assert json.loads(error_reply(408, "slow")) == {"err_code": "SLOW_UPLOAD", "err_msg": "slow"}
