"""HotwordTries: the columns say what the automaton says, and places are loaded and freed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.hotwords import MAX_PHRASE_TOKENS, MAX_PHRASES, ROOT, HotwordTrie
from gpu_service.gpu.device import Device
from gpu_service.gpu.tdt_hotwords import MAX_NODES, HotwordTries, trie_columns

PHRASES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=5)


def entries(columns: np.ndarray, node: int) -> dict[int, tuple[int, float]]:
    """Child and bonus by token, in the order in which they lie."""
    first, token, child, bonus, _ = columns
    places = range(first[node], first[node + 1])
    return {int(token[i]): (int(child[i]), float(bonus.view(np.float32)[i])) for i in places}


@given(PHRASES)
def test_columns_are_the_automaton(phrases: list[tuple[int, ...]]) -> None:
    trie = HotwordTrie(phrases, 1.5)
    columns = trie_columns(trie)
    for node in range(trie.num_nodes):
        found = entries(columns, node)
        assert list(found) == sorted(found)
        assert {token: child for token, (child, _) in found.items()} == trie.children(node)
        assert found == {
            token: (child, trie.given(child)) for token, child in trie.children(node).items()
        }
        assert columns[4, node] == trie.shorter(node)


def test_behind_the_last_node_there_is_nothing() -> None:
    columns = trie_columns(HotwordTrie([(1, 2)], 1.0))
    for node in (3, 100, MAX_NODES - 1):
        assert entries(columns, node) == {}
        assert columns[4, node] == ROOT


def test_the_largest_trie_fits() -> None:
    phrases = [(n, *range(1, MAX_PHRASE_TOKENS)) for n in range(MAX_PHRASES)]
    columns = trie_columns(HotwordTrie(phrases, 1.0))
    assert columns[0, MAX_NODES - 1] == columns[0, MAX_NODES] == MAX_NODES - 1


def test_places_are_loaded_over_and_freed(device: Device) -> None:
    tries = HotwordTries(device, 2, num_tokens=10)
    first, second = HotwordTrie([(1, 2)], 1.0), HotwordTrie([(3,)], 2.0)
    assert not tries.has(0)
    tries.load(0, first)
    tries.load(1, second)
    tries.load(0, second)
    assert tries.has(0)
    assert tries.has(1)
    assert not tries.has(2)
    assert not tries.has(-1)
    on_device = device.download(tries.array)
    np.testing.assert_array_equal(on_device[0], trie_columns(second))
    np.testing.assert_array_equal(on_device[1], trie_columns(second))
    tries.free(0)
    assert not tries.has(0)


def test_a_token_that_the_model_does_not_have_is_refused(device: Device) -> None:
    tries = HotwordTries(device, 1, num_tokens=10)
    with pytest.raises(ValueError, match="token 10 of 10"):
        tries.load(0, HotwordTrie([(1, 10)], 1.0))
    assert not tries.has(0)
