"""HotwordTrie: where it stands, what it gives and what it takes back, against slow formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.hotwords import (
    MAX_PHRASE_TOKENS,
    MAX_PHRASES,
    ROOT,
    HotwordTrie,
)

TOKENS = st.integers(0, 3)
PHRASES = st.lists(st.lists(TOKENS, min_size=1, max_size=4).map(tuple), max_size=5)
TEXT = st.lists(TOKENS, max_size=25)


def walk(trie: HotwordTrie, text: list[int]) -> tuple[int, float]:
    """The node after a text, and all that the text was given and not taken back."""
    node, total = ROOT, 0.0
    for token in text:
        total += trie.bonus(node).get(token, 0.0) - trie.held(node)
        node = trie.next(node, token)
    return node, total


def longest_end(phrases: list[tuple[int, ...]], text: list[int]) -> tuple[int, ...]:
    """The longest end of a text that begins a phrase."""
    beginnings = {phrase[:n] for phrase in phrases for n in range(len(phrase) + 1)} | {()}
    return next(
        tuple(text[start:]) for start in range(len(text) + 1) if tuple(text[start:]) in beginnings
    )


def test_each_token_of_a_phrase_is_worth_the_weight() -> None:
    trie = HotwordTrie([(5, 6, 7)], 1.5)
    assert trie.bonus(ROOT) == {5: 1.5}
    one = trie.next(ROOT, 5)
    two = trie.next(one, 6)
    assert walk(trie, [5]) == (one, 1.5)
    assert walk(trie, [5, 6]) == (two, 3.0)
    assert trie.held(two) == 3.0


def test_a_phrase_that_breaks_off_gives_everything_back() -> None:
    trie = HotwordTrie([(5, 6, 7)], 1.5)
    assert walk(trie, [5, 6, 9]) == (ROOT, 0.0)
    assert walk(trie, [5, 6, 5]) == (trie.next(ROOT, 5), 1.5)


def test_a_phrase_in_full_keeps_its_bonus() -> None:
    trie = HotwordTrie([(5, 6, 7)], 1.5)
    node, total = walk(trie, [5, 6, 7])
    assert (trie.held(node), total) == (0.0, 4.5)
    assert walk(trie, [5, 6, 7, 9]) == (ROOT, 4.5)
    assert walk(trie, [5, 6, 7, 5, 6, 7])[1] == 9.0


def test_a_phrase_inside_a_longer_one_is_not_given_twice() -> None:
    trie = HotwordTrie([(1,), (1, 2)], 1.0)
    assert walk(trie, [1])[1] == 1.0
    assert walk(trie, [1, 2])[1] == 2.0
    assert walk(trie, [1, 9])[1] == 1.0


def test_a_phrase_that_ends_inside_a_broken_one_is_kept() -> None:
    trie = HotwordTrie([(1, 2, 3, 4), (2, 3)], 1.0)
    assert walk(trie, [1, 2, 3, 9]) == (ROOT, 2.0)
    assert walk(trie, [1, 2, 3, 4])[1] == 4.0


def test_a_broken_phrase_may_contain_the_beginning_of_another() -> None:
    trie = HotwordTrie([(1, 2, 3), (2, 4)], 1.0)
    node = trie.next(trie.next(ROOT, 1), 2)
    assert trie.bonus(node) == {3: 3.0, 4: 2.0, 1: 1.0, 2: 1.0}
    assert walk(trie, [1, 2, 4])[1] == 2.0


def test_a_phrase_given_twice_counts_once() -> None:
    once, twice = HotwordTrie([(1, 2)], 1.0), HotwordTrie([(1, 2), (1, 2)], 1.0)
    assert once.num_nodes == twice.num_nodes == 3
    assert walk(once, [1, 2]) == walk(twice, [1, 2])


def test_without_phrases_there_is_no_bonus() -> None:
    trie = HotwordTrie([], 1.0)
    assert (trie.num_nodes, trie.bonus(ROOT), trie.next(ROOT, 3)) == (1, {}, ROOT)


@given(PHRASES, TEXT)
def test_the_node_is_the_longest_end_that_begins_a_phrase(
    phrases: list[tuple[int, ...]], text: list[int]
) -> None:
    trie = HotwordTrie(phrases, 1.0)
    fresh, _ = walk(trie, list(longest_end(phrases, text)))
    assert walk(trie, text)[0] == fresh


@given(PHRASES, TEXT)
def test_what_is_kept_only_grows_and_only_by_phrases_that_end(
    phrases: list[tuple[int, ...]], text: list[int]
) -> None:
    trie = HotwordTrie(phrases, 1.0)
    kept_before = 0.0
    for length in range(1, len(text) + 1):
        node, total = walk(trie, text[:length])
        kept = total - trie.held(node)
        longest = max((len(p) for p in phrases if tuple(text[:length][-len(p) :]) == p), default=0)
        assert 0.0 <= kept - kept_before <= longest
        assert (kept > kept_before) >= (longest > 0)
        assert 0.0 <= trie.held(node) <= len(longest_end(phrases, text[:length]))
        kept_before = kept


@given(PHRASES, TEXT)
def test_a_bonus_goes_to_tokens_that_begin_or_continue_a_phrase(
    phrases: list[tuple[int, ...]], text: list[int]
) -> None:
    trie = HotwordTrie(phrases, 1.0)
    node, _ = walk(trie, text)
    assert set(trie.bonus(node)) == {t for t in range(4) if trie.next(node, t) != ROOT}
    assert all(bonus >= 1.0 for bonus in trie.bonus(node).values())


@given(PHRASES, TEXT)
def test_children_and_shorter_ends_tell_the_whole_automaton(
    phrases: list[tuple[int, ...]], text: list[int]
) -> None:
    """next() and bonus() again, by a walk over what the automaton shows."""
    trie = HotwordTrie(phrases, 1.5)
    node, _ = walk(trie, text)
    ends = [node]
    while ends[-1] != ROOT:
        ends.append(trie.shorter(ends[-1]))
    for token in range(4):
        children = [trie.children(end)[token] for end in ends if token in trie.children(end)]
        assert trie.next(node, token) == (children[0] if children else ROOT)
        bonus = trie.given(children[0]) if children else None
        assert trie.bonus(node).get(token) == bonus


@given(PHRASES, TEXT, st.sampled_from([0.5, 2.0]))
def test_everything_scales_with_the_weight(
    phrases: list[tuple[int, ...]], text: list[int], weight: float
) -> None:
    node, total = walk(HotwordTrie(phrases, 1.0), text)
    assert walk(HotwordTrie(phrases, weight), text) == (node, weight * total)


@pytest.mark.parametrize("phrase", [(), tuple(range(MAX_PHRASE_TOKENS + 1)), (1, -1)])
def test_a_phrase_that_cannot_be_one_is_refused(phrase: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="hotword"):
        HotwordTrie([phrase], 1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        HotwordTrie([(1,)], weight)


def test_the_most_phrases_fit_and_no_more() -> None:
    phrases = [(n, *range(1, MAX_PHRASE_TOKENS)) for n in range(MAX_PHRASES)]
    assert HotwordTrie(phrases, 1.0).num_nodes == 1 + MAX_PHRASES * MAX_PHRASE_TOKENS
    with pytest.raises(ValueError, match="more than"):
        HotwordTrie([*phrases, (1,)], 1.0)
