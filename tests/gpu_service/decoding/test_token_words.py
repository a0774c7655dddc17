"""token_words: times, confidences and spelling of words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.pieces import Vocabulary
from gpu_service.decoding.token_words import GrowingWords, is_punctuation, token_words
from gpu_service.decoding.tokens import FRAME_SAMPLES, Token
from gpu_service.words import Word

PIECES = (
    "▁It", "▁was", "n", "'", "t", ",", ".", "?", "▁", "5", "%", "▁¿", "▁-", "<unk>", "<|en|>", "é"
)  # fmt: skip
VOCABULARY = Vocabulary(PIECES)
LONG = 1000 * FRAME_SAMPLES


def said(piece: str, frame: int, duration: int = 1, confidence: float = 0.5) -> Token:
    return Token(PIECES.index(piece), frame, duration, confidence)


def spans(*tokens: Token, num_samples: int = LONG) -> list[tuple[str, float, float]]:
    """Words with their times in frames."""
    return [
        (word.text, word.start_sample / FRAME_SAMPLES, word.end_sample / FRAME_SAMPLES)
        for word in token_words(tokens, VOCABULARY, num_samples)
    ]


def test_a_word_lasts_from_its_first_token_to_the_end_of_its_last() -> None:
    tokens = [said("▁It", 3, 2), said("▁was", 6, 1), said("n", 7, 0), said("t", 7, 3)]
    assert token_words(tokens, VOCABULARY, LONG) == (
        Word("It", 3 * 1280, 5 * 1280, 0.5),
        Word("wasnt", 6 * 1280, 10 * 1280, 0.5),
    )


def test_punctuation_belongs_to_the_word_before_and_does_not_move_its_end() -> None:
    assert spans(said("▁It", 0, 2), said(",", 4, 4), said("▁was", 9, 1), said("?", 12)) == [
        ("It,", 0, 2),
        ("was?", 9, 10),
    ]


def test_punctuation_inside_a_word_does_not_hide_what_follows_it() -> None:
    assert spans(said("▁was", 0), said("n", 1), said("'", 2), said("t", 3, 2)) == [("wasn't", 0, 5)]


def test_opening_punctuation_belongs_to_the_word_behind() -> None:
    assert spans(said("▁¿", 2), said("é", 3, 2)) == [("¿é", 2, 5)]


def test_punctuation_that_stands_alone_has_its_own_time() -> None:
    assert spans(said("▁It", 0), said("▁-", 4, 2), said("▁was", 6)) == [
        ("It", 0, 1),
        ("-", 4, 6),
        ("was", 6, 7),
    ]
    assert spans(said(".", 4, 2)) == [(".", 4, 6)]


def test_a_percent_sign_is_spoken() -> None:
    assert spans(said("▁", 1), said("5", 2), said("%", 3, 4)) == [("5%", 1, 7)]


def test_control_tokens_are_no_words() -> None:
    assert spans(said("<|en|>", 0), said("▁It", 2)) == [("It", 2, 3)]
    assert spans(said("<|en|>", 0)) == []


def test_a_word_of_duration_0_is_one_frame_long() -> None:
    assert spans(said("▁It", 3, 0), said("▁was", 3, 1)) == [("It", 3, 4), ("was", 3, 4)]


def test_ends_are_in_order_even_where_words_overlap() -> None:
    assert spans(said("▁It", 3, 4), said("▁was", 4, 1)) == [("It", 3, 7), ("was", 4, 7)]


def test_times_end_with_the_utterance() -> None:
    assert spans(said("▁It", 3, 4), said("▁was", 7), num_samples=5 * FRAME_SAMPLES) == [
        ("It", 3, 5),
        ("was", 5, 5),
    ]


def test_a_word_is_as_doubtful_as_its_most_doubtful_token() -> None:
    tokens = [said("▁was", 0, 1, 0.9), said("n", 1, 1, 0.123456), said(",", 2, 1, 0.7)]
    (word,) = token_words(tokens, VOCABULARY, LONG)
    assert word.confidence == 0.1235


def test_a_word_that_may_go_on_is_left_out() -> None:
    tokens = [said("▁It", 0), said("▁was", 1)]
    (word,) = token_words(tokens, VOCABULARY, LONG, is_end=False)
    assert word.text == "It"


def test_no_tokens_are_no_words() -> None:
    assert token_words([], VOCABULARY, LONG) == ()


@pytest.mark.parametrize("text", [".", ",-", "¿", "..."])
def test_what_is_punctuation(text: str) -> None:
    assert is_punctuation(text)


@pytest.mark.parametrize("text", ["a.", "5", "%", "&", "€", "é"])
def test_what_is_not_punctuation(text: str) -> None:
    assert not is_punctuation(text)


STEPS = st.lists(
    st.tuples(
        st.integers(0, len(PIECES) - 1), st.integers(0, 3), st.integers(0, 4), st.floats(0, 1)
    ),
    max_size=20,
)


@given(STEPS, st.integers(0, 60 * FRAME_SAMPLES))
def test_words_are_in_order_and_say_what_the_text_says(
    steps: list[tuple[int, int, int, float]], num_samples: int
) -> None:
    tokens, frame = [], 0
    for number, blanks, duration, confidence in steps:
        frame += blanks
        tokens.append(Token(number, frame, duration, confidence))
        frame += duration
    words = token_words(tokens, VOCABULARY, num_samples)
    text = VOCABULARY.text([token.id for token in tokens])
    assert " ".join(word.text for word in words).split() == text.split()
    starts = [word.start_sample for word in words]
    ends = [word.end_sample for word in words]
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    for word in words:
        assert 0 <= word.start_sample <= word.end_sample <= num_samples
        room = num_samples - word.start_sample
        assert word.end_sample - word.start_sample >= min(FRAME_SAMPLES, room)
        assert 0.0 <= word.confidence <= 1.0


@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=30),
    steps=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5).map(sorted),
    num_frames=st.integers(0, 40),
)
def test_words_that_grow_are_the_words_of_the_whole(
    pieces: list[str], steps: list[int], cuts: list[int], num_frames: int
) -> None:
    tokens, frame = [], 0
    for number, (piece, duration) in enumerate(zip(pieces, steps, strict=False)):
        tokens.append(said(piece, frame, duration, 0.1 + number / 100))
        frame += duration
    growing = GrowingWords(VOCABULARY)
    done = 0
    for cut in cuts:
        growing.commit(tokens[done:cut])
        done = max(done, min(cut, len(tokens)))
        assert growing.tokens == tokens[:done]
        for num_samples in (num_frames * FRAME_SAMPLES, LONG):
            expected = token_words(tokens, VOCABULARY, num_samples)
            assert growing.words(tokens[done:], num_samples) == expected
    assert growing.text(tokens[done:]) == VOCABULARY.text([token.id for token in tokens])
