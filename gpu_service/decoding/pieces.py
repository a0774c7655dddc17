"""Vocabulary: text from token ids and token ids from text, by the list of pieces alone.

Pure. The pieces are SentencePiece's: U+2581 stands for a space, ids of BPE pieces lie in the order
in which they were merged. Text is plain concatenation, so a piece never splits a character and a
word is complete as soon as the next one starts. Control pieces, `<|...|>` and the like, are no
text. Without pieces (a checkpoint without tokenizer) each id is a word of its own, "<12>".

It knows no times: token_words.py adds them. Hotwords come in through encode().
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TypeAlias

import msgspec

SPACE = "\u2581"
UNKNOWN = "<unk>"
UNKNOWN_SURFACE = " \u2047 "  # as SentencePiece prints it
MAX_PHRASE_CHARACTERS = 200

Spelling: TypeAlias = tuple[str, str]

_CONTROL = re.compile(r"<\|.*\|>|<pad>|<s>|</s>", re.DOTALL)


class PieceWord(msgspec.Struct, frozen=True, gc=False):
    """One word and the tokens that spell it."""

    text: str  # without space around it, never empty
    indices: tuple[int, ...]  # of its tokens in the sequence, ascending


class Vocabulary:
    """The pieces of one model, by id, without the blank."""

    def __init__(self, pieces: Sequence[str] | None) -> None:
        # (surface, bare) of each id: what it adds to the text, and that without space around it.
        self._pieces: Sequence[Spelling] | _Numbers = _Numbers()
        if pieces is not None:
            self._pieces = [(surface, surface.strip(" ")) for surface in map(_surface, pieces)]
        self._merge_order: dict[str, int] = {}  # id of each piece that text can consist of
        for number, piece in enumerate(pieces or ()):
            if piece != UNKNOWN and not _CONTROL.fullmatch(piece):
                self._merge_order.setdefault(piece, number)

    def surface(self, token: int) -> str:
        """What a token adds to the text, spaces included. Raises IndexError where pieces end."""
        return self._pieces[token][0]

    def bare(self, token: int) -> str:
        """surface() without space around it."""
        return self._pieces[token][1]

    def starts_word(self, token: int) -> bool:
        """Whether what came before this token is complete."""
        return self.surface(token).startswith(" ")

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a whole sequence, without space around it."""
        return "".join(map(self.surface, tokens)).strip(" ")

    def words(self, tokens: Sequence[int], *, is_end: bool = True) -> tuple[PieceWord, ...]:
        """The words of a sequence in order.

        Args:
            is_end: nothing follows; else the last word, which more tokens may extend, is left
                out. What was returned then stays the beginning of what longer sequences give.
        """
        pieces = self._pieces
        words: list[PieceWord] = []
        text = ""
        indices: list[int] = []
        for index, token in enumerate(tokens):
            surface, bare = pieces[token]
            # "<unk>" brings a space on both sides, U+2581 alone is only the one before a word.
            if indices and (surface[:1] == " " or text[-1:] == " "):
                _finish(words, text, indices)
                text, indices = "", []
            if surface:
                text += bare
                if bare and surface[-1] == " ":
                    text += " "
                indices.append(index)
        if is_end:
            _finish(words, text, indices)
        return tuple(words)

    def encode(self, phrase: str) -> tuple[int, ...]:
        """The tokens of a phrase at the beginning of a word, by byte pair merges.

        Raises ValueError for an empty or too long phrase and for a character that no piece
        spells.
        """
        spaced = " ".join(unicodedata.normalize("NFKC", phrase).split())
        if not 0 < len(spaced) <= MAX_PHRASE_CHARACTERS:
            raise ValueError(f"phrase of {len(spaced)} characters, not 1..{MAX_PHRASE_CHARACTERS}")
        symbols = list((" " + spaced).replace(" ", SPACE))
        for symbol in symbols:
            if symbol not in self._merge_order:
                raise ValueError(f"the model has no piece for {symbol!r}")
        return tuple(self._merge_order[symbol] for symbol in self._merged(symbols))

    def _merged(self, symbols: list[str]) -> list[str]:
        """Pairs merged as long as any is a piece: of the lowest id first, of equals the first.

        A symbol that became a part of the one before it is empty. What waits in the heap may have
        been overtaken: it counts if its symbols still spell it.
        """
        symbols, order = list(symbols), self._merge_order
        behind = list(range(1, len(symbols) + 1))  # the next symbol that is not empty
        before = list(range(-1, len(symbols) - 1))
        waiting = [
            (order[left + right], place, left + right)
            for place, (left, right) in enumerate(pairwise(symbols))
            if left + right in order
        ]
        heapify(waiting)
        while waiting:
            _, place, piece = heappop(waiting)
            other = behind[place]
            is_there = symbols[place] and other < len(symbols)
            if not is_there or symbols[place] + symbols[other] != piece:
                continue
            symbols[place], symbols[other] = piece, ""
            behind[place] = behind[other]
            if behind[place] < len(symbols):
                before[behind[place]] = place
            for left in (before[place], place):
                if left >= 0 and behind[left] < len(symbols):
                    pair = symbols[left] + symbols[behind[left]]
                    if pair in order:
                        heappush(waiting, (order[pair], left, pair))
        return [symbol for symbol in symbols if symbol]


def _surface(piece: str) -> str:
    if piece == UNKNOWN:
        return UNKNOWN_SURFACE
    return "" if _CONTROL.fullmatch(piece) else piece.replace(SPACE, " ")


def _finish(words: list[PieceWord], text: str, indices: Sequence[int]) -> None:
    """Append the word, or nothing where there was only space."""
    bare = text.strip(" ")
    if bare:
        words.append(PieceWord(bare, tuple(indices)))


class _Numbers(dict[int, Spelling]):
    """How a token is spelled that has no piece; at most as many as the model has tokens."""

    def __missing__(self, token: int) -> Spelling:
        spelling = self[token] = f" <{token}>", f"<{token}>"
        return spelling
