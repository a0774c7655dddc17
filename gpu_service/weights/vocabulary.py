"""Reads the pieces of a tokenizer by id, from whichever file a model came with.

tokenizer.json of Hugging Face, tokenizer.model of SentencePiece, or vocab.txt with a piece a line.
Only the pieces: how text is cut and joined is decoding/pieces.py's. Pure: bytes in, pieces out;
hugging_face_folder.py and nemo_file.py know where the bytes come from, and bound them.

SentencePiece's file is a protobuf, of which one field in two levels is read:
    message ModelProto { repeated SentencePiece pieces = 1; ... }
    message SentencePiece { optional string piece = 1; ... }
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ModelFileError

MAX_VOCABULARY_BYTES = 64 << 20  # of any of these files
MAX_PIECE_BYTES = 1024
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # protobuf's wire types

Pieces = tuple[str, ...]


def read_tokenizer_json(data: bytes, where: str, size: int) -> Pieces:
    """The first `size` pieces of a tokenizer.json; the blank behind them is left out.

    Raises ModelFileError.
    """
    try:
        tokenizer = json.loads(data)
        by_id = _ids(tokenizer["model"]["vocab"])
        for added in tokenizer.get("added_tokens") or ():
            by_id[added["id"]] = added["content"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"{where} is not a tokenizer that Earwire can read: {error!r}"
        ) from error
    pieces = [by_id.get(index) for index in range(size)]
    return checked_pieces(pieces, where, size)


def _ids(vocab: Any) -> dict[Any, Any]:
    """Piece by id: a BPE's vocabulary maps piece to id, a unigram's is a list in order."""
    if isinstance(vocab, Mapping):
        return {index: piece for piece, index in vocab.items()}
    return {index: piece for index, (piece, _) in enumerate(vocab)}


def read_sentencepiece(data: bytes, where: str, size: int) -> Pieces:
    """The pieces of a SentencePiece model. Raises ModelFileError."""
    try:
        pieces = [_piece(message) for message in _messages(data, field=1)]
    except (IndexError, ValueError) as error:
        raise ModelFileError(f"{where} is not a SentencePiece model: {error}") from error
    if len(pieces) != size:
        raise ModelFileError(f"{where} has {len(pieces)} pieces, the model {size}")
    return checked_pieces(pieces, where, size)


def _piece(message: bytes) -> str:
    for text in _messages(message, field=1):
        return text.decode("utf-8")
    raise ValueError("a piece without text")


def _messages(data: bytes, field: int) -> Iterator[bytes]:
    """The length-delimited values of one field, in order; all other fields are passed over."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == VARINT:
            _, position = _varint(data, position)
            continue
        if wire_type == LENGTH_DELIMITED:
            num_bytes, position = _varint(data, position)
        elif wire_type in (FIXED64, FIXED32):
            num_bytes = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if num_bytes > len(data) - position:
            raise ValueError("it ends too early")
        if key == field << 3 | LENGTH_DELIMITED:
            yield data[position : position + num_bytes]
        position += num_bytes


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the value and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than ten bytes")


def read_vocab_txt(data: bytes, where: str, size: int) -> Pieces:
    """One piece a line, or "piece id" as ONNX exports write it; a last blank is left out.

    Raises ModelFileError.
    """
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{where} is not UTF-8 text") from error
    if lines and all(line.endswith(f" {index}") for index, line in enumerate(lines)):
        lines = [line.rpartition(" ")[0] for line in lines]
    if len(lines) == size + 1 and lines[-1] in ("<blk>", "<blank>"):
        del lines[-1]
    if len(lines) != size:
        raise ModelFileError(f"{where} has {len(lines)} pieces, the model {size}")
    return checked_pieces(lines, where, size)


def checked_pieces(pieces: list[Any], where: str, size: int) -> Pieces:
    """The same pieces as a tuple. Raises ModelFileError for one that is missing or no text."""
    for index, piece in enumerate(pieces):
        if not isinstance(piece, str) or not _is_text(piece):
            raise ModelFileError(f"{where} has no usable piece {index} of {size}")
    return tuple(pieces)


def _is_text(piece: str) -> bool:
    """Whether it can be sent as UTF-8, and is neither nothing nor a whole book."""
    try:
        return 0 < len(piece.encode()) <= MAX_PIECE_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
