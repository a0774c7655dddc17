"""Cues: cut where a reader would, within two lines of 42 characters, never overlapping."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.client_messages import Final, Word
from protocol.subtitles import (
    MAX_CUE_S,
    MAX_LINE_CHARS,
    MAX_LINES,
    MIN_CUE_S,
    Cue,
    TimedWord,
    cues_of,
    render_srt,
    render_vtt,
    spread_words,
    timed_words,
)


def words(text: str, start_s: float = 0.0, word_s: float = 0.3) -> list[TimedWord]:
    return [
        TimedWord(w, start_s + i * word_s, start_s + (i + 1) * word_s)
        for i, w in enumerate(text.split())
    ]


def test_a_short_final_is_one_cue_shown_long_enough_to_read() -> None:
    assert cues_of([words("Yes.", 2.0)]) == [Cue(2.0, 2.0 + MIN_CUE_S, "Yes.")]


def test_a_short_cue_gives_way_to_the_next() -> None:
    first, second = cues_of([words("Yes.", 0.0), words("No.", 0.5)])
    assert (first.end_s, second.start_s) == (0.5, 0.5)


def test_two_lines_are_of_like_length() -> None:
    (cue,) = cues_of([words("These captions appear while I am still speaking now", 0, 0.2)])
    first, second = cue.text.split("\n")
    assert abs(len(first) - len(second)) <= 10


def test_long_finals_are_cut_at_sentences_then_at_commas() -> None:
    text = "The quick brown fox jumps over the lazy dog at noon. Then it sleeps under the old oak."
    assert [c.text.replace("\n", " ") for c in cues_of([words(text, 0, 0.2)])] == [
        "The quick brown fox jumps over the lazy dog at noon.",
        "Then it sleeps under the old oak.",
    ]
    text = "When the quick brown fox jumps over the lazy dog, it sleeps below the old oak trees"
    assert cues_of([words(text + " again", 0, 0.2)])[0].text.endswith("dog,")


def test_a_pause_takes_the_text_away() -> None:
    spoken = [*words("one two", 0.0), *words("three", 5.0)]
    assert [c.text for c in cues_of([spoken])] == ["one two", "three"]


def test_slow_speech_is_cut_by_time() -> None:
    cues = cues_of([words("a b c d e f g h i j", 0.0, 1.2)])
    assert all(c.end_s - c.start_s <= MAX_CUE_S for c in cues)
    assert len(cues) == 2


def test_a_word_longer_than_a_line_is_broken() -> None:
    (cue,) = cues_of([words("x" * 60)])
    assert [len(line) for line in cue.text.split("\n")] == [42, 18]


def test_a_text_without_spaces_is_cut_as_any_other() -> None:
    text = "今天天气很好我们一起去公园散步吧" * 12
    cues = cues_of([spread_words(text, 2.0, 42.0)])
    lines = [cue.text.split("\n") for cue in cues]
    assert "".join(line for cue_lines in lines for line in cue_lines) == text
    assert all(len(cue_lines) <= MAX_LINES for cue_lines in lines)
    assert all(len(line) <= MAX_LINE_CHARS for cue_lines in lines for line in cue_lines)
    assert all(cue.end_s - cue.start_s <= MAX_CUE_S for cue in cues)
    assert all(a.end_s == b.start_s for a, b in pairwise(cues))
    assert (cues[0].start_s, cues[-1].end_s) == (2.0, 42.0)


def test_the_pieces_of_a_long_word_are_one_word_again() -> None:
    (cue,) = cues_of([[*words("see"), TimedWord(" " + "x" * 60, 0.3, 1.3), *words("now", 1.3)]])
    assert cue.text.replace("\n", "") == f"see {'x' * 60} now"


def test_empty_segments_and_words_make_no_cues() -> None:
    assert cues_of([[], [TimedWord("  ", 0.0, 1.0)]]) == []


@given(
    st.lists(
        st.lists(st.text("abcdefg.,", min_size=1, max_size=20), min_size=1, max_size=60), max_size=4
    )
)
def test_no_word_is_lost_and_every_limit_holds(segments: list[list[str]]) -> None:
    start_s, timed = 0.0, []
    for segment in segments:
        timed.append(words(" ".join(segment), start_s))
        start_s += len(segment) * 0.3 + 0.1
    cues = cues_of(timed)
    assert " ".join(c.text for c in cues).split() == [w for s in segments for w in s]
    assert all(len(c.text.split("\n")) <= MAX_LINES for c in cues)
    assert all(len(line) <= MAX_LINE_CHARS for c in cues for line in c.text.split("\n"))
    assert all(a.end_s <= b.start_s for a, b in pairwise(cues))
    assert all(c.start_s <= c.end_s for c in cues)


def test_words_without_times_are_spread_by_length() -> None:
    assert spread_words("a bcd", 1.0, 7.0) == [TimedWord("a", 1.0, 3.0), TimedWord("bcd", 3.0, 7.0)]
    assert spread_words("", 0.0, 1.0) == []


def test_srt() -> None:
    assert render_srt([Cue(0.0, 1.5, "Hi\nyou"), Cue(3661.0014, 3662.0, "<b>")]) == (
        "1\n00:00:00,000 --> 00:00:01,500\nHi\nyou\n\n2\n01:01:01,001 --> 01:01:02,000\n<b>\n\n"
    )


def test_vtt_escapes_markup() -> None:
    assert render_vtt([Cue(-0.1, 0.9996, "a < b & c")]) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt; b &amp; c\n\n"
    )


def final_of(text: str, *spoken: Word) -> Final:
    return Final(
        audio_received=64_000, audio_decoded=64_000, utterance=0, start_sample=16_000,
        end_sample=48_000, text=text, words=spoken,
    )  # fmt: skip


def test_a_final_with_its_words_times_and_one_without() -> None:
    timed = timed_words(final_of("Hi.", Word("Hi.", 17_600, 24_000, 0.9)))
    assert timed == [TimedWord("Hi.", 1.1, 1.5)]
    assert timed_words(final_of("a b")) == [TimedWord("a", 1.0, 2.0), TimedWord("b", 2.0, 3.0)]
    assert timed_words(final_of("")) == []
