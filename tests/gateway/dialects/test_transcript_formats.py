"""Finals as text, subtitles and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.dialects.openai_http_events import (
    FormRefused,
    Granularity,
    TranscriptionOptions,
    options_of,
)
from gateway.dialects.transcript_formats import FileTranscript, stream_event
from protocol.client_messages import Final, Word


def options(**fields: str) -> TranscriptionOptions:
    found = options_of({name: [value] for name, value in fields.items()})
    assert not isinstance(found, FormRefused)
    return found


def final(text: str, start_s: float, *words: Word, language: str | None = None) -> Final:
    start = int(start_s * 16_000)
    return Final(
        audio_received=0, audio_decoded=0, utterance=0, start_sample=start,
        end_sample=start + 16_000, text=text, words=words, language=language,
    )  # fmt: skip


def transcript(*finals: Final) -> FileTranscript:
    made = FileTranscript()
    for item in finals:
        made.add(item)
    return made


TWO = transcript(
    final(
        " Hello you. ", 1.0, Word("Hello", 16_000, 20_000, 0.5), Word("you.", 20_000, 32_000, 0.5)
    ),
    final("", 2.0, language="fr"),
    final("Fish & chips.", 3.0),
)


def render(made: FileTranscript, **fields: str) -> bytes:
    return made.render(options(**fields), 80_000)[1]


def verbose(made: FileTranscript, **fields: str) -> Any:
    return json.loads(render(made, response_format="verbose_json", **fields))


def test_what_a_final_adds_is_what_the_text_gains() -> None:
    made, text = FileTranscript(), ""
    for item in (final(" a ", 0.0), final(" ", 1.0), final("b c", 2.0)):
        text += made.add(item)
        assert text == made.text
    assert text == "a b c"


def test_text() -> None:
    assert render(TWO, response_format="text") == b"Hello you. Fish & chips.\n"


def test_srt() -> None:
    assert render(TWO, response_format="srt").decode() == (
        "1\n00:00:01,000 --> 00:00:02,000\nHello you.\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\nFish & chips.\n\n"
    )


def test_vtt() -> None:
    assert render(TWO, response_format="vtt").decode() == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nHello you.\n\n"
        "00:00:03.000 --> 00:00:04.000\nFish &amp; chips.\n\n"
    )


def test_segments_say_what_can_be_known() -> None:
    first, second = verbose(TWO)["segments"]
    assert first["avg_logprob"] == pytest.approx(-0.6931)
    assert 0.3 < first["compression_ratio"] < 0.8  # short texts grow
    assert (first["tokens"], first["seek"], first["no_speech_prob"]) == ([], 0, 0.0)
    assert second["avg_logprob"] == 0.0
    (repeated,) = verbose(transcript(final("no " * 200, 0.0)))["segments"]
    assert repeated["compression_ratio"] > 10
    doubtful = transcript(final("a", 0.0, Word("a", 0, 1, 0.0)))
    assert verbose(doubtful)["segments"][0]["avg_logprob"] < -10


def test_the_language_is_what_was_heard_else_what_was_asked_for() -> None:
    assert verbose(TWO, language="en")["language"] == "fr"
    assert verbose(transcript(), language="en")["language"] == "en"
    assert verbose(transcript())["language"] == ""


def test_words_without_times_are_spread() -> None:
    asked = options(response_format="verbose_json", timestamp_granularities="word")
    assert asked.granularities == {Granularity.WORD}
    words = json.loads(TWO.render(asked, 80_000)[1])["words"]
    assert [word["word"] for word in words] == ["Hello", "you.", "Fish", "&", "chips."]
    assert (words[2]["start"], words[-1]["end"]) == (3.0, 4.0)


def test_silence_in_every_format() -> None:
    silent = transcript()
    assert json.loads(render(silent))["text"] == ""
    assert render(silent, response_format="text") == b"\n"
    assert render(silent, response_format="srt") == b""
    assert render(silent, response_format="vtt") == b"WEBVTT\n\n"
    assert verbose(silent)["segments"] == []
    assert silent.done_event(0).endswith(b"data: [DONE]\n\n")


def test_an_event_is_one_line() -> None:
    assert stream_event(b'{"a":"b"}') == b'data: {"a":"b"}\n\n'
    assert transcript(final("a\nb", 0.0)).done_event(16_000).count(b"\n\n") == 2
