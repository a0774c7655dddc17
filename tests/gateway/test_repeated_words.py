"""Texts that go round in circles, and people who only insist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.repeated_words import MAX_WORDS, Repeat, find_repeat


@pytest.mark.parametrize(
    ("text", "repeat"),
    [
        ("", None),
        ("it was the best of times it was the worst of times", None),
        ("No, no, no, no, no!", None),
        ("No, no, no, no, no, no!", Repeat(1, 6)),
        ("thank you. Thank you. thank you.", None),
        ("well thank you. Thank you. thank you, thank you. Bye", Repeat(2, 4)),
        ("of the world of the world of the", None),
        ("of the world of the world of the world", Repeat(3, 3)),
        ("a b c d e f g h i j " * 3, Repeat(10, 3)),
        ("a b c d e f g h i j k " * 3, None),
        ("- - - - - -", Repeat(1, 6)),
    ],
)
def test_how_often_is_too_often(text: str, repeat: Repeat | None) -> None:
    assert find_repeat(text) == repeat


def test_a_long_text_is_looked_at_up_to_a_limit() -> None:
    numbers = " ".join(map(str, range(MAX_WORDS)))
    assert find_repeat(numbers + " loop" * 20) is None
    assert find_repeat("loop " * 20 + numbers) == Repeat(1, 20)


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_it_agrees_with_looking_at_every_place(words: list[str]) -> None:
    def most_times(num_words: int) -> int:
        best = 1
        for start in range(len(words)):
            phrase = words[start : start + num_words]
            times = 1
            while words[start + times * num_words :][:num_words] == phrase:
                times += 1
            best = max(best, times if len(phrase) == num_words else 1)
        return best

    limits = {1: 6, 2: 4}
    expected = [Repeat(n, most_times(n)) for n in range(1, 11) if most_times(n) >= limits.get(n, 3)]
    assert find_repeat(" ".join(words)) == (expected[0] if expected else None)
