"""HotwordTries: the automata of many sessions on the device (kernels/tdt_hotwords.cuh).

A place holds the largest trie that decoding/hotwords.py makes. Its nodes keep their numbers, so
that a state's node means the same to both decoders. Knows columns of integers, no session.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..decoding.hotwords import MAX_PHRASE_TOKENS, MAX_PHRASES, HotwordTrie
from .device import Device, DeviceArray, Event

MAX_NODES = 1 + MAX_PHRASES * MAX_PHRASE_TOKENS
COLUMNS = 5  # first entry of each node; token, child and bonus of each entry; shorter of each node

Columns = NDArray[np.int32]


class HotwordTries:
    """Room for a number of tries."""

    def __init__(self, device: Device, num_places: int, num_tokens: int) -> None:
        """`num_tokens` V: tokens of a phrase are below that. Raises DeviceError."""
        self.array: DeviceArray = device.zeros(
            (max(num_places, 1), COLUMNS, MAX_NODES + 1), np.int32
        )
        self._num_nodes = np.zeros(num_places, np.int64)  # 0: none is loaded
        self._num_tokens = num_tokens
        self._device = device
        self._staging = device.pinned((COLUMNS, MAX_NODES + 1), np.int32)
        self._copied: Event | None = None

    def load(self, index: int, trie: HotwordTrie) -> None:
        """Put a trie into a place, over what was there; launches before this still see that.

        Waits for the copy of the trie before it. Raises ValueError for an unknown token.
        """
        columns = trie_columns(trie)
        if (columns[1] >= self._num_tokens).any():
            raise ValueError(f"hotword token {columns[1].max()} of {self._num_tokens}")
        if self._copied is not None:
            self._device.wait(self._copied)
        self._staging.array[:] = columns
        self._device.copy(self.array.at(index), self._staging)
        self._copied = self._device.record()
        self._num_nodes[index] = trie.num_nodes

    def free(self, index: int) -> None:
        """Forget a trie."""
        self._num_nodes[index] = 0

    def has(self, index: int) -> bool:
        """Whether a place has a trie."""
        return 0 <= index < len(self._num_nodes) and bool(self._num_nodes[index])


def trie_columns(trie: HotwordTrie) -> Columns:
    """(5, nodes + 1) as the kernels read a trie; entries of a node in the order of their tokens."""
    columns = np.zeros((COLUMNS, MAX_NODES + 1), np.int32)
    first, token, child, bonus, shorter = columns
    entry = 0
    for node in range(trie.num_nodes):
        first[node] = entry
        shorter[node] = trie.shorter(node)
        for its_token, its_child in sorted(trie.children(node).items()):
            token[entry], child[entry] = its_token, its_child
            bonus.view(np.float32)[entry] = trie.given(its_child)
            entry += 1
    first[trie.num_nodes :] = entry
    return columns
