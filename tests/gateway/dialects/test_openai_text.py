"""Deltas that are only added to: their sum is the transcript, whatever recognition revises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.openai_text import MAX_ALIGN_CELLS, GrowingText, num_covered

WORDS = st.lists(st.sampled_from(["a", "b", "c", "A,", "b.", "-", "dd"]), max_size=8)


def spoken(partials: list[str], final: str) -> list[str]:
    """The deltas of an utterance; every sum is checked on the way."""
    text = GrowingText()
    deltas = [text.on_partial(stable) for stable in partials]
    deltas.append(text.on_final(final))
    assert "".join(deltas) == text.text
    return deltas


def test_a_final_without_partials_is_the_transcript_as_it_is() -> None:
    assert spoken([], " odd  spacing ") == [" odd  spacing "]
    assert spoken([], "") == [""]
    assert spoken(["", ""], "Well.") == ["", "", "Well."]


def test_stable_words_are_sent_as_they_come_and_the_final_adds_the_rest() -> None:
    partials = ["It", "It was the", "It was the", "It was the best"]
    assert spoken(partials, "It was the best of times.") == [
        "It",
        " was the",
        "",
        " best",
        " of times.",
    ]


def test_what_is_written_without_spaces_comes_word_by_word_too() -> None:
    partials = ["我", "我们去", "我们去", "我们去北"]
    assert spoken(partials, "我们去北京。") == ["我", "们去", "", "北", "京。"]
    text = GrowingText()
    assert [text.on_final("我们去。"), text.on_final("你好"), text.on_final("OK")] == [
        "我们去。",
        "你好",
        "OK",
    ]


def test_the_finals_own_spacing_is_kept_where_it_is_new() -> None:
    assert spoken(["It was"], "It was the  best ") == ["It was", " the  best "]


def test_several_utterances_make_one_text() -> None:
    text = GrowingText()
    deltas = [text.on_partial("One"), text.on_final("One two."), text.on_partial("Three")]
    deltas += [text.on_final(""), text.on_final("four")]
    assert deltas == ["One", " two.", " Three", "", " four"]
    assert text.text == "One two. Three four"


@pytest.mark.parametrize(
    ("sent", "final", "rest"),
    [
        ("it was", "It was, the best", " the best"),  # case and punctuation are no revision
        ("we all going", "We're all going direct", " direct"),  # replaced
        ("we were all going to act the other", "we were all going direct the other way", " way"),
        ("a b", "a x b c", " c"),  # inserted: the last words agree
        ("a x b", "a b c", " c"),  # taken out
        ("the cat sad", "the cat sat on", " on"),  # the last word is another: it stands for one
        ("a b c", "a b", ""),
        ("a b c", "", ""),
        ("x", "a b c", " b c"),
        ("...", "... so", " so"),  # a word of punctuation only equals itself
        ("--", "... so", " so"),
    ],
)
def test_what_was_sent_stays_and_only_what_lies_behind_it_is_added(
    sent: str, final: str, rest: str
) -> None:
    assert spoken([sent], final) == [sent, rest]


def test_an_alignment_that_would_take_long_counts_words() -> None:
    num_words = int(MAX_ALIGN_CELLS**0.5) + 1
    sent = [f"s{i}" for i in range(num_words)]
    final = [f"f{i}" for i in range(num_words + 3)]
    assert num_covered(sent, final) == num_words
    assert num_covered(["same", *sent], ["same", *final[:num_words]]) == num_words + 1
    assert num_covered(final, sent) == num_words


def edit_distance(left: list[str], right: list[str]) -> int:
    """The obvious recursion, as a table of all."""
    table = {(i, 0): i for i in range(len(left) + 1)} | {(0, j): j for j in range(len(right) + 1)}
    for i in range(1, len(left) + 1):
        for j in range(1, len(right) + 1):
            table[i, j] = min(
                table[i - 1, j - 1] + (left[i - 1] != right[j - 1]),
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
            )
    return table[len(left), len(right)]


@given(WORDS, WORDS)
def test_no_other_beginning_of_the_final_is_nearer(sent: list[str], final: list[str]) -> None:
    ours = ["".join(filter(str.isalnum, w.casefold())) or w for w in sent]
    theirs = ["".join(filter(str.isalnum, w.casefold())) or w for w in final]
    covered = num_covered(sent, final)
    best = min(edit_distance(ours, theirs[:n]) for n in range(len(theirs) + 1))
    assert edit_distance(ours, theirs[:covered]) == best


@given(st.lists(st.tuples(WORDS, WORDS, st.integers(0, 8)), max_size=4))
def test_the_sum_of_the_deltas_is_the_text(
    utterances: list[tuple[list[str], list[str], int]],
) -> None:
    text = GrowingText()
    total = ""
    for stable, final, num_partials in utterances:
        for end in range(num_partials):
            total += text.on_partial(" ".join(stable[: end + 1]))
        total += text.on_final(" ".join(final))
    assert total == text.text
    assert "  " not in total
