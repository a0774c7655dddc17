"""Wyoming as Home Assistant speaks it: what goes in, what comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import AnsweredIn, AudioIn, ByeIn, FailIn, Intent, OpenStream
from gateway.dialects.hello_fields import MAX_HOTWORD_CHARS
from gateway.dialects.wyoming import (
    MAX_DESCRIBES,
    MAX_PING_CHARS,
    PARAKEET_V3_LANGUAGES,
    WyomingDialect,
    model_languages,
)
from gateway.dialects.wyoming_events import Event, EventReader
from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    MAX_HOTWORDS,
    Closed,
    Error,
    Final,
    NonSpeech,
)
from protocol.errors import MAX_MESSAGE_CHARS, ErrorCode
from tests.harness import STARTED, random_cuts

MONO = {"rate": 16_000, "width": 2, "channels": 1}
CLOSED = Closed(
    reason="client", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
)


def dialect_of(*models: str) -> WyomingDialect:
    return WyomingDialect(lambda: models or ("tiny.en",))


def written(type_: str, payload: bytes = b"", **data: Any) -> bytes:
    """As the Python package writes it: data behind the line."""
    body = json.dumps(data).encode() if data else b""
    line: dict[str, Any] = {"type": type_, "version": "1.10.2"}
    if body:
        line["data_length"] = len(body)
    if payload:
        line["payload_length"] = len(payload)
    return json.dumps(line).encode() + b"\n" + body + payload


def intents(dialect: WyomingDialect) -> list[Intent]:
    """What it wants of its stream."""
    found: list[Intent] = []
    while (intent := dialect.next_event()) is not None:
        if not isinstance(intent, AnsweredIn):
            found.append(intent)
    return found


def say(dialect: WyomingDialect, type_: str, payload: bytes = b"", **data: Any) -> list[Intent]:
    dialect.receive_data(written(type_, payload, **data))
    return intents(dialect)


def sent(dialect: WyomingDialect) -> list[tuple[str, dict[str, Any]]]:
    reader = EventReader()
    found = []
    for item in dialect.data_to_send():
        assert isinstance(item, bytes)
        reader.receive_data(item)
    while (event := reader.next_event()) is not None:
        assert isinstance(event, Event)
        found.append((event.type, event.data))
    return found


def opened(**transcribe: Any) -> WyomingDialect:
    dialect = dialect_of()
    say(dialect, "transcribe", **transcribe)
    (intent,) = say(dialect, "audio-start", **MONO)
    assert isinstance(intent, OpenStream)
    dialect.handle_event(STARTED, 1)
    assert sent(dialect) == []
    return dialect


def hello_of(dialect: WyomingDialect, **audio: Any) -> Any:
    (intent,) = say(dialect, "audio-start", **{**MONO, **audio})
    assert isinstance(intent, OpenStream)
    assert intent.any_model
    return intent.hello


def final(text: str, language: str | None = None) -> Final:
    return Final(
        audio_received=0, audio_decoded=0, utterance=0, start_sample=0, end_sample=0, text=text,
        language=language,
    )  # fmt: skip


def failure(found: list[Intent]) -> ErrorCode:
    assert isinstance(found[-1], FailIn)
    return found[-1].error.code


# --- describe, ping ------------------------------------------------------------------------


def test_describe_lists_models_with_their_languages() -> None:
    known = {"base": ("de", "en")}
    dialect = WyomingDialect(lambda: ("tiny.en", "base"), lambda model: known.get(model, ()))
    assert say(dialect, "describe") == []
    ((kind, info),) = sent(dialect)
    assert kind == "info"
    (program,) = info["asr"]
    assert program["name"] == "earwire"
    assert program["supports_transcript_streaming"] is True
    assert program["requires_external_vad"] is True
    assert {"name", "attribution", "installed", "description", "version"} <= set(program)
    assert [(m["name"], m["languages"], m["installed"]) for m in program["models"]] == [
        ("tiny.en", ["en"], True),
        ("base", ["de", "en"], True),
    ]
    assert all(model["attribution"] == {"name": model["name"], "url": ""}
               for model in program["models"])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "known", "languages"),
    [
        ("small.en", ("de",), ("en",)),
        ("small", ("de", "fr"), ("de", "fr")),
        ("nvidia/parakeet-tdt-0.6b-v3", (), PARAKEET_V3_LANGUAGES),
        ("nvidia/parakeet-tdt-0.6b-v2", (), ("en",)),
        ("engine", (), ("en",)),
    ],
)
def test_model_languages(name: str, known: tuple[str, ...], languages: tuple[str, ...]) -> None:
    assert model_languages(name, known) == languages


def test_too_many_describes_end_the_connection() -> None:
    dialect = dialect_of()
    for _ in range(MAX_DESCRIBES):
        assert say(dialect, "describe") == []
    assert failure(say(dialect, "describe")) is ErrorCode.BAD_MESSAGE
    assert [kind for kind, _ in sent(dialect)] == ["info"] * MAX_DESCRIBES + ["error"]
    assert say(dialect, "describe") == []
    assert sent(dialect) == []


def test_ping_is_answered() -> None:
    dialect = dialect_of()
    say(dialect, "ping", text="are you there")
    say(dialect, "ping")
    say(dialect, "ping", text="x" * (MAX_PING_CHARS + 1))
    say(dialect, "ping", text=3)
    assert sent(dialect) == [
        ("pong", {"text": "are you there"}),
        ("pong", {"text": None}),
        ("pong", {"text": None}),
        ("pong", {"text": None}),
    ]


def test_an_event_that_asks_for_nothing_is_work_as_well() -> None:
    """Else a flood of them would be worked off in one go, however long the others wait."""
    dialect = dialect_of()
    dialect.receive_data(3 * written("ping") + written("select-program") + written("audio-stop"))
    for num_sent in (1, 1, 1, 0, 1):
        assert dialect.next_event() == AnsweredIn()
        assert len(sent(dialect)) == num_sent
    assert dialect.next_event() is None


def test_other_events_are_ignored() -> None:
    dialect = dialect_of()
    assert say(dialect, "select-program", name="earwire") == []
    assert say(dialect, "run-satellite", b"payload") == []
    assert sent(dialect) == []


# --- one utterance -------------------------------------------------------------------------


def test_the_sequence_of_home_assistant() -> None:
    dialect = dialect_of()
    assert say(dialect, "transcribe", language="en", name="tiny.en") == []
    (intent,) = say(dialect, "audio-start", **MONO, timestamp=0)
    assert isinstance(intent, OpenStream)
    hello = intent.hello
    assert (hello.language, hello.model, hello.client) == ("en", "tiny.en", "wyoming")
    assert (hello.sample_rate_hz, hello.channels, hello.partials) == (16_000, 1, False)
    dialect.handle_event(STARTED, 1)
    assert say(dialect, "audio-chunk", b"1234", **MONO, timestamp=None) == [AudioIn(b"1234")]
    assert say(dialect, "audio-stop") == [ByeIn()]
    dialect.handle_event(final("Turn on the light."), 2)
    assert sent(dialect) == [
        ("transcript-start", {"language": "en"}),
        ("transcript-chunk", {"text": "Turn on the light."}),
    ]
    dialect.handle_event(CLOSED, 3)
    assert sent(dialect) == [
        ("transcript", {"text": "Turn on the light."}),
        ("transcript-stop", {}),
    ]


def test_chunks_add_up_to_the_transcript() -> None:
    dialect = opened()
    for text in ("One.", "", "Two.", "Three."):
        dialect.handle_event(final(text, "en"), 1)
    dialect.handle_event(NonSpeech(audio_received=0, audio_decoded=0, start_sample=0,
                                   end_sample=1), 1)  # fmt: skip
    dialect.handle_event(CLOSED, 1)
    found = sent(dialect)
    assert found[0] == ("transcript-start", {"language": "en"})
    chunks = [data["text"] for kind, data in found if kind == "transcript-chunk"]
    assert chunks == ["One.", " Two.", " Three."]
    assert ("transcript", {"text": "".join(chunks)}) in found
    assert found[-1] == ("transcript-stop", {})


def test_nothing_was_said() -> None:
    dialect = opened()
    say(dialect, "audio-stop")
    dialect.handle_event(final(""), 1)
    dialect.handle_event(CLOSED, 1)
    assert sent(dialect) == [
        ("transcript-start", {}),
        ("transcript", {"text": ""}),
        ("transcript-stop", {}),
    ]


def test_a_stop_without_audio_is_answered_and_the_connection_stays() -> None:
    dialect = dialect_of()
    assert say(dialect, "audio-stop") == []
    assert sent(dialect) == [("transcript", {"text": ""})]
    assert len(say(dialect, "audio-start", **MONO)) == 1


def test_a_client_without_audio_start_says_the_format_in_its_chunks() -> None:
    dialect = dialect_of()
    # half of two channels waits for its rest
    (intent,) = say(dialect, "audio-chunk", b"12", rate=22_050, width=2, channels=2)
    assert isinstance(intent, OpenStream)
    assert (intent.hello.sample_rate_hz, intent.hello.channels) == (22_050, 2)


def test_what_was_asked_for_reaches_the_stream() -> None:
    many = [f"entity {number}" for number in range(MAX_HOTWORDS)]
    dialect = dialect_of()
    say(
        dialect,
        "transcribe",
        language="",
        name="n" * 1_000,
        transcript_names=["Küche", "", "x" * (MAX_HOTWORD_CHARS + 1), "Küche"],
        transcript_terms=many,
        context={"x": 1},
        vad_sensitivity="relaxed",
    )
    hello = hello_of(dialect, rate=48_000, channels=8)
    assert (hello.language, hello.model) == (None, "n" * 256)
    assert hello.hotwords == ("Küche", *many[: MAX_HOTWORDS - 1])
    assert (hello.sample_rate_hz, hello.channels) == (48_000, 8)
    # too late now
    assert say(dialect, "transcribe", language="fr") == []
    dialect.handle_event(final("Hi."), 1)
    assert sent(dialect)[0] == ("transcript-start", {})


def test_a_second_start_changes_nothing() -> None:
    dialect = opened()
    assert say(dialect, "audio-start", **MONO) == []
    say(dialect, "audio-stop")
    for kind in ("audio-start", "audio-chunk"):
        assert say(dialect, kind, b"", rate=8_000, width=2, channels=1) == []
    assert say(dialect, "audio-stop") == []


def test_a_client_that_vanishes_ends_its_stream_once() -> None:
    dialect = opened()
    dialect.receive_data(b"")
    assert intents(dialect) == [ByeIn("vanished")]
    dialect.receive_data(b"")
    assert intents(dialect) == []
    only_described = dialect_of()
    only_described.receive_data(b"")
    assert intents(only_described) == []


def test_long_payloads_are_cut_up() -> None:
    found = say(opened(), "audio-chunk", bytes(2 * MAX_AUDIO_BYTES), **MONO)
    pieces = [len(intent.pcm) for intent in found if isinstance(intent, AudioIn)]
    assert sum(pieces) == 2 * MAX_AUDIO_BYTES
    assert max(pieces) <= MAX_AUDIO_BYTES


SEQUENCE = (
    written("describe")
    + written("transcribe", language="en")
    + written("audio-start", **MONO)
    + written("audio-chunk", b"12345", **MONO)
    + written("audio-chunk", b"678", **MONO)
    + written("audio-stop")
)


@given(random_cuts(SEQUENCE))
def test_any_cut_gives_the_same_intents(chunks: list[bytes]) -> None:
    dialect = dialect_of()
    found: list[Intent] = []
    for chunk in chunks:
        dialect.receive_data(chunk)
        found += intents(dialect)
    assert isinstance(found[0], OpenStream)
    assert found[1:] == [AudioIn(b"1234"), AudioIn(b"5678"), ByeIn()]


# --- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "audio",
    [{"width": 1}, {"width": 4}, {"rate": 4_000}, {"rate": 10**9}, {"channels": 0},
     {"channels": 9}],
)  # fmt: skip
def test_formats_that_are_not_supported(audio: dict[str, int]) -> None:
    for kind in ("audio-start", "audio-chunk"):
        dialect = dialect_of()
        found = say(dialect, kind, b"12" if kind == "audio-chunk" else b"", **{**MONO, **audio})
        assert (len(found), failure(found)) == (1, ErrorCode.UNSUPPORTED_FORMAT)
        ((name, data),) = sent(dialect)
        assert (name, data["code"]) == ("error", "unsupported_format")


def test_the_format_can_not_change() -> None:
    dialect = opened()
    found = say(dialect, "audio-chunk", b"12", rate=8_000, width=2, channels=1)
    assert (len(found), failure(found)) == (1, ErrorCode.UNSUPPORTED_FORMAT)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("audio-start", {}),
        ("audio-start", {"rate": "16000", "width": 2, "channels": 1}),
        ("audio-chunk", {"rate": 16_000}),
        ("transcribe", {"language": 3}),
        ("transcribe", {"transcript_names": "x"}),
    ],
)
def test_events_with_the_wrong_fields_are_explained(kind: str, data: dict[str, Any]) -> None:
    dialect = dialect_of()
    assert failure(say(dialect, kind, **data)) is ErrorCode.BAD_MESSAGE
    ((name, error),) = sent(dialect)
    assert (name, error["code"]) == ("error", "bad_message")
    assert error["text"].startswith(kind)


def test_bytes_of_another_protocol_are_refused() -> None:
    dialect = dialect_of()
    dialect.receive_data(b"GET / HTTP/1.1\r\n\r\n")
    (intent,) = intents(dialect)
    assert isinstance(intent, FailIn)
    assert len(intent.error.message) <= MAX_MESSAGE_CHARS
    assert sent(dialect)[0][0] == "error"
    dialect.receive_data(b"x")
    assert intents(dialect) == []


def test_an_error_of_the_stream_is_said_and_no_transcript_follows() -> None:
    dialect = opened()
    dialect.handle_event(Error(code=ErrorCode.UNKNOWN_LANGUAGE, message="no Latin"), 1)
    dialect.handle_event(final("late"), 1)
    dialect.handle_event(CLOSED, 1)
    assert sent(dialect) == [("error", {"text": "no Latin", "code": "unknown_language"})]
    assert say(dialect, "audio-chunk", b"12", **MONO) == []


def test_text_is_no_byte_stream() -> None:
    with pytest.raises(AssertionError):
        dialect_of().receive_data("text")


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise(chunks: list[bytes]) -> None:
    dialect = dialect_of()
    for chunk in chunks:
        dialect.receive_data(chunk)
        intents(dialect)
        sent(dialect)
