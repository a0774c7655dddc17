"""The pure parts of bench's stream clients: events as the server sends them become Shown."""

from __future__ import annotations

import json

import pytest

from bench.live_log import StreamLog
from bench.native_client import shown_of
from bench.paced_sender import cut_chunks
from bench.pacing import Schedule
from bench.together_client import TogetherLog, append_message, stream_url
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
