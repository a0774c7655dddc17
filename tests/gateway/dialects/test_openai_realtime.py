"""OpenAI's realtime transcription as its clients need it: what goes in, what comes out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import (
    AudioIn,
    ByeIn,
    ConfigureIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    ReopenStream,
)
from gateway.dialects.g711 import alaw_to_pcm16, ulaw_to_pcm16
from gateway.dialects.openai_realtime import (
    MAX_BAD_MESSAGES,
    MAX_ITEM_CHARS,
    OpenAiRealtimeDialect,
)
from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    Closed,
    Error,
    Final,
    NonSpeech,
    Partial,
    SpeechStarted,
    SpeechStopped,
    VadOptions,
)
from protocol.errors import ErrorCode
from tests.harness import STARTED

TEXT = "conversation.item.input_audio_transcription."
BUFFER = "input_audio_buffer."
OFF = VadOptions(enabled=False)


class Client:
    """One session seen from both its ends."""

    def __init__(self, **query: str) -> None:
        self.dialect = OpenAiRealtimeDialect({name: [v] for name, v in query.items()}, "key")
        (self.opened,) = self.intents()
        assert isinstance(self.opened, OpenStream)
        self.start()
        (self.created,) = self.sent()
        assert self.created["type"] == "session.created"

    def start(self) -> None:
        self.dialect.handle_event(STARTED, 1)

    def intents(self) -> list[Intent]:
        found: list[Intent] = []
        while (intent := self.dialect.next_event()) is not None:
            found.append(intent)
        return found

    def say(self, type_: str, **fields: Any) -> list[Intent]:
        self.dialect.receive_data(json.dumps({"type": type_, **fields}))
        return self.intents()

    def append(self, pcm: bytes) -> list[Intent]:
        return self.say(BUFFER + "append", audio=base64.b64encode(pcm).decode())

    def speak(self, seconds: float) -> None:
        """Audio at 24 kHz."""
        for start in range(0, round(seconds * 10)):
            assert self.append(bytes(4_800)), start

    def commit(self) -> int:
        (intent,) = self.say(BUFFER + "commit")
        assert isinstance(intent, FinalizeIn)
        return intent.finalize_id

    def clear(self) -> int:
        (intent,) = self.say(BUFFER + "clear")
        assert isinstance(intent, FinalizeIn)
        assert self.types() == [BUFFER + "cleared"]
        return intent.finalize_id

    def update(self, **fields: Any) -> list[Intent]:
        """GA's session.update of audio.input."""
        session = {"type": "transcription", "audio": {"input": fields}}
        return self.say("session.update", session=session)

    def without_detection(self) -> Client:
        assert self.update(turn_detection=None) == [ConfigureIn(OFF)]
        assert self.types() == ["session.updated"]
        return self

    def sent(self) -> list[dict[str, Any]]:
        items = self.dialect.data_to_send()
        return [json.loads(item) for item in items if isinstance(item, str)]

    def types(self) -> list[str]:
        return [event["type"] for event in self.sent()]

    def texts(self) -> list[str]:
        """Deltas as they are, transcripts with a mark."""
        found = []
        for event in self.sent():
            if event["type"] == TEXT + "delta":
                found.append(event["delta"])
            elif event["type"] == TEXT + "completed":
                found.append("=" + event["transcript"])
        return found

    def hear(self, *events: Any) -> Client:
        for event in events:
            self.dialect.handle_event(event, 2)
        return self


def at(sample: int) -> dict[str, int]:
    return {"audio_received": sample, "audio_decoded": sample}


def started(utterance: int, start: int) -> SpeechStarted:
    return SpeechStarted(**at(start), utterance=utterance, start_sample=start)


def stopped(utterance: int, end: int) -> SpeechStopped:
    return SpeechStopped(**at(end), utterance=utterance, end_sample=end)


def partial(utterance: int, stable: str, volatile: str = "") -> Partial:
    return Partial(
        **at(0), utterance=utterance, start_sample=0, end_sample=0, stable=stable,
        volatile=volatile,
    )  # fmt: skip


def final(
    utterance: int, text: str, start: int = 0, end: int = 0, finalize_id: int | None = None
) -> Final:
    return Final(
        **at(end), utterance=utterance, start_sample=start, end_sample=end, text=text,
        finalize_id=finalize_id,
    )  # fmt: skip


CLOSED = Closed(
    reason="client", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
)


# --- the session ---------------------------------------------------------------------------


def test_the_stream_is_opened_unasked_and_created_is_the_first_event() -> None:
    client = Client(intent="transcription", model="gpt-4o-transcribe", language="en")
    assert isinstance(client.opened, OpenStream)
    assert client.opened.any_model
    hello = client.opened.hello
    assert (hello.token, hello.model, hello.language) == ("key", "gpt-4o-transcribe", "en")
    assert (hello.sample_rate_hz, hello.vad.min_silence_ms) == (24_000, 500)
    session = client.created["session"]
    assert (session["id"], client.created["id"], client.created["created"]) == ("s-1", "s-1", 0)
    assert session["audio"]["input"]["transcription"]["model"] == "tiny.en"


def test_created_says_unix_time() -> None:
    dialect = OpenAiRealtimeDialect({}, wall_offset_ns=1_700_000_000 * 10**9)
    dialect.handle_event(STARTED, 5 * 10**9)
    (item,) = dialect.data_to_send()
    assert isinstance(item, str)
    assert json.loads(item)["created"] == 1_700_000_005
    assert dialect.data_to_send() == []


def test_an_update_before_audio_opens_the_stream_anew_and_is_then_confirmed() -> None:
    client = Client()
    (intent,) = client.update(
        format={"type": "audio/pcmu"},
        transcription={"model": "gpt-4o-mini-transcribe", "language": "en", "prompt": "p"},
        turn_detection={"type": "server_vad", "silence_duration_ms": 700},
    )
    assert isinstance(intent, ReopenStream)
    assert intent.any_model
    hello = intent.hello
    assert (hello.token, hello.sample_rate_hz, hello.prompt) == ("key", 8_000, "p")
    assert hello.vad.min_silence_ms == 700
    assert client.sent() == []
    client.start()
    (updated,) = client.sent()
    assert updated["type"] == "session.updated"
    assert updated["session"]["audio"]["input"]["format"] == {"type": "audio/pcmu"}


def test_updates_that_come_before_the_session_stands_are_confirmed_after_it() -> None:
    dialect = OpenAiRealtimeDialect({})
    client = Client()
    client.dialect = dialect
    assert isinstance(client.intents()[0], OpenStream)
    assert client.update(turn_detection=None) == [ConfigureIn(OFF)]
    (intent,) = client.update(transcription={"language": "de"})
    assert isinstance(intent, ReopenStream)
    assert client.sent() == []
    client.start()
    assert client.types() == ["session.created"]
    client.start()
    created = client.sent()
    assert [event["type"] for event in created] == ["session.updated"] * 2


def test_the_same_update_again_changes_nothing() -> None:
    client = Client()
    assert client.update(turn_detection={"type": "server_vad"}) == []
    assert client.types() == ["session.updated"]
    assert client.say("session.update") == []
    assert client.types() == ["session.updated"]


def test_after_audio_only_turn_detection_changes() -> None:
    client = Client()
    client.speak(0.1)
    changed = {"transcription": {"language": "de"}, "turn_detection": {"threshold": 0.7}}
    (intent,) = client.update(**changed)
    assert intent == ConfigureIn(VadOptions(threshold=0.7, min_silence_ms=500, speech_pad_ms=300))
    (updated,) = client.sent()
    shown = updated["session"]["audio"]["input"]
    assert (shown["transcription"]["language"], shown["turn_detection"]["threshold"]) == (
        None,
        0.7,
    )
    client.say("session.update", event_id="e-1", session={"input_audio_format": "g711_alaw"})
    (error,) = client.sent()
    assert (error["type"], error["error"]["event_id"]) == ("error", "e-1")
    assert "once audio was sent" in error["error"]["message"]


def test_the_beta_shape_is_answered_in_its_own_words() -> None:
    client = Client()
    session = {"input_audio_format": "pcm16", "turn_detection": None}
    assert client.say("transcription_session.update", session=session) == [ConfigureIn(OFF)]
    (updated,) = client.sent()
    assert updated["type"] == "transcription_session.updated"
    assert updated["session"]["input_audio_format"] == "pcm16"
    client.speak(0.1)
    client.commit()
    assert client.types() == [BUFFER + "committed", "conversation.item.created"]


def test_a_refused_update_changes_nothing() -> None:
    client = Client()
    client.speak(1)
    session = {"input_audio_format": "g711_ulaw", "turn_detection": None}
    assert client.say("transcription_session.update", session=session) == []
    assert client.types() == ["error"]
    client.hear(started(0, 0), stopped(0, 16_000))
    assert client.types()[-2:] == ["conversation.item.added", "conversation.item.done"]


@pytest.mark.parametrize(
    "session", [[], "x", {"audio": {"input": {"turn_detection": 3}}}, {"turn_detection": "x"}]
)
def test_an_update_that_does_not_decode_is_refused(session: Any) -> None:
    client = Client()
    assert client.say("session.update", session=session) == []
    assert client.types() == ["error"]


def test_an_unknown_format_is_refused_and_the_session_goes_on() -> None:
    client = Client()
    assert client.update(format={"type": "audio/opus"}) == []
    (error,) = client.sent()
    assert "audio/opus" in error["error"]["message"]
    assert client.append(b"1234") == [AudioIn(b"1234")]


# --- audio ---------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=7), max_size=12))
def test_audio_may_be_cut_anywhere(pieces: list[bytes]) -> None:
    client = Client()
    pcm = b""
    for piece in pieces:
        for intent in client.append(piece):
            assert isinstance(intent, AudioIn)
            assert len(intent.pcm) % 2 == 0
            pcm += bytes(intent.pcm)
    whole = b"".join(pieces)
    assert pcm == whole[: len(whole) // 2 * 2]


def test_long_audio_comes_in_pieces_that_a_stream_takes() -> None:
    client = Client()
    pcm = bytes(range(256)) * 2_500
    intents = client.append(pcm)
    taken = [bytes(intent.pcm) for intent in intents if isinstance(intent, AudioIn)]
    assert b"".join(taken) == pcm
    assert max(map(len, taken)) <= MAX_AUDIO_BYTES


@pytest.mark.parametrize(
    ("name", "expand"), [("audio/pcmu", ulaw_to_pcm16), ("audio/pcma", alaw_to_pcm16)]
)
def test_telephone_audio_is_expanded(name: str, expand: Any) -> None:
    client = Client()
    (intent,) = client.update(format={"type": name})
    assert isinstance(intent, ReopenStream)
    client.start()
    assert client.append(b"\x01\x80\xff") == [AudioIn(expand(b"\x01\x80\xff"))]


def test_binary_frames_and_bad_messages_are_refused_and_bounded() -> None:
    client = Client()
    client.dialect.receive_data(b"1234")
    client.dialect.receive_data("{")
    client.say(BUFFER + "append", audio="?")
    assert client.types() == ["error"] * 3
    for _ in range(MAX_BAD_MESSAGES - 3):
        assert client.say("", audio=1) == []
    assert client.dialect.close_code is None
    (intent,) = client.say("", audio=1)
    assert isinstance(intent, FailIn)
    assert intent.error.code is ErrorCode.BAD_MESSAGE
    assert client.types() == ["error"] * (MAX_BAD_MESSAGES - 2)
    assert client.dialect.close_code == 1008
    assert client.append(b"1234") == []
    assert client.hear(final(0, "late"), CLOSED).sent() == []


def test_other_messages_of_the_api_are_ignored() -> None:
    client = Client()
    for type_ in ("response.create", "conversation.item.create", "echo", ""):
        assert client.say(type_) == []
    assert client.sent() == []


def test_a_client_that_leaves_says_bye() -> None:
    client = Client()
    client.dialect.receive_data(b"")
    client.dialect.receive_data(b"")
    assert client.intents() == [ByeIn()]
    client.hear(final(0, "last words", 0, 16_000), CLOSED)
    assert client.texts() == ["last words", "=last words"]
    assert (client.dialect.close_code, client.dialect.close_reason) == (1000, "client")


# --- turns ---------------------------------------------------------------------------------


def test_a_turn_from_its_beginning_to_its_transcript() -> None:
    client = Client().hear(started(0, 8_000), partial(0, "", "Hel"), partial(0, "Hello", "th"))
    client.hear(partial(0, "Hello there", ""), stopped(0, 32_000))
    client.hear(final(0, "Hello there, you.", 8_000, 32_000), NonSpeech(
        **at(0), start_sample=32_000, end_sample=40_000
    ))  # fmt: skip
    events = client.sent()
    assert [event["type"] for event in events] == [
        BUFFER + "speech_started",
        TEXT + "delta",
        TEXT + "delta",
        BUFFER + "speech_stopped",
        BUFFER + "committed",
        "conversation.item.added",
        "conversation.item.done",
        TEXT + "delta",
        TEXT + "completed",
    ]
    assert len({event.get("item_id") or event["item"]["id"] for event in events}) == 1
    assert events[0]["audio_start_ms"] == 500
    assert events[3]["audio_end_ms"] == 2_000
    assert events[4]["previous_item_id"] is None
    deltas = [event["delta"] for event in events if "delta" in event]
    assert deltas == ["Hello", " there", " you."]
    assert events[-1]["transcript"] == "".join(deltas)
    assert events[-1]["usage"] == {"type": "duration", "seconds": 1.5}
    client.hear(started(1, 48_000), stopped(1, 64_000))
    assert client.sent()[2]["previous_item_id"] == events[0]["item_id"]


def test_turns_that_begin_before_the_last_ones_text_keep_their_own() -> None:
    client = Client().hear(started(0, 0), stopped(0, 16_000), started(1, 20_000))
    ids = [event["item_id"] for event in client.sent() if "item_id" in event]
    client.hear(final(0, "One."), partial(1, "Two"), stopped(1, 40_000), final(1, "Two."))
    done = [event for event in client.sent() if event["type"] == TEXT + "completed"]
    assert [(event["item_id"], event["transcript"]) for event in done] == [
        (ids[0], "One."),
        (ids[3], "Two"),
    ]


def test_speech_without_words_completes_the_item_that_was_announced() -> None:
    client = Client().hear(started(0, 0), stopped(0, 8_000), final(0, "", 0, 8_000))
    assert client.texts() == ["="]
    assert client.hear(final(1, "", 8_000, 9_000)).sent() == []


def test_text_of_an_utterance_that_nobody_announced_is_an_item() -> None:
    client = Client().hear(partial(7, "Well"), final(7, "Well."))
    assert client.texts() == ["Well.", "=Well."]
    assert client.hear(final(8, "So.")).texts() == ["So.", "=So."]


def test_a_commit_in_the_middle_of_a_turn_ends_that_item() -> None:
    client = Client()
    client.speak(1)
    client.hear(started(0, 0), partial(0, "Hello"))
    finalize_id = client.commit()
    assert client.types() == [BUFFER + "speech_started", TEXT + "delta"]
    client.hear(stopped(0, 16_000), final(0, "Hello there.", 0, 16_000, finalize_id))
    assert client.texts() == [" there.", "=Hello there."]


def test_a_commit_without_speech_is_answered_by_an_empty_item() -> None:
    client = Client()
    client.hear(started(0, 0), stopped(0, 8_000))
    finalize_id = client.commit()
    client.hear(final(0, "Before."), final(1, "", 16_000, 16_000, finalize_id))
    assert client.texts() == ["Before.", "=Before.", "="]


def test_a_clear_forgets_the_turn_that_is_open() -> None:
    client = Client()
    client.speak(1)
    client.hear(started(0, 0), partial(0, "Hello"))
    client.sent()
    finalize_id = client.clear()
    client.hear(partial(0, "Hello there"), stopped(0, 16_000))
    assert client.types() == [BUFFER + "speech_stopped"]
    client.hear(final(0, "Hello there.", 0, 16_000, finalize_id))
    assert client.sent() == []
    client.hear(started(1, 20_000), partial(1, "Next"), stopped(1, 30_000), final(1, "Next."))
    assert client.texts() == ["Next", "=Next"]


def test_a_turn_that_ended_before_the_clear_keeps_its_text() -> None:
    client = Client().hear(started(0, 0), stopped(0, 8_000))
    client.sent()
    finalize_id = client.clear()
    client.hear(final(0, "Said.", 0, 8_000), final(1, "", 9_000, 9_000, finalize_id))
    assert client.texts() == ["Said.", "=Said."]


def waiting_for_an_empty_answer() -> Client:
    """Recognition is behind: the next turn has begun before the last one's text is there."""
    client = Client()
    client.speak(4)
    client.hear(started(0, 0), stopped(0, 16_000)).sent()
    return client


def test_the_answer_to_a_commit_in_a_pause_leaves_the_next_turn_its_item() -> None:
    client = waiting_for_an_empty_answer()
    finalize_id = client.commit()
    (begun,) = client.hear(started(1, 40_000)).sent()
    client.hear(final(0, "One.", 0, 16_000), final(1, "", 36_000, 36_000, finalize_id))
    client.hear(partial(1, "Two"), stopped(1, 56_000), final(1, "Two.", 40_000, 56_000))
    done = [event for event in client.sent() if event["type"] == TEXT + "completed"]
    assert [event["transcript"] for event in done] == ["One.", "", "Two"]
    assert done[2]["item_id"] == begun["item_id"]
    assert len({event["item_id"] for event in done}) == 3


def test_the_answer_to_a_clear_in_a_pause_leaves_the_next_turn_its_item() -> None:
    client = waiting_for_an_empty_answer()
    finalize_id = client.clear()
    (begun,) = client.hear(started(1, 40_000)).sent()
    client.hear(final(0, "One.", 0, 16_000), final(1, "", 36_000, 36_000, finalize_id))
    client.hear(stopped(1, 56_000), final(1, "Two.", 40_000, 56_000))
    events = client.sent()
    assert BUFFER + "speech_stopped" in [event["type"] for event in events]
    assert (events[-1]["transcript"], events[-1]["item_id"]) == ("Two.", begun["item_id"])


# --- the client commits --------------------------------------------------------------------


def test_commits_make_the_items_and_no_speech_event_is_sent() -> None:
    client = Client().without_detection()
    client.speak(1)
    client.hear(started(0, 0), partial(0, "It was"), partial(0, "It was the"))
    assert client.texts() == ["It was", " the"]
    finalize_id = client.commit()
    committed, added, done = client.sent()
    assert committed["type"] == BUFFER + "committed"
    assert (added["item"]["id"], done["item"]["id"]) == (committed["item_id"],) * 2
    client.hear(stopped(0, 16_000), final(0, "It was the best.", 0, 16_000, finalize_id))
    delta, completed = client.sent()
    assert delta["delta"] == " best."
    assert completed["item_id"] == delta["item_id"] == committed["item_id"]
    assert completed["transcript"] == "It was the best."
    assert completed["usage"]["seconds"] == 1.0


def test_an_item_may_be_longer_than_an_utterance() -> None:
    client = Client().without_detection()
    client.hear(partial(0, "One"), final(0, "One two.", 0, 16_000))
    client.hear(partial(1, "Three"), final(1, "", 16_000, 17_000))
    finalize_id = client.commit()
    client.hear(final(2, "Four.", 17_000, 32_000, finalize_id))
    assert client.texts() == ["One", " two.", " Three", " Four.", "=One two. Three Four."]


def test_commits_one_after_the_other_are_answered_each() -> None:
    client = Client().without_detection()
    first, second, third = client.commit(), client.commit(), client.commit()
    committed = [event for event in client.sent() if event["type"] == BUFFER + "committed"]
    ids = [event["item_id"] for event in committed]
    assert [event["previous_item_id"] for event in committed] == [None, *ids[:2]]
    client.hear(final(0, "A.", 0, 1, first), partial(1, "B"), final(1, "B.", 1, 2, second))
    client.hear(final(2, "", 2, 2, third))
    done = [event for event in client.sent() if event["type"] == TEXT + "completed"]
    assert [(event["item_id"], event["transcript"]) for event in done] == [
        (ids[0], "A."),
        (ids[1], "B"),
        (ids[2], ""),
    ]


def test_a_clear_forgets_what_is_not_committed() -> None:
    client = Client().without_detection()
    client.speak(1)
    finalize_id = client.commit()
    client.speak(1)
    client.sent()
    cleared = client.clear()
    client.hear(final(0, "Kept.", 0, 16_000, finalize_id))
    assert client.texts() == ["Kept.", "=Kept."]
    client.hear(partial(1, "Lost"), final(1, "Lost", 16_000, 20_000))
    client.hear(final(2, "words.", 20_000, 32_000, cleared))
    assert client.sent() == []
    client.hear(partial(3, "Next"))
    assert client.texts() == ["Next"]


def test_a_clear_drops_half_a_sample() -> None:
    client = Client().without_detection()
    client.append(b"123")
    client.clear()
    assert client.append(b"4567") == [AudioIn(b"4567")]


def test_an_item_without_end_is_completed_in_parts() -> None:
    client = Client().without_detection()
    words = "word " * (MAX_ITEM_CHARS // 5) + "word"
    client.hear(final(0, words, 0, 16_000))
    deltas = client.sent()
    assert [event["type"] for event in deltas][-1] == TEXT + "completed"
    finalize_id = client.commit()
    client.hear(final(1, words), final(2, "more.", 0, 0, finalize_id))
    (text, _, completed) = client.texts()
    assert completed == f"={text} more."


def test_empty_commits_are_errors_only_where_the_client_asked_for_them() -> None:
    strict = Client(empty_commit="error")
    assert strict.say(BUFFER + "commit", event_id="e-9") == []
    (error,) = strict.sent()
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"
    assert error["error"]["event_id"] == "e-9"
    strict.speak(0.2)
    strict.commit()
    assert strict.say(BUFFER + "commit") == []
    strict.speak(1)
    strict.hear(started(0, 0), stopped(0, 19_000))  # voice activity has taken all but 12 ms
    assert strict.say(BUFFER + "commit") == []
    lax = Client().without_detection()
    assert lax.commit() == 1


# --- changing who commits ------------------------------------------------------------------


def test_turning_detection_on_commits_what_was_collected() -> None:
    client = Client().without_detection()
    client.speak(1)
    client.hear(partial(0, "Hello"))
    client.sent()
    finalize, configure = client.update(turn_detection={"type": "server_vad"})
    assert isinstance(finalize, FinalizeIn)
    assert isinstance(configure, ConfigureIn)
    assert configure.vad.enabled
    assert client.types()[0] == BUFFER + "committed"
    client.hear(started(0, 0))  # late, of the time before: no turn
    client.hear(partial(0, "Hello there"), final(0, "Hello there", 0, 8_000))
    assert client.texts() == [" there"]
    client.hear(final(1, "you.", 8_000, 16_000, finalize.finalize_id))
    assert client.texts() == [" you.", "=Hello there you."]
    client.hear(started(2, 16_000), stopped(2, 20_000), final(2, "New."))
    assert client.texts() == ["New.", "=New."]


def test_turning_detection_on_without_audio_commits_nothing() -> None:
    client = Client().without_detection()
    (intent,) = client.update(turn_detection={"type": "server_vad"})
    assert isinstance(intent, ConfigureIn)


def test_turning_detection_off_lets_the_open_turn_end() -> None:
    client = Client()
    client.speak(1)
    client.hear(started(0, 0))
    assert client.update(turn_detection=None) == [ConfigureIn(OFF)]
    client.sent()
    client.hear(partial(0, "Hello"), stopped(0, 16_000), final(0, "Hello.", 0, 16_000))
    assert client.texts() == ["Hello", "=Hello"]


# --- vLLM ----------------------------------------------------------------------------------


def vllm() -> Client:
    client = Client()
    (intent,) = client.say("session.update", model="mistralai/Voxtral")
    assert isinstance(intent, ReopenStream)
    hello = intent.hello
    assert (hello.model, hello.sample_rate_hz, hello.vad) == (
        "mistralai/Voxtral",
        16_000,
        VadOptions(),
    )
    client.start()
    assert client.sent() == []
    return client


def test_vllms_clients_begin_with_a_commit_and_end_with_another() -> None:
    client = vllm()
    assert client.say(BUFFER + "commit") == []
    assert client.append(b"1234") == [AudioIn(b"1234")]
    client.hear(started(0, 0), partial(0, "Hello"), stopped(0, 1), final(0, "Hello there."))
    (finalize,) = client.say(BUFFER + "commit", final=True)
    assert isinstance(finalize, FinalizeIn)
    client.hear(started(1, 2), final(1, "You.", 0, 2_560, finalize.finalize_id))
    assert client.sent() == [
        {"type": "transcription.delta", "delta": "Hello"},
        {"type": "transcription.delta", "delta": " there."},
        {"type": "transcription.delta", "delta": " You."},
        {
            "type": "transcription.done",
            "text": "Hello there. You.",
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        },
    ]


def test_vllms_clients_change_their_model_only() -> None:
    client = vllm()
    session = {"turn_detection": {"type": "server_vad"}}
    (intent,) = client.say("session.update", model="other", session=session)
    assert isinstance(intent, ReopenStream)
    assert (intent.hello.model, intent.hello.vad) == ("other", VadOptions())
    client.start()
    client.append(b"12")
    assert client.say("session.update", model="third") == []
    client.dialect.receive_data("{")
    (error,) = client.sent()
    assert isinstance(error["error"], str)


def test_a_session_of_null_is_none() -> None:
    client = Client()
    (intent,) = client.say("session.update", model="mistralai/Voxtral", session=None)
    assert isinstance(intent, ReopenStream)
    assert intent.hello.sample_rate_hz == 16_000
    client = Client()
    assert client.say("session.update", session=None) == []
    (answer,) = client.sent()
    assert answer["type"] == "session.updated"


def test_a_vllm_client_that_sent_audio_first_is_told_that_its_rate_is_wrong() -> None:
    client = Client()
    client.append(b"12")
    assert client.say("session.update", model="m") == []
    (error,) = client.sent()
    assert "format cannot change" in error["error"]
    client.hear(started(0, 0))  # and the session is what it was
    assert client.types() == [BUFFER + "speech_started"]
    assert client.commit() == 1


def test_vllms_second_update_keeps_the_model_that_it_does_not_name() -> None:
    client = vllm()
    assert client.say("session.update") == []
    client.append(b"12")
    assert client.say("session.update") == []
    assert client.sent() == []


# --- the end -------------------------------------------------------------------------------


def test_a_refused_session_says_why_in_one_error() -> None:
    dialect = OpenAiRealtimeDialect({})
    dialect.handle_event(Error(code=ErrorCode.UNKNOWN_LANGUAGE, message="no Klingon"), 1)
    (item,) = dialect.data_to_send()
    assert isinstance(item, str)
    assert json.loads(item)["error"]["message"] == "no Klingon"
    assert (dialect.close_code, dialect.close_reason) == (1008, "unknown_language: no Klingon")


def test_what_can_be_tried_again_closes_without_an_error_event() -> None:
    client = Client().hear(started(0, 0))
    client.sent()
    lost = Error(code=ErrorCode.SERVICE_LOST, message="it died", retryable=True)
    client.hear(lost)
    (failed,) = client.sent()
    assert failed["type"] == TEXT + "failed"
    assert failed["error"]["code"] == "service_lost"
    assert (client.dialect.close_code, client.dialect.close_reason) == (
        1013,
        "service_lost: it died",
    )
    assert client.append(b"12") == []


def test_a_server_that_goes_away_completes_what_has_text() -> None:
    client = Client().without_detection()
    client.hear(final(0, "Not committed."))
    draining = Closed(
        reason="draining", client_samples=0, socket_samples=0, ring_samples=0, engine_samples=0
    )
    client.hear(draining)
    assert client.texts() == ["Not committed.", "=Not committed."]
    assert client.dialect.close_code == 1001
    empty = Client().without_detection()
    empty.commit()
    assert empty.sent()[0]["type"] == BUFFER + "committed"
    assert empty.hear(draining).sent() == []


# --- whatever comes ------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["a", "b", "A,", "c."]), max_size=4).map(" ".join)
STEPS = ("utter", "commit", "clear", "detect")


def perform(client: Client, number: int, step: str, stable: str, text: str) -> None:
    """One step of a client, and what recognition makes of it."""
    sample = number * 1_600
    client.append(bytes(4_800))
    if step == "detect":
        detection = {"type": "server_vad"} if stable else None
        for intent in client.update(turn_detection=detection):
            if isinstance(intent, FinalizeIn):
                client.hear(final(number, text, sample, sample, intent.finalize_id))
        return
    client.hear(started(number, sample), partial(number, stable))
    finalize_id = None
    if step != "utter":
        (intent,) = client.say(BUFFER + step)
        assert isinstance(intent, FinalizeIn)
        finalize_id = intent.finalize_id
    client.hear(stopped(number, sample + 1_600))
    client.hear(final(number, text, sample, sample + 1_600, finalize_id))


@given(st.lists(st.tuples(st.sampled_from(STEPS), WORDS, WORDS), max_size=12))
def test_the_deltas_of_every_item_are_its_transcript(steps: list[tuple[str, str, str]]) -> None:
    client = Client()
    for number, (step, stable, text) in enumerate(steps):
        perform(client, number, step, stable, text)
    client.hear(CLOSED)
    sums: dict[str, str] = {}
    committed = set()
    for event in client.sent():
        item_id = event.get("item_id", "")
        if event["type"] == TEXT + "delta":
            sums[item_id] = sums.get(item_id, "") + event["delta"]
        elif event["type"] == BUFFER + "committed":
            committed.add(item_id)
        elif event["type"] == TEXT + "completed":
            assert event["transcript"] == sums.get(item_id, "")
            committed.remove(item_id)
    assert not committed  # every committed item got its transcript
