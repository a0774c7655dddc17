"""bench/word_times.py: whose word is whose, and when it ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bench.live_log import Shown
from bench.word_times import (
    MARGIN_SAMPLES,
    TimedWord,
    first_shown,
    normalize,
    own_words,
    split_words,
    words_heard,
)
from protocol.client_messages import Word

WORD_SAMPLES = 4_000
NAMES = st.sampled_from(["a", "b", "c", "d"])  # so few that they repeat


def final(text: str, start: int, end: int, words: tuple[Word, ...] = ()) -> Shown:
    return Shown(0, 0, text, True, start, end, words)


def spoken(*texts: str, start: int = 0) -> tuple[Word, ...]:
    """One word behind the other, each WORD_SAMPLES long."""
    places = range(start, start + len(texts) * WORD_SAMPLES, WORD_SAMPLES)
    return tuple(
        Word(text, at, at + WORD_SAMPLES, 1.0) for text, at in zip(texts, places, strict=True)
    )


def test_words_are_shown_at_their_own_place() -> None:
    texts = [(1, "the"), (2, "the cat the"), (3, "The cat, the dog")]
    assert first_shown(texts, ["the", "cat", "the", "dog"]) == [1, 2, 2, 3]


def test_a_word_that_no_text_shows_has_no_time() -> None:
    assert first_shown([(1, "hello")], ["hello", "world"]) == [1, None]


def test_words_compare_without_case_and_punctuation() -> None:
    assert normalize(" Don't, ") == "don't"
    assert split_words("Well - it's 5 o'clock!") == ["well", "it's", "5", "o'clock"]


def test_a_final_has_the_times_that_it_tells() -> None:
    told = final("One, two", 0, 9_000, spoken("One,", "two"))
    assert own_words(told) == [TimedWord("one", 4_000), TimedWord("two", 8_000)]
    assert own_words(final("One, two", 0, 9_000)) == [
        TimedWord("one", None),
        TimedWord("two", None),
    ]


def test_words_take_the_times_of_those_that_were_heard_in_their_order() -> None:
    heard = spoken("So", "it", "is", "what", "it", "is.")
    words = words_heard(final("so it was what it is", 0, 24_000), heard)
    assert [word.text for word in words] == ["so", "it", "was", "what", "it", "is"]
    assert [word.end_sample for word in words] == [4_000, 8_000, None, 16_000, 20_000, 24_000]


def test_the_same_words_said_twice_have_each_their_own_time() -> None:
    """The interval decides, where the order of words cannot."""
    later = 100_000
    heard = spoken("yes", "please") + spoken("yes", "please", start=later)
    ends = [
        word.end_sample for word in words_heard(final("Yes, please.", later, later + 8_000), heard)
    ]
    assert ends == [later + 4_000, later + 8_000]


def test_a_word_is_within_a_final_by_its_middle_and_a_margin() -> None:
    (word,) = spoken("yes", start=50_000)  # its middle is 52_000
    for start, end, is_within in [
        (52_000 + MARGIN_SAMPLES, 90_000, True),
        (52_001 + MARGIN_SAMPLES, 90_000, False),
        (0, 52_001 - MARGIN_SAMPLES, True),
        (0, 52_000 - MARGIN_SAMPLES, False),
    ]:
        (timed,) = words_heard(final("yes", start, end), [word])
        assert (timed.end_sample is not None) is is_within


@given(st.lists(NAMES), st.lists(NAMES), st.integers(0, 40_000), st.integers(0, 40_000))
def test_every_time_is_that_of_the_same_word_within_the_final_and_in_order(
    said: list[str], texts: list[str], start: int, length: int
) -> None:
    heard = spoken(*texts)
    words = words_heard(final(" ".join(said), start, start + length), heard)
    assert [word.text for word in words] == said
    ends = [word.end_sample for word in words if word.end_sample is not None]
    assert ends == sorted(set(ends))
    by_end = {word.end_sample: word for word in heard}
    for word in words:
        if word.end_sample is not None:
            source = by_end[word.end_sample]
            assert source.text == word.text
            assert source.end_sample > start - MARGIN_SAMPLES
            assert source.start_sample < start + length + MARGIN_SAMPLES


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_words_that_both_have_find_each_other_whatever_lies_between(
    kept: list[tuple[bool, bool]],
) -> None:
    """Each word is said once; either side may lack it."""
    heard = [
        word for word, (is_heard, _) in zip(_numbered(len(kept)), kept, strict=True) if is_heard
    ]
    said = [word for word, (_, is_said) in zip(_numbered(len(kept)), kept, strict=True) if is_said]
    text = " ".join(word.text for word in said)
    words = words_heard(final(text, 0, len(kept) * WORD_SAMPLES), heard)
    expected = [word.end_sample if word in heard else None for word in said]
    assert [word.end_sample for word in words] == expected


def _numbered(count: int) -> tuple[Word, ...]:
    return spoken(*(f"w{number}" for number in range(count)))
