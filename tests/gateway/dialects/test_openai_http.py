"""OpenAI's file transcription: forms in any order and split, five formats, a stream, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.dialects import (
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    HttpChunk,
    HttpReply,
    Intent,
    OpenStream,
    Output,
    ReopenStream,
)
from gateway.dialects.hello_fields import MAX_HOTWORD_CHARS, MAX_PROMPT_CHARS
from gateway.dialects.openai_http import OpenAiFileDialect, error_reply
from gateway.errors import refusal
from protocol.client_messages import MAX_HOTWORDS, Closed, Final, NonSpeech, Word
from protocol.errors import ErrorCode
from tests.harness import STARTED, chunkings

HEADERS = {"content-type": "multipart/form-data; boundary=xyz"}
AUDIO = b"fLaC\r\n--xy"


def form(*parts: tuple[str, str | bytes]) -> bytes:
    """A str is a field, bytes are a file."""
    body = b""
    for name, value in parts:
        head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            body += f'{head}; filename="a.flac"\r\n\r\n'.encode() + value + b"\r\n"
        else:
            body += f"{head}\r\n\r\n{value}\r\n".encode()
    return body + b"--xyz--\r\n"


def dialect_of(*, translates: bool = False) -> OpenAiFileDialect:
    return OpenAiFileDialect(HEADERS, "key", translates=translates)


def intents(dialect: OpenAiFileDialect) -> list[Intent]:
    """With the pieces of the file joined."""
    found: list[Intent] = []
    while (intent := dialect.next_event()) is not None:
        if isinstance(intent, EncodedIn) and found and isinstance(found[-1], EncodedIn):
            found[-1] = EncodedIn(found[-1].data + intent.data)
        else:
            found.append(intent)
    return found


def post(*parts: tuple[str, str | bytes]) -> OpenAiFileDialect:
    """A dialect whose body is complete."""
    dialect = dialect_of()
    dialect.receive_data(form(*parts))
    dialect.end_of_body()
    return dialect


def posted(*parts: tuple[str, str | bytes]) -> OpenAiFileDialect:
    """A good request with a file, intents taken."""
    dialect = post(*parts, ("file", AUDIO))
    opened, *_, end = intents(dialect)
    assert isinstance(opened, OpenStream)
    assert end == EncodedEnd()
    dialect.handle_event(STARTED, 1)
    assert dialect.data_to_send() == []
    return dialect


def final(
    utterance: int,
    text: str,
    start_s: float,
    end_s: float,
    *words: Word,
    language: str | None = "en",
) -> Final:
    return Final(
        audio_received=0,
        audio_decoded=0,
        utterance=utterance,
        start_sample=int(start_s * 16_000),
        end_sample=int(end_s * 16_000),
        text=text,
        words=words,
        language=language,
    )


HELLO = final(
    0, "Hello you.", 0.5, 1.5, Word(" Hello", 9_600, 14_400, 0.5), Word("you.", 16_000, 22_400, 1.0)
)
BYE = final(2, "Bye <now>.", 2.0, 3.0)
SILENT = final(1, "", 1.5, 2.0)
CLOSED = Closed(
    reason="client",
    client_samples=56_000,
    socket_samples=56_000,
    ring_samples=56_000,
    engine_samples=56_000,
)


def hear(dialect: OpenAiFileDialect) -> list[Output]:
    out: list[Output] = []
    gap = NonSpeech(audio_received=0, audio_decoded=0, start_sample=0, end_sample=1)
    for event in (gap, HELLO, SILENT, BYE, CLOSED):
        dialect.handle_event(event, 1)
        out += dialect.data_to_send()
    return out


def answer(*parts: tuple[str, str | bytes]) -> HttpReply:
    (reply,) = hear(posted(*parts))
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.is_last) == (200, True)
    return reply


# --- the request ---------------------------------------------------------------------------


def test_a_form_in_every_split_opens_a_stream_and_feeds_it() -> None:
    body = form(("model", "whisper-1"), ("language", "en"), ("prompt", "Names."), ("file", AUDIO))
    for chunks in chunkings(body):
        dialect = dialect_of()
        found: list[Intent] = []
        for chunk in chunks:
            dialect.receive_data(chunk)
            found += intents(dialect)
        dialect.end_of_body()
        opened, *data, end = found + intents(dialect)
        assert isinstance(opened, OpenStream)
        assert (opened.any_model, opened.container) == (True, Container.FILE)
        hello = opened.hello
        assert (hello.token, hello.model, hello.language) == ("key", "whisper-1", "en")
        assert (hello.prompt, hello.partials, hello.client) == ("Names.", False, "openai_http")
        assert b"".join(piece.data for piece in data if isinstance(piece, EncodedIn)) == AUDIO
        assert end == EncodedEnd()
        assert dialect.data_to_send() == []


def test_the_stream_is_asked_for_before_the_file_is_complete() -> None:
    dialect = dialect_of()
    dialect.receive_data(form(("file", AUDIO))[:80])
    assert isinstance(dialect.next_event(), OpenStream)


def test_fields_behind_the_file_count_as_well() -> None:
    opened, data, again, end = intents(
        post(("file", AUDIO), ("language", "de"), ("stream", "true"))
    )
    assert isinstance(opened, OpenStream)
    assert opened.hello.language is None
    assert data == EncodedIn(AUDIO)
    assert isinstance(again, ReopenStream)
    assert (again.hello.language, again.any_model) == ("de", True)
    assert end == EncodedEnd()


def test_fields_behind_the_file_that_change_no_stream_ask_for_none() -> None:
    dialect = post(("file", AUDIO), ("response_format", "text"))
    assert [type(intent) for intent in intents(dialect)] == [OpenStream, EncodedIn, EncodedEnd]
    (reply,) = hear(dialect)
    assert isinstance(reply, HttpReply)
    assert reply.body == b"Hello you. Bye <now>.\n"


def test_hotwords_and_prompts_are_cut_to_their_limits() -> None:
    many = ",".join(f"w{n}" for n in range(MAX_HOTWORDS))
    opened, *_ = intents(
        post(
            ("keywords[]", "Earwire, Parakeet"),
            ("keywords", "x" * (MAX_HOTWORD_CHARS + 1)),
            ("keywords[]", "Earwire"),
            ("prompt", "a" * MAX_PROMPT_CHARS + "end"),
            ("file", AUDIO),
        )
    )
    assert isinstance(opened, OpenStream)
    assert opened.hello.hotwords == ("Earwire", "Parakeet")
    assert len(opened.hello.prompt) == MAX_PROMPT_CHARS
    assert opened.hello.prompt.endswith("aend")
    opened, *_ = intents(post(("keywords", many), ("keywords", "more"), ("file", AUDIO)))
    assert isinstance(opened, OpenStream)
    assert len(opened.hello.hotwords) == MAX_HOTWORDS


def test_other_files_and_unknown_fields_are_skipped() -> None:
    dialect = post(("image", b"PNG"), ("include[]", "logprobs"), ("file", AUDIO))
    assert [type(intent) for intent in intents(dialect)] == [OpenStream, EncodedIn, EncodedEnd]


def test_a_client_that_vanished_asks_for_nothing_more() -> None:
    dialect = dialect_of()
    dialect.receive_data(form(("file", AUDIO))[:90])
    intents(dialect)
    dialect.receive_data(b"")
    assert intents(dialect) == []
    with pytest.raises(AssertionError):
        dialect.receive_data("text")


@pytest.mark.parametrize(
    ("parts", "param", "message"),
    [
        ([("model", "m")], "file", "no file"),
        ([("file", "text")], "file", "no file"),
        ([("file", AUDIO), ("file", AUDIO)], "file", "one file"),
        ([("response_format", "mp3"), ("file", AUDIO)], "response_format", "verbose_json"),
        ([("file", AUDIO), ("response_format", "diarized_json")], "response_format", "srt"),
        ([("temperature", "hot"), ("file", AUDIO)], "temperature", "from 0 to 1"),
        ([("temperature", "nan"), ("file", AUDIO)], "temperature", "from 0 to 1"),
        (
            [("timestamp_granularities[]", "day"), ("file", AUDIO)],
            "timestamp_granularities",
            "word",
        ),
    ],
)
def test_what_a_form_gets_wrong(
    parts: list[tuple[str, str | bytes]], param: str, message: str
) -> None:
    dialect = post(*parts)
    *_, failed = intents(dialect)
    assert isinstance(failed, FailIn)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert reply.status == 400
    error = json.loads(reply.body)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
    assert message in error["message"]
    dialect.receive_data(b"more")
    dialect.end_of_body()
    dialect.handle_event(CLOSED, 1)
    assert dialect.data_to_send() == []
    assert intents(dialect) == []


def test_what_is_no_form() -> None:
    dialect = OpenAiFileDialect({"content-type": "application/json"}, "")
    dialect.receive_data(b"{}")
    (failed,) = intents(dialect)
    assert isinstance(failed, FailIn)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert json.loads(reply.body)["error"]["param"] is None


# --- the answer ----------------------------------------------------------------------------


def test_json_is_the_default() -> None:
    reply = answer()
    assert reply.content_type == "application/json"
    assert json.loads(reply.body) == {
        "text": "Hello you. Bye <now>.",
        "usage": {"type": "duration", "seconds": 3.5},
    }


@pytest.mark.parametrize("form_name", ["text", "srt", "vtt"])
def test_plain_formats_are_plain_text(form_name: str) -> None:
    reply = answer(("response_format", form_name))
    assert reply.content_type == "text/plain; charset=utf-8"
    assert b"Hello you." in reply.body


def test_verbose_json_has_segments() -> None:
    fields = json.loads(answer(("response_format", "verbose_json"), ("temperature", "0.5")).body)
    assert list(fields) == ["task", "language", "duration", "text", "segments", "usage"]
    assert (fields["language"], fields["duration"]) == ("en", 3.5)
    assert [(s["id"], s["start"], s["end"], s["text"]) for s in fields["segments"]] == [
        (0, 0.5, 1.5, "Hello you."),
        (1, 2.0, 3.0, "Bye <now>."),
    ]
    assert fields["segments"][0]["temperature"] == 0.5


def test_verbose_json_has_words_when_asked() -> None:
    parts = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")]
    fields = json.loads(answer(*parts).body)
    assert "segments" not in fields
    assert fields["words"][0] == {"word": "Hello", "start": 0.6, "end": 0.9}
    assert [word["word"] for word in fields["words"]] == ["Hello", "you.", "Bye", "<now>."]
    both = [*parts, ("timestamp_granularities[]", "segment")]
    assert {"words", "segments"} <= json.loads(answer(*both).body).keys()


def events(data: bytes) -> list[Any]:
    lines = data.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_stream_has_a_delta_for_each_final_and_their_sum_is_the_text() -> None:
    head, chunk, last = hear(posted(("stream", "true")))
    assert isinstance(head, HttpReply)
    assert isinstance(chunk, HttpChunk)
    assert isinstance(last, HttpChunk)
    assert (head.content_type, head.is_last) == ("text/event-stream; charset=utf-8", False)
    assert head.headers == (("Cache-Control", "no-cache"),)
    assert (chunk.is_last, last.is_last) == (False, True)
    first, second, done, end = events(head.body + chunk.body + last.body)
    assert first == {"type": "transcript.text.delta", "delta": "Hello you."}
    assert second["delta"] == " Bye <now>."
    assert done == {
        "type": "transcript.text.done",
        "text": first["delta"] + second["delta"],
        "usage": {"type": "duration", "seconds": 3.5},
    }
    assert end == "[DONE]"


def test_a_stream_about_silence_is_one_reply() -> None:
    dialect = posted(("stream", "true"))
    dialect.handle_event(CLOSED, 1)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert reply.is_last
    assert [e if isinstance(e, str) else e["type"] for e in events(reply.body)] == [
        "transcript.text.done",
        "[DONE]",
    ]


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "type_", "wire_code", "param", "headers"),
    [
        (ErrorCode.UNAUTHORIZED, 401, "invalid_request_error", "invalid_api_key", None,
         (("WWW-Authenticate", "Bearer"),)),
        (ErrorCode.UNKNOWN_MODEL, 404, "invalid_request_error", "model_not_found", "model", ()),
        (ErrorCode.TOO_LARGE, 413, "invalid_request_error", "file_too_large", "file", ()),
        (ErrorCode.RATE_LIMITED, 429, "rate_limit_error", "rate_limit_exceeded", None,
         (("Retry-After", "2"),)),
        (ErrorCode.AT_CAPACITY, 503, "server_error", "service_unavailable", None,
         (("Retry-After", "2"),)),
        (ErrorCode.BAD_AUDIO, 400, "invalid_request_error", "invalid_file_format", "file", ()),
        (ErrorCode.UNKNOWN_LANGUAGE, 400, "invalid_request_error", "unsupported_language",
         "language", ()),
        (ErrorCode.BAD_FRAME, 400, "invalid_request_error", None, None, ()),
    ],
)  # fmt: skip
def test_errors_of_the_session(
    code: ErrorCode, status: int, type_: str, wire_code: str | None, param: str | None,
    headers: tuple[tuple[str, str], ...],
) -> None:  # fmt: skip
    dialect = posted()
    dialect.handle_event(refusal(code, "because"), 1)
    dialect.handle_event(CLOSED, 2)
    (reply,) = dialect.data_to_send()
    body = {"message": "because", "type": type_, "param": param, "code": wire_code}
    assert isinstance(reply, HttpReply)
    assert (reply.status, reply.headers) == (status, headers)
    assert json.loads(reply.body) == {"error": body}


def test_an_error_before_the_body() -> None:
    dialect = dialect_of()
    dialect.handle_event(refusal(ErrorCode.UNAUTHORIZED, "who?"), 1)
    (reply,) = dialect.data_to_send()
    assert isinstance(reply, HttpReply)
    assert reply.status == 401


def test_an_error_in_the_middle_of_a_stream_is_an_event() -> None:
    dialect = posted(("stream", "true"))
    dialect.handle_event(HELLO, 1)
    dialect.handle_event(refusal(ErrorCode.SERVICE_LOST, "gone"), 1)
    head, last = dialect.data_to_send()
    assert isinstance(head, HttpReply)
    assert isinstance(last, HttpChunk)
    assert last.is_last
    (event,) = events(last.body)
    assert event["error"]["message"] == "gone"


def test_errors_of_the_transport_have_the_same_shape() -> None:
    assert json.loads(error_reply(408, "slow"))["error"]["code"] == "timeout"
    assert json.loads(error_reply(400, "odd"))["error"]["code"] is None


def test_a_stream_that_nobody_asked_for_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        dialect_of().handle_event(CLOSED, 1)


def test_a_translation_differs_in_its_task() -> None:
    dialect = dialect_of(translates=True)
    dialect.receive_data(form(("response_format", "verbose_json"), ("file", AUDIO)))
    dialect.end_of_body()
    opened, *_ = intents(dialect)
    assert isinstance(opened, OpenStream)
    assert opened.hello.translate
    dialect.handle_event(STARTED, 1)
    dialect.handle_event(HELLO, 2)
    dialect.handle_event(CLOSED, 3)
    (reply,) = dialect.data_to_send()
    assert json.loads(reply.body)["task"] == "translate"  # type: ignore[union-attr]
