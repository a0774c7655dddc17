"""HotwordTrie: phrases that a decoder should rather hear, as a bonus on tokens.

Pure. An Aho-Corasick automaton over token ids: a node is the longest end of what was said that
begins a phrase, node 0 is none. Each token of a phrase is worth `weight` (of a logit). A phrase
that is said in full keeps its bonus; one that breaks off gives back what it was given, unless
another phrase begins inside it. So over any text the bonuses add up to the phrases in it.

A greedy decoder cannot take a token back. What would be taken from all tokens that break a phrase
off is therefore added to those that do not: only differences between tokens count, since blank
and durations are untouched. tdt.py calls it; it knows no text (pieces.py makes the ids).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

MAX_PHRASES = 256
MAX_PHRASE_TOKENS = 32

ROOT = 0


class HotwordTrie:
    """The automaton of one session's phrases; never changed after it is made."""

    def __init__(self, phrases: Iterable[Sequence[int]], weight: float) -> None:
        """Raises ValueError for an empty or too long phrase, for too many, and for a weight
        that is not positive.

        Args:
            phrases: token ids of each.
            weight: what each token of a phrase adds to its logit.
        """
        if not 0.0 < weight < float("inf"):
            raise ValueError(f"hotword weight {weight} is not positive")
        self._weight = weight
        self._children: list[dict[int, int]] = [{}]  # token -> node, by node
        self._shorter: list[int] = [ROOT]  # the longest other end that begins a phrase
        self._phrase_tokens: list[int] = [0]  # length of the longest phrase that ends here
        self._given_tokens: list[int] = [0]  # given on arrival, kept ones included
        self._held_tokens: list[int] = [0]  # of those, what breaking off takes back
        for number, phrase in enumerate(phrases):
            self._add(phrase, number)
        self._link()

    @property
    def num_nodes(self) -> int:
        """Nodes are 0 .. num_nodes - 1."""
        return len(self._children)

    def next(self, node: int, token: int) -> int:
        """The node after saying `token`."""
        while token not in self._children[node]:
            if node == ROOT:
                return ROOT
            node = self._shorter[node]
        return self._children[node][token]

    def bonus(self, node: int) -> dict[int, float]:
        """What to add to the logit of each token that goes on with a phrase or begins one."""
        bonus = {} if node == ROOT else self.bonus(self._shorter[node])
        for token, child in self._children[node].items():
            bonus[token] = self.given(child)
        return bonus

    def children(self, node: int) -> Mapping[int, int]:
        """The node behind each token that goes on with what `node` stands for."""
        return MappingProxyType(self._children[node])

    def shorter(self, node: int) -> int:
        """The longest other end of what was said that begins a phrase."""
        return self._shorter[node]

    def given(self, node: int) -> float:
        """What the token that leads to `node` is given."""
        return self._given_tokens[node] * self._weight

    def held(self, node: int) -> float:
        """What the unfinished phrase was given so far."""
        return self._held_tokens[node] * self._weight

    def _add(self, phrase: Sequence[int], number: int) -> None:
        if number >= MAX_PHRASES:
            raise ValueError(f"more than {MAX_PHRASES} hotword phrases")
        if not 0 < len(phrase) <= MAX_PHRASE_TOKENS:
            raise ValueError(f"hotword phrase of {len(phrase)} tokens, not 1..{MAX_PHRASE_TOKENS}")
        node = ROOT
        for token in phrase:
            if token < 0:
                raise ValueError(f"hotword token {token}")
            if token not in self._children[node]:
                self._children[node][token] = self._new_node()
            node = self._children[node][token]
        self._phrase_tokens[node] = len(phrase)

    def _new_node(self) -> int:
        for column in (self._shorter, self._phrase_tokens, self._given_tokens, self._held_tokens):
            column.append(0)
        self._children.append({})
        return len(self._children) - 1

    def _link(self) -> None:
        """Fill in the columns, short beginnings first: longer ones build on them."""
        nodes = [ROOT]
        for node in nodes:
            for token, child in self._children[node].items():
                if node != ROOT:
                    self._shorter[child] = self.next(self._shorter[node], token)
                self._settle(child, node)
                nodes.append(child)

    def _settle(self, node: int, parent: int) -> None:
        """What arriving at `node` gives, and how much of it a phrase that ends here keeps."""
        ended = self._phrase_tokens[node] or self._phrase_tokens[self._shorter[node]]
        self._phrase_tokens[node] = ended
        given = self._held_tokens[parent] + 1
        self._given_tokens[node] = given
        self._held_tokens[node] = given - min(given, ended)
