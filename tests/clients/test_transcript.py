"""The result of a stream in its four forms."""

from __future__ import annotations

import json

from clients.transcript import Transcript
from protocol.client_messages import Final, Word

from .server import STARTED, closed
from .test_blocking import partial

COUNTS = {"audio_received": 0, "audio_decoded": 0}


def spoken() -> Transcript:
    transcript = Transcript()
    for event in (
        STARTED,
        partial("not kept"),
        Final(
            utterance=0, start_sample=1_600, end_sample=32_000, text=" Hello you. ", language="en",
            words=(Word(" Hello", 1_600, 8_000, 0.98765), Word(" you.", 8_000, 24_000, 0.5)),
            **COUNTS,
        ),
        Final(utterance=1, start_sample=32_000, end_sample=32_000, text="", **COUNTS),
        Final(utterance=2, start_sample=48_000, end_sample=64_000, text="Bye.", **COUNTS),
        closed(80_000),
    ):  # fmt: skip
        transcript.add(event)
    return transcript


def test_text_is_a_line_a_final() -> None:
    assert spoken().render("txt") == "Hello you.\nBye.\n"
    assert Transcript().render("txt") == ""


def test_json_has_times_in_seconds_and_the_three_counts() -> None:
    fields = json.loads(spoken().render("json", "a.wav"))
    assert fields["file"] == "a.wav"
    assert fields["text"] == "Hello you. Bye."
    assert fields["model"] == "tiny.en"
    assert fields["language"] == "en"
    assert fields["duration"] == 5.0
    assert fields["segments"][0] == {
        "start": 0.1,
        "end": 2.0,
        "text": "Hello you.",
        "words": [
            {"word": "Hello", "start": 0.1, "end": 0.5, "confidence": 0.9877},
            {"word": "you.", "start": 0.5, "end": 1.5, "confidence": 0.5},
        ],
    }
    assert [s["text"] for s in fields["segments"]] == ["Hello you.", "Bye."]
    record = fields["close_record"]
    counts = {record[f"{place}_samples"] for place in ("socket", "ring", "engine")}
    assert counts == {80_000}


def test_json_of_nothing() -> None:
    assert json.loads(Transcript().render("json")) == {"text": "", "segments": []}


def test_subtitles_use_word_times_and_spread_words_without() -> None:
    cues = spoken().cues()
    assert [(c.start_s, c.text) for c in cues] == [(0.1, "Hello you."), (3.0, "Bye.")]
    assert spoken().render("srt").startswith("1\n00:00:00,100 --> 00:00:01,500\nHello you.\n")
    assert spoken().render("vtt").startswith("WEBVTT\n\n00:00:00.100 --> ")
