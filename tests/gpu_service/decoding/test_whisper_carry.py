"""What a final hands on: its text where that is believed, and nothing that is not tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.whisper_carry import MAX_CARRIED, believed, carried, restored
from gpu_service.decoding.whisper_rules import Decoding
from gpu_service.words import Hypothesis, spread_words

GOOD = Decoding((), -0.3, 0.1, 1.2)
END = 50_257


@given(st.lists(st.integers(0, END - 1), max_size=300))
def test_the_end_of_the_text_comes_back(tokens: list[int]) -> None:
    assert restored(carried(tokens, GOOD, 0.0), END) == tuple(tokens[-MAX_CARRIED:])


def test_what_may_be_nonsense_is_forgotten() -> None:
    assert carried([1, 2], GOOD, 0.4)
    assert carried([1, 2], GOOD, 0.6) == b""
    for doubtful in ({"log_probability": -1.2}, {"compression": 3.0}):
        assert carried([1, 2], replace(GOOD, **doubtful), 0.0) == b""
    silence = Decoding((), -1.1, 0.9, 1.0)
    assert carried([1, 2], silence, 0.0) == b""


@given(st.binary(max_size=1200))
def test_no_bytes_are_an_error(data: bytes) -> None:
    assert all(token < END for token in restored(data, END))


def test_other_bytes_are_no_context() -> None:
    good = carried([1, 2, 3], GOOD, 0.0)
    assert restored(good[:-1], END) == ()
    assert restored(good, 3) == ()
    assert restored(good * 100, END) == ()


def said(text: str, carry: bytes = b"text") -> Hypothesis:
    words = spread_words(text.split(), 16_000, 0.9)
    return Hypothesis(words, text, 16_000, is_final=True, carry=carry)


@pytest.mark.parametrize(
    ("alone", "in_context", "is_believed"),
    [
        ("the winter of despair.", "THE WINTER OF DESPAIR", True),
        ("I asked Katherine about it", "I asked Kathryn about it", True),
        ("spare. we had everything", "we had everything before", False),  # each word moved
        ("it was the age it was", "it was the age", False),
        ("it was the age", "it was the age of", False),
        ("Katherine", "Kathryn", False),  # most of one word is that word
        ("", "", True),
    ],
)
def test_context_says_which_words_and_not_how_many(
    alone: str, in_context: str, *, is_believed: bool
) -> None:
    expected = said(in_context if is_believed else alone)
    assert believed(said(alone), said(in_context)) == expected


def test_what_may_be_nonsense_is_not_taken_for_what_was_said() -> None:
    good, other = said("I asked Katherine about it"), said("I asked Kathryn about it")
    assert believed(good, other) == other
    assert believed(good, said(other.text, b"")) == good
    alone = said(good.text, b"")
    assert believed(alone, other) == alone, "context would not help"
