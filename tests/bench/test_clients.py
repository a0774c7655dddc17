"""The pure parts of bench's stream clients: events as the server sends them become Shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import openai_client
from bench.live import Outcome, results_of
from bench.live_log import StreamLog
from bench.live_metrics import Measures
from bench.native_client import shown_of
from bench.openai_client import OpenAiLog
from bench.paced_sender import cut_chunks
from bench.pacing import Schedule
from bench.realtime_stream import append_message
from bench.together_client import QUIET_NS, TogetherLog, audio_messages, stream_url
from protocol.client_messages import Final, Partial, Pong

PREFIX = "conversation.item.input_audio_transcription."


def event(kind: str, item: str, text: str) -> dict[str, object]:
    return {
        "type": PREFIX + kind, "item_id": item, "transcript": text, "start": 1.0, "duration": 0.5,
    }  # fmt: skip


def test_together_items_are_utterances() -> None:
    log = StreamLog(Schedule(0, 320, 16_000))
    together = TogetherLog(log)
    together.receive({"type": "session.created"}, 1)
    together.receive(event("delta", "a", "hello"), 2)
    together.receive(event("completed", "a", "hello there"), 3)
    together.receive(event("delta", "b", "bye"), 4)
    assert [(s.utterance, s.text, s.is_final) for s in log.shown] == [
        (0, "hello", False),
        (0, "hello there", True),
        (1, "bye", False),
    ]
    assert (log.shown[0].start_sample, log.shown[0].end_sample) == (16_000, 24_000)
    assert log.text == "hello there"


def test_together_failures_are_not_silence() -> None:
    together = TogetherLog(StreamLog(Schedule(0, 320, 16_000)))
    with pytest.raises(RuntimeError, match="no room"):
        together.receive({"type": PREFIX + "failed", "error": {"message": "no room"}}, 1)


def test_together_requests() -> None:
    assert stream_url("together+ws://h:80", vad=False).startswith("ws://h:80/v1/realtime?model=")
    assert "&turn_detection=server_vad&" in stream_url("together+ws://h:80", vad=True)
    assert json.loads(append_message(b"\0\0"))["audio"] == "AAA="
    assert [audio_of(message) for message in audio_messages(b"abcdef", 2)] == [b"abcd", b"ef"]


def audio_of(message: bytes) -> bytes:
    fields = json.loads(message)
    assert fields["type"] == "input_audio_buffer.append"
    return base64.b64decode(fields["audio"])


def test_together_answers_count_from_the_commit_and_silence_is_the_end() -> None:
    log = StreamLog(Schedule(0, 320, 16_000))
    together = TogetherLog(log)
    together.receive(event("completed", "a", "before"), 1)
    together.expect_end(10)
    assert log.answer_ns is None
    assert not together.is_complete(10 + QUIET_NS)
    together.receive(event("completed", "b", "the answer"), 20)
    together.receive(event("completed", "c", "more"), 30)
    assert log.answer_ns == 20
    assert not together.is_complete(30 + QUIET_NS)
    assert together.is_complete(31 + QUIET_NS)


def openai_events(*events: tuple[str, str, Any]) -> StreamLog:
    """What (kind, item, value) make of a second of audio, one a nanosecond; "commit" is ours."""
    log = StreamLog(Schedule(0, 320, 16_000))
    reader = OpenAiLog(log)
    names = {
        "started": ("input_audio_buffer.speech_started", "audio_start_ms"),
        "stopped": ("input_audio_buffer.speech_stopped", "audio_end_ms"),
        "delta": (PREFIX + "delta", "delta"),
        "completed": (PREFIX + "completed", "transcript"),
    }
    for now_ns, (kind, item, value) in enumerate(events, 1):
        if kind == "commit":
            reader.expect_end(now_ns)
            continue
        name, key = names[kind]
        reader.receive({"type": name, "item_id": item, key: value}, now_ns)
    assert reader.is_complete(len(events)) == (log.answer_ns is not None)
    return log


def test_openai_deltas_add_up_and_turns_have_their_place() -> None:
    log = openai_events(
        ("started", "a", 100),
        ("delta", "a", "hello"),
        ("delta", "a", " there"),
        ("stopped", "a", 400),
        ("started", "b", 500),  # results of an item may come after the next begins
        ("completed", "a", "hello there"),
        ("delta", "b", "bye"),
    )
    assert [(s.utterance, s.text, s.is_final) for s in log.shown] == [
        (0, "hello", False),
        (0, "hello there", False),
        (0, "hello there", True),
        (1, "bye", False),
    ]
    assert [s.received_ns for s in log.shown] == [2, 3, 6, 7]
    (final,) = log.finals
    assert (final.start_sample, final.end_sample) == (1_600, 6_400)
    assert log.text == "hello there"


TURN = (("started", "a", 0), ("stopped", "a", 900), ("completed", "a", "yes"))


@pytest.mark.parametrize(
    "events",
    [
        (TURN[0], ("commit", "", 0), *TURN[1:], ("completed", "b", "")),  # it ended the turn
        (*TURN[:2], ("commit", "", 0), TURN[2], ("completed", "b", "")),  # none was open
        (("commit", "", 0), *TURN, ("completed", "b", "")),  # the server is behind
    ],
)
def test_the_answer_is_the_first_transcript_without_a_turn(events: tuple[Any, ...]) -> None:
    assert openai_events(*events).answer_ns == 5
    assert openai_events(*events[:-1]).answer_ns is None
    assert openai_events(*events, ("completed", "c", "")).answer_ns == 5


def test_openai_items_of_commits_are_all_of_the_audio() -> None:
    log = openai_events(
        ("delta", "a", "one"),
        ("commit", "", 0),
        ("delta", "a", " two"),
        ("completed", "a", "one two"),
        ("completed", "b", ""),
    )
    (final,) = log.finals
    assert (final.start_sample, final.end_sample) == (0, 16_000)
    assert log.answer_ns == 4


@pytest.mark.parametrize("kind", ["error", PREFIX + "failed"])
def test_openai_failures_are_not_silence(kind: str) -> None:
    reader = OpenAiLog(StreamLog(Schedule(0, 320, 16_000)))
    with pytest.raises(RuntimeError, match="no room"):
        reader.receive({"type": kind, "error": {"message": "no room"}}, 1)


def test_events_without_a_meaning_here_are_passed_over() -> None:
    log = StreamLog(Schedule(0, 320, 16_000))
    OpenAiLog(log).receive({"type": "input_audio_buffer.committed", "item_id": "a"}, 1)
    assert log.shown == []


def test_openai_requests() -> None:
    base = "ws://h:80/v1/realtime?intent=transcription"
    assert openai_client.stream_url("openai+ws://h:80") == base
    assert openai_client.stream_url("openai+ws://h:80?model=m") == base + "&model=m"
    for vad in (True, False):
        update = json.loads(openai_client.session_update(vad=vad))
        given = update["session"]["audio"]["input"]
        assert given["format"] == {"type": "audio/pcm", "rate": 24_000}
        assert (given["turn_detection"] is not None) == vad


@given(st.integers(1, 3_000), st.integers(1, 50))
def test_openai_chunks_are_as_many_and_as_long_as_the_schedule_says(
    num_samples: int, chunk_ms: int
) -> None:
    schedule = Schedule(0, chunk_ms * 16, num_samples)
    messages = openai_client.audio_messages(bytes(2 * num_samples), schedule.chunk_samples)
    lengths = [len(audio_of(message)) // 2 for message in messages]
    assert len(lengths) == schedule.num_chunks
    assert set(lengths[:-1]) <= {chunk_ms * 24}
    assert abs(sum(lengths) - num_samples * 1.5) <= 0.5


def test_openai_audio_is_the_same_sound() -> None:
    """A tone keeps its loudness and its pitch, and is not delayed."""
    times = np.arange(16_000) / 16_000
    tone = np.rint(8_000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    sent = b"".join(map(audio_of, openai_client.audio_messages(tone.tobytes(), 320)))
    expected = 8_000 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    inner = slice(2_400, -2_400)
    np.testing.assert_allclose(np.frombuffer(sent, np.int16)[inner], expected[inner], atol=20)


def test_what_a_dialect_does_not_tell_is_absent_and_not_nought() -> None:
    log = openai_events(*TURN)
    measures = Measures()
    measures.add(log, [])
    results = results_of(Outcome([log], measures, (), None, 0.0, {}), None)
    assert results["finals"] == 1
    for name in ("dropped_samples", "streams_with_unequal_counts", "revised_stable_rate"):
        assert results[name] is None


def test_native_partials_show_stable_and_volatile_text() -> None:
    counts = {"audio_received": 0, "audio_decoded": 0, "utterance": 3, "start_sample": 1}
    for stable, volatile in (("one ", "two"), ("one", " two"), ("one", "two")):
        partial = Partial(stable=stable, volatile=volatile, end_sample=9, **counts)
        shown = shown_of(partial, 5)
        assert shown is not None
        assert (shown.text, shown.is_final, shown.utterance) == ("one two", False, 3)
    final = shown_of(Final(text="one two", end_sample=9, finalize_id=7, **counts), 5)
    assert final is not None
    assert (final.is_final, final.finalize_id) == (True, 7)
    assert shown_of(Pong(1), 5) is None


def test_chunks_join_to_the_stream() -> None:
    pcm = bytes(range(250)) * 4
    chunks = cut_chunks(pcm, 160)
    assert [len(chunk) for chunk in chunks] == [320, 320, 320, 40]
    assert b"".join(chunks) == pcm
