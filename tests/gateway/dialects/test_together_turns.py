"""Turn events of Together's API, also where recognition is behind."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.dialects import ConfigureIn
from gateway.dialects.together import TogetherDialect
from gateway.dialects.together_turns import (
    EAGER,
    END,
    MAX_TURN_CHARS,
    RESUMED,
    START,
    TurnEvent,
    Turns,
)
from protocol.client_messages import EndOfTurn, Final, ServerMessage, SpeechStarted, VadOptions

from .test_together import DEFAULT_VAD, PREFIX, append, hello_vad, say, sent, started


def speech(utterance: int) -> SpeechStarted:
    return SpeechStarted(audio_received=0, audio_decoded=0, utterance=utterance, start_sample=0)


def final(utterance: int, text: str) -> Final:
    return Final(
        audio_received=0, audio_decoded=0, utterance=utterance, start_sample=0, end_sample=0,
        text=text,
    )  # fmt: skip


def end(utterance: int) -> EndOfTurn:
    return EndOfTurn(audio_received=0, audio_decoded=0, utterance=utterance, end_sample=0)


def said(turns: Turns, *events: SpeechStarted | Final | EndOfTurn) -> list[TurnEvent]:
    out: list[TurnEvent | None] = []
    for event in events:
        if isinstance(event, SpeechStarted):
            out.append(turns.on_speech_started(event))
        elif isinstance(event, Final):
            out.append(turns.on_final(event))
        else:
            out += turns.on_end(event)
    return [event for event in out if event is not None]


def test_a_turn_of_two_utterances() -> None:
    events = said(
        Turns(eager=False), speech(0), final(0, "two "), speech(1), final(1, " cities"), end(1),
        speech(2), final(2, "more"), end(2),
    )  # fmt: skip
    assert events == [
        TurnEvent(START), TurnEvent(END, "two cities"), TurnEvent(START), TurnEvent(END, "more"),
    ]  # fmt: skip


def test_an_eager_client_hears_of_every_pause_and_of_its_end() -> None:
    events = said(
        Turns(eager=True), speech(0), final(0, "two"), speech(1), final(1, "cities"), end(1)
    )
    assert events == [
        TurnEvent(START), TurnEvent(EAGER, "two"), TurnEvent(RESUMED, "two"),
        TurnEvent(EAGER, "two cities"), TurnEvent(END, "two cities"),
    ]  # fmt: skip


def test_nothing_is_eager_while_somebody_speaks_again() -> None:
    events = said(
        Turns(eager=True), speech(0), speech(1), final(0, "two"), final(1, "cities"), end(1)
    )
    assert events == [
        TurnEvent(START), TurnEvent(EAGER, "two cities"), TurnEvent(END, "two cities"),
    ]  # fmt: skip


def test_speech_without_words_is_a_turn_without_text() -> None:
    events = said(Turns(eager=True), speech(0), final(0, " "), end(0))
    assert events == [TurnEvent(START), TurnEvent(END)]


def test_a_turn_whose_end_comes_behind_the_next_speech() -> None:
    events = said(
        Turns(eager=True), speech(0), speech(1), final(0, "one"), end(0), final(1, "two"), end(1)
    )
    assert events == [
        TurnEvent(START), TurnEvent(END, "one"),
        TurnEvent(START), TurnEvent(EAGER, "two"), TurnEvent(END, "two"),
    ]  # fmt: skip


def test_what_was_said_before_the_turn_is_not_its_text() -> None:
    """The final of speech before the first turn comes behind the speech that begins it."""
    events = said(
        Turns(eager=True), speech(1), final(0, "before"), final(1, "more"), end(1),
    )  # fmt: skip
    assert events == [TurnEvent(START), TurnEvent(EAGER, "more"), TurnEvent(END, "more")]


def test_what_was_forgotten_neither_ends_nor_adds_to_a_turn() -> None:
    turns = Turns(eager=True)
    assert said(turns, speech(0), final(0, "one")) == [TurnEvent(START), TurnEvent(EAGER, "one")]
    turns.forget()
    assert said(turns, end(0), final(0, "one")) == []
    assert said(turns, speech(1), end(0), final(1, "two"), end(1)) == [
        TurnEvent(START), TurnEvent(EAGER, "two"), TurnEvent(END, "two"),
    ]  # fmt: skip


def test_the_text_of_an_endless_turn_is_bounded() -> None:
    turns = Turns(eager=False)
    said(turns, speech(0), final(0, "a" * MAX_TURN_CHARS), speech(1), final(1, "b"))
    (ended,) = said(turns, end(1))
    assert ended.transcript == "a" * (MAX_TURN_CHARS - 2) + " b"


# --- in the dialect -------------------------------------------------------------------------


def at(utterance: int, start: int) -> SpeechStarted:
    return SpeechStarted(audio_received=0, audio_decoded=0, utterance=utterance, start_sample=start)


def heard(dialect: TogetherDialect, *events: ServerMessage) -> list[tuple[str, str | None, str]]:
    """Type, item and text of what these events make the client read."""
    for event in events:
        dialect.handle_event(event, 1)
    return [
        (message["type"].removeprefix(PREFIX), message["item_id"], message["transcript"])
        for message in sent(dialect)
    ]


def test_turns_come_with_the_text_they_are_made_of() -> None:
    dialect = started(eot_timeout_ms="900", eager_eot_threshold="0.4")
    assert heard(dialect, speech(0), final(0, "two cities"), speech(1), end(0), end(1)) == [
        ("start_of_turn", None, ""),
        ("completed", "item_1", "two cities"),
        ("eager_end_of_turn", "item_1", "two cities"),
        ("turn_resumed", "item_1", "two cities"),
        ("end_of_turn", "item_1", "two cities"),
        ("start_of_turn", "item_1", ""),
        ("end_of_turn", "item_1", ""),
    ]


def test_nobody_hears_of_turns_without_asking() -> None:
    dialect = started()
    assert heard(dialect, speech(0), final(0, "two"), end(0)) == [("completed", "item_1", "two")]
    assert hello_vad().end_of_turn_ms is None
    assert hello_vad(turn_detection="none", eot_timeout_ms="900") == VadOptions(enabled=False)


@pytest.mark.parametrize(
    ("query", "end_of_turn_ms"),
    [
        ({"eot_timeout_ms": "900"}, 900),
        ({"eot_timeout_ms": "-1"}, 0),
        ({"eot_timeout_ms": "1e9"}, 60_000),
        ({"eot_timeout_ms": "soon"}, None),
        ({"eot_timeout_ms": ""}, None),
        ({"eot_threshold": "0.7"}, 1_000),
        ({"eager_eot_threshold": "0.4"}, 1_000),
        ({"eager_eot_threshold": "0.4", "eot_timeout_ms": "2500.4"}, 2_500),
    ],
)
def test_the_patience_of_the_query(query: dict[str, str], end_of_turn_ms: int | None) -> None:
    assert hello_vad(**query) == replace(DEFAULT_VAD, end_of_turn_ms=end_of_turn_ms)


def test_an_update_changes_the_patience_and_an_open_turn_goes_on() -> None:
    dialect = started(eot_timeout_ms="900")
    assert heard(dialect, speech(0), final(0, "one"))[0][0] == "start_of_turn"
    update = {"turn_detection": {"eager_eot_threshold": 0.5, "threshold": 0.4}}
    (intent,) = say(dialect, "transcription_session.updated", session=update)
    assert isinstance(intent, ConfigureIn)
    assert intent.vad == replace(DEFAULT_VAD, threshold=0.4, end_of_turn_ms=900)
    (updated,) = sent(dialect)
    assert updated["session"]["turn_detection"]["eot_timeout_ms"] == 900
    assert [kind for kind, *_ in heard(dialect, speech(1), final(1, "two"), end(1))] == [
        "completed", "eager_end_of_turn", "end_of_turn",
    ]  # fmt: skip


def test_an_update_takes_turns_away_and_brings_them_back() -> None:
    dialect = started(eot_timeout_ms="900")
    for detection, patience_ms in (
        ({"eot_timeout_ms": None}, None),
        ({"eot_timeout_ms": 700}, 700),
        (None, None),
        ({"type": "server_vad"}, None),
    ):
        (intent,) = say(
            dialect, "transcription_session.updated", session={"turn_detection": detection}
        )
        assert isinstance(intent, ConfigureIn)
        assert intent.vad.end_of_turn_ms == patience_ms
        sent(dialect)
        assert bool(heard(dialect, speech(0), end(0))) == (patience_ms is not None)


def test_clear_forgets_the_turn_and_the_speech_before_it() -> None:
    dialect = started(eot_timeout_ms="900")
    append(dialect, bytes(2 * 16_000))
    heard(dialect, at(0, 0), final(0, "old"))
    say(dialect, "input_audio_buffer.clear")
    assert heard(dialect, at(1, 15_999), at(2, 16_000)) == [("start_of_turn", "item_1", "")]
    answer = replace(final(1, "old too"), finalize_id=1)
    assert heard(dialect, answer, final(2, "new"), end(2)) == [
        ("completed", "item_2", "new"), ("end_of_turn", "item_2", "new"),
    ]  # fmt: skip
