"""Together's API as its SDK and Pipecat need it: what goes in, what comes out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import AudioIn, ByeIn, ConfigureIn, FailIn, FinalizeIn, Intent, OpenStream
from gateway.dialects.together import (
    MAX_BAD_MESSAGES,
    MAX_ECHO_BYTES,
    MAX_OPEN_ITEMS,
    TogetherDialect,
)
from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    Closed,
    Error,
    Final,
    NonSpeech,
    Partial,
    VadOptions,
)
from protocol.errors import ErrorCode
from tests.harness import STARTED

QUERY = {"model": ["m"], "input_audio_format": ["pcm_s16le_16000"]}
DEFAULT_VAD = VadOptions(
    threshold=0.3,
    min_speech_ms=250,
    min_silence_ms=500,
    speech_pad_ms=250,
    max_utterance_ms=5_000,
)
PREFIX = "conversation.item.input_audio_transcription."


def dialect_of(**query: str) -> TogetherDialect:
    return TogetherDialect({**QUERY, **{name: [value] for name, value in query.items()}})


def started(**query: str) -> TogetherDialect:
    dialect = dialect_of(**query)
    assert isinstance(dialect.next_event(), OpenStream)
    dialect.handle_event(STARTED, 1)
    (created,) = sent(dialect)
    assert created["type"] == "session.created"
    return dialect


def hello_vad(**query: str) -> VadOptions:
    intent = dialect_of(**query).next_event()
    assert isinstance(intent, OpenStream)
    return intent.hello.vad


def sent(dialect: TogetherDialect) -> list[dict[str, Any]]:
    return [json.loads(item) for item in dialect.data_to_send()]


def intents(dialect: TogetherDialect) -> list[Intent]:
    found: list[Intent] = []
    while (intent := dialect.next_event()) is not None:
        found.append(intent)
    return found


def say(dialect: TogetherDialect, type_: str, **fields: Any) -> list[Intent]:
    dialect.receive_data(json.dumps({"type": type_, **fields}))
    return intents(dialect)


def append(dialect: TogetherDialect, pcm: bytes) -> list[Intent]:
    return say(dialect, "input_audio_buffer.append", audio=base64.b64encode(pcm).decode())


def partial(utterance: int, stable: str, volatile: str, start: int = 0, end: int = 0) -> Partial:
    return Partial(
        audio_received=end,
        audio_decoded=end,
        utterance=utterance,
        start_sample=start,
        end_sample=end,
        stable=stable,
        volatile=volatile,
    )


def final(
    utterance: int, text: str, start: int = 0, end: int = 0, finalize_id: int | None = None
) -> Final:
    return Final(
        audio_received=end,
        audio_decoded=end,
        utterance=utterance,
        start_sample=start,
        end_sample=end,
        text=text,
        finalize_id=finalize_id,
    )


# --- the session ---------------------------------------------------------------------------


def test_the_stream_is_opened_unasked_and_created_is_the_first_frame() -> None:
    dialect = TogetherDialect(
        {**QUERY, "language": ["en"], "intent": ["transcription"]}, token="key"
    )
    (intent,) = intents(dialect)
    assert isinstance(intent, OpenStream)
    hello = intent.hello
    assert (hello.token, hello.model, hello.language) == ("key", "m", "en")
    assert (hello.sample_rate_hz, hello.channels, hello.client) == (16_000, 1, "together")
    assert hello.vad == DEFAULT_VAD
    assert hello.partials
    assert not hello.live
    assert sent(dialect) == []
    dialect.handle_event(STARTED, 1)
    (created,) = sent(dialect)
    session = created["session"]
    assert created["type"] == "session.created"
    assert session["id"] == "s-1"
    assert session["object"] == "realtime.session"
    assert session["model"] == "tiny.en"
    assert session["modalities"] == ["text"]
    assert session["turn_detection"]["type"] == "server_vad"


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [
        ("pcm_s16le_8000", 8_000),
        ("pcm_s16le_16000", 16_000),
        ("pcm_s16le_24000", 24_000),
        ("pcm16", 24_000),
        ("pcm_s16", 24_000),
        ("pcm_s16le", 24_000),
    ],
)
def test_formats(name: str, rate_hz: int) -> None:
    intent = dialect_of(input_audio_format=name).next_event()
    assert isinstance(intent, OpenStream)
    assert intent.hello.sample_rate_hz == rate_hz


@pytest.mark.parametrize("query", [{}, {"input_audio_format": ["opus"]}, {"model": []}])
def test_an_unknown_format_is_explained_and_ends_the_session(query: dict[str, list[str]]) -> None:
    dialect = TogetherDialect(query)
    (intent,) = intents(dialect)
    assert isinstance(intent, FailIn)
    assert intent.error.code is ErrorCode.UNSUPPORTED_FORMAT
    created, failed = sent(dialect)
    assert created["type"] == "session.created"  # without it the SDK hides the message
    assert failed["type"] == PREFIX + "failed"
    assert "event_type" not in failed
    assert "unsupported format" in failed["error"]["message"]
    assert failed["error"]["type"] == "invalid_request_error"
    assert (dialect.close_code, dialect.close_reason[:18]) == (1000, "unsupported_format")
    assert append(dialect, b"12") == []
    dialect.receive_data(b"")
    assert intents(dialect) == []


def test_language_auto_lets_the_model_decide_and_long_names_are_cut() -> None:
    intent = dialect_of(language="auto", model="m" * 1000).next_event()
    assert isinstance(intent, OpenStream)
    assert intent.hello.language is None
    assert intent.hello.model == "m" * 256
    empty = dialect_of(language="", model="").next_event()
    assert isinstance(empty, OpenStream)
    assert (empty.hello.language, empty.hello.model) == (None, None)


# --- voice activity ------------------------------------------------------------------------


def test_vad_parameters_of_the_query() -> None:
    assert hello_vad(turn_detection="none", threshold="0.9") == VadOptions(enabled=False)
    assert hello_vad(turn_detection="server_vad") == DEFAULT_VAD
    assert hello_vad(
        turn_detection="server_vad",
        threshold="0.55",
        min_silence_duration_ms="700",
        min_speech_duration_ms="100.4",
        max_speech_duration_s="12.5",
        speech_pad_ms="0",
    ) == VadOptions(
        threshold=0.55,
        min_speech_ms=100,
        min_silence_ms=700,
        speech_pad_ms=0,
        max_utterance_ms=12_500,
    )


def test_vad_parameters_out_of_range_are_clamped_and_nonsense_is_the_default() -> None:
    vad = hello_vad(
        threshold="7",
        min_silence_duration_ms="-1",
        min_speech_duration_ms="soon",
        max_speech_duration_s="inf",
        speech_pad_ms="nan",
    )
    assert vad == VadOptions(
        threshold=1.0,
        min_speech_ms=250,
        min_silence_ms=32,
        speech_pad_ms=250,
        max_utterance_ms=30_000,
    )


def test_a_session_update_reconfigures_and_is_confirmed() -> None:
    dialect = started(threshold="0.6")
    update = {"turn_detection": {"type": "server_vad", "min_silence_duration_ms": 900}}
    (intent,) = say(dialect, "transcription_session.updated", session=update)
    assert isinstance(intent, ConfigureIn)
    assert (intent.vad.threshold, intent.vad.min_silence_ms) == (0.6, 900)
    (reply,) = sent(dialect)
    assert reply["type"] == "transcription_session.updated"
    assert reply["session"]["turn_detection"]["min_silence_duration_ms"] == 900
    for off in (None, {"type": "none"}):
        (intent,) = say(dialect, "transcription_session.updated", session={"turn_detection": off})
        assert intent == ConfigureIn(VadOptions(enabled=False))
        assert sent(dialect)[0]["session"]["turn_detection"] is None
    (intent,) = say(dialect, "transcription_session.updated", session={"turn_detection": {}})
    assert intent == ConfigureIn(DEFAULT_VAD)


@pytest.mark.parametrize("fields", [{}, {"session": {"prompt": "x", "energy_gate_rms": 1}}])
def test_an_update_without_turn_detection_leaves_it(fields: dict[str, Any]) -> None:
    dialect = started()
    assert say(dialect, "transcription_session.updated", **fields) == []
    assert sent(dialect)[0]["session"]["turn_detection"]["threshold"] == 0.3


@pytest.mark.parametrize("session", [[], "x", {"turn_detection": 3}])
def test_an_update_that_does_not_decode_is_refused(session: Any) -> None:
    dialect = started()
    assert say(dialect, "transcription_session.updated", session=session) == []
    assert sent(dialect)[0]["type"] == "error"


# --- audio ---------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_audio_comes_out_as_whole_samples_and_nothing_is_lost(pieces: list[bytes]) -> None:
    dialect = started()
    audio = b""
    for piece in pieces:
        for intent in append(dialect, piece):
            assert isinstance(intent, AudioIn)
            assert len(intent.pcm) % 2 == 0
            assert len(intent.pcm) > 0
            audio += intent.pcm
    whole = b"".join(pieces)
    assert audio == whole[: len(whole) // 2 * 2]


def test_a_long_append_is_handed_on_in_pieces() -> None:
    pcm = bytes(range(256)) * 2_600 + b"x"
    found = append(started(), pcm)
    pieces = [bytes(intent.pcm) for intent in found if isinstance(intent, AudioIn)]
    assert [len(piece) for piece in pieces] == [MAX_AUDIO_BYTES, MAX_AUDIO_BYTES, 141_312]
    assert b"".join(pieces) == pcm[:-1]


def test_the_end_of_the_client_is_a_goodbye() -> None:
    dialect = started()
    dialect.receive_data(b"")
    assert intents(dialect) == [ByeIn()]
    dialect.receive_data(b"")
    assert intents(dialect) == []
    closed = Closed(
        reason="client", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
    )
    dialect.handle_event(closed, 2)
    assert (dialect.close_code, dialect.close_reason) == (1000, "client")
    assert sent(dialect) == []


# --- transcripts ---------------------------------------------------------------------------


def test_deltas_are_cumulative_in_both_fields_and_completed_ends_the_item() -> None:
    dialect = started()
    for event in (
        partial(0, "", ""),
        partial(0, "", "hello", 8_000, 16_000),
        partial(0, "hello", "world", 8_000, 24_000),
        final(0, "Hello, world.", 8_000, 32_000),
        partial(1, "", "next", 32_000, 40_000),
    ):
        dialect.handle_event(event, 5)
    one, two, done, following = sent(dialect)
    assert [e["type"].removeprefix(PREFIX) for e in (one, two, done)] == [
        "delta", "delta", "completed"
    ]  # fmt: skip
    assert one["delta"] == one["transcript"] == "hello"
    assert two["delta"] == two["transcript"] == "hello world"
    assert (two["start"], two["duration"]) == (0.5, 1.0)
    assert done["transcript"] == "Hello, world."
    assert (done["start"], done["duration"]) == (0.5, 1.5)
    assert one["item_id"] == two["item_id"] == done["item_id"] != following["item_id"]
    assert len({e["event_id"] for e in (one, two, done, following)}) == 4


def test_a_final_without_words_is_silent_unless_somebody_waits_for_it() -> None:
    dialect = started()
    dialect.handle_event(final(0, ""), 1)
    dialect.handle_event(
        NonSpeech(audio_received=1, audio_decoded=1, start_sample=0, end_sample=1), 1
    )
    assert sent(dialect) == []
    dialect.handle_event(partial(1, "", "uh"), 1)
    dialect.handle_event(final(1, ""), 1)
    delta, completed = sent(dialect)
    assert completed["item_id"] == delta["item_id"]
    assert completed["transcript"] == ""


def test_commit_is_answered_by_completed_and_an_empty_one_is_no_error() -> None:
    dialect = started()
    assert say(dialect, "input_audio_buffer.commit") == [FinalizeIn(1)]
    assert say(dialect, "input_audio_buffer.commit") == [FinalizeIn(2)]
    dialect.handle_event(final(0, "words", 0, 16_000, finalize_id=1), 1)
    dialect.handle_event(final(1, "", 16_000, 16_000, finalize_id=2), 1)
    first, second = sent(dialect)
    assert first["transcript"] == "words"
    assert (second["transcript"], second["start"], second["duration"]) == ("", 1.0, 0.0)
    assert first["item_id"] != second["item_id"]


def test_clear_hides_what_came_before_and_sets_the_clock_to_zero() -> None:
    dialect = started(input_audio_format="pcm_s16le_8000")
    append(dialect, bytes(16_000))  # one second, 16,000 ring samples
    dialect.handle_event(partial(0, "", "gone"), 1)
    append(dialect, b"x")
    assert say(dialect, "input_audio_buffer.clear") == [FinalizeIn(1)]
    sent(dialect)
    assert append(dialect, b"yz") == [AudioIn(b"yz")]  # the half sample was cleared too
    assert say(dialect, "input_audio_buffer.clear") == [FinalizeIn(2)]
    for event in (
        final(0, "gone", finalize_id=1),
        partial(1, "", "gone"),
        final(1, "gone", 16_000, 16_002, finalize_id=2),
    ):
        dialect.handle_event(event, 1)
    assert sent(dialect) == []
    dialect.handle_event(partial(2, "", "kept", 16_002, 24_002), 1)
    dialect.handle_event(final(2, "kept", 16_000, 24_002), 1)
    delta, completed = sent(dialect)
    assert (delta["start"], delta["duration"]) == (0.0, 0.5)
    assert (completed["start"], completed["duration"]) == (0.0, 0.5)


def test_a_clear_leaves_what_was_committed_before_it() -> None:
    dialect = started()
    append(dialect, bytes(2 * 16_000))
    assert say(dialect, "input_audio_buffer.commit") == [FinalizeIn(1)]
    append(dialect, bytes(2 * 16_000))
    assert say(dialect, "input_audio_buffer.clear") == [FinalizeIn(2)]
    assert say(dialect, "input_audio_buffer.commit") == [FinalizeIn(3)]
    dialect.handle_event(final(0, "Kept.", 0, 16_000, finalize_id=1), 1)
    dialect.handle_event(final(1, "Gone.", 16_000, 24_000), 1)
    dialect.handle_event(final(2, "Gone too.", 24_000, 32_000, finalize_id=2), 1)
    dialect.handle_event(final(3, "", 32_000, 32_000, finalize_id=3), 1)
    shown = [(event["transcript"], event["start"], event["duration"]) for event in sent(dialect)]
    assert shown == [("Kept.", 0.0, 1.0), ("", 0.0, 0.0)]


def test_items_without_a_final_do_not_pile_up() -> None:
    dialect = started()
    for utterance in range(3 * MAX_OPEN_ITEMS):
        dialect.handle_event(partial(utterance, "", "x"), 1)
    assert len({event["item_id"] for event in sent(dialect)}) == 3 * MAX_OPEN_ITEMS
    dialect.handle_event(final(0, "x"), 1)
    (late,) = sent(dialect)
    assert late["item_id"] == f"item_{3 * MAX_OPEN_ITEMS + 1}"


# --- echo, refusals, errors ----------------------------------------------------------------


@pytest.mark.parametrize("echo_id", [17, "abc", None, {"a": [1]}, 1.5])
def test_an_echo_is_answered_at_once_with_its_own_id(echo_id: Any) -> None:
    dialect = TogetherDialect(QUERY, wall_offset_ns=1_000_000_000)
    dialect.now_ns = 500_000_000
    intents(dialect)
    assert say(dialect, "echo", echo_id=echo_id, client_sent_at=3, payload=[1]) == []
    (reply,) = sent(dialect)
    assert reply["type"] == "echo.response"
    assert reply["echo_id"] == echo_id
    assert (reply["client_sent_at"], reply["payload"]) == (3, [1])
    assert reply["server_received_at"] == reply["server_sent_at"] == 1.5


def test_an_echo_without_anything_and_one_with_too_much() -> None:
    dialect = started()
    say(dialect, "echo")
    say(dialect, "echo", echo_id=1, payload="x" * MAX_ECHO_BYTES)
    bare, large = sent(dialect)
    assert bare["echo_id"] is None
    assert (large["echo_id"], large["payload"]) == (1, None)


@pytest.mark.parametrize(
    "message",
    [
        "", "{", "null", "[]", '"x"', "{}", '{"type":5}', '{"type":"x"} x', "[" * 100_000,
        '{"type":"input_audio_buffer.append","audio":"not base64"}',
        '{"type":"input_audio_buffer.append","audio":5}',
        b"\x00\x01",
    ],
)  # fmt: skip
def test_what_is_not_a_message_is_refused_and_the_session_goes_on(message: str | bytes) -> None:
    dialect = started()
    dialect.receive_data(message)
    assert intents(dialect) == []
    (reply,) = sent(dialect)
    assert reply["type"] == "error"
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert append(dialect, b"ab") == [AudioIn(b"ab")]
    assert dialect.close_code is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    dialect = started()
    dialect.receive_data(text)
    intents(dialect)
    sent(dialect)


def test_too_many_bad_messages_end_the_session() -> None:
    dialect = started()
    for _ in range(MAX_BAD_MESSAGES + 5):
        dialect.receive_data("{")
    (intent,) = intents(dialect)
    assert isinstance(intent, FailIn)
    *errors, failed = sent(dialect)
    assert len(errors) == MAX_BAD_MESSAGES
    assert failed["type"] == PREFIX + "failed"
    assert dialect.close_code == 1000


def test_unknown_types_and_empty_appends_are_ignored() -> None:
    dialect = started()
    assert say(dialect, "response.create") == []
    assert say(dialect, "input_audio_buffer.append") == []
    assert sent(dialect) == []


@pytest.mark.parametrize(
    ("code", "wire_code", "close_code"),
    [
        (ErrorCode.SERVICE_LOST, "no_healthy_workers", 4503),
        (ErrorCode.AT_CAPACITY, "no_healthy_workers", 4503),
        (ErrorCode.DRAINING, "no_healthy_workers", 4503),
        (ErrorCode.IDLE_TIMEOUT, "idle_timeout", 1000),
        (ErrorCode.UNKNOWN_MODEL, "model_not_available", 1000),
        (ErrorCode.UNAUTHORIZED, "invalid_api_key", 1000),
        (ErrorCode.INTERNAL, "internal_error", 1011),
        (ErrorCode.SLOW_READER, "slow_reader", 1008),
        (ErrorCode.AUDIO_GAP, "audio_gap", 1000),
    ],
)
def test_stream_errors_in_togethers_words(code: ErrorCode, wire_code: str, close_code: int) -> None:
    dialect = started()
    dialect.handle_event(Error(code=code, message="why"), 1)
    (failed,) = sent(dialect)
    assert failed["type"] == PREFIX + "failed"
    assert failed["item_id"] is None
    assert failed["error"]["code"] == wire_code
    assert failed["error"]["message"] == "why"
    assert dialect.close_code == close_code
    assert dialect.close_reason == f"{wire_code}: why"
    assert append(dialect, b"ab") == []


def test_the_first_reason_to_close_stays() -> None:
    dialect = started()
    dialect.handle_event(Error(code=ErrorCode.SERVICE_LOST, message="gone"), 1)
    closed = Closed(
        reason="x", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
    )
    sent(dialect)
    dialect.handle_event(partial(0, "", "late"), 2)
    dialect.handle_event(final(0, "late", 0, 16_000), 2)
    dialect.handle_event(closed, 2)
    assert sent(dialect) == []  # `failed` was the last word
    assert (dialect.close_code, dialect.now_ns) == (4503, 2)


def test_errors_before_the_session_began() -> None:
    full = dialect_of()
    full.handle_event(Error(code=ErrorCode.AT_CAPACITY, message="full"), 1)
    assert sent(full) == []  # the SDK understands the close code, and no other first frame
    assert full.close_code == 4503
    wrong = dialect_of()
    wrong.handle_event(Error(code=ErrorCode.UNKNOWN_MODEL, message="no m"), 1)
    created, failed = sent(wrong)
    assert created["type"] == "session.created"
    assert failed["error"]["code"] == "model_not_available"
