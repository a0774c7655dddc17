"""Reads a .nemo file: an archive of configuration, torch checkpoint and tokenizer.

    model_config.yaml      sizes, and the vocabulary as `labels`
    model_weights.ckpt     torch's zip; or, in some zips, its members as model_weights/...
    tokenizer.model, or vocab.txt    may be missing; NeMo writes HASH_tokenizer.model

The weights are used where they lie in the file. Called by parakeet_checkpoint.py. It knows where
things are and what NeMo calls them, and checks no tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ..errors import ModelFileError
from .archive import Members, read_members
from .model_parts import ModelParts, ModelSource
from .nemo_config import MAX_YAML_BYTES, from_nemo, parse_yaml
from .nemo_names import MEL_BANK, WINDOW, canonical_name
from .stored_tensor import StoredTensor, map_file
from .torch_checkpoint import read_torch_checkpoint, read_torch_members
from .vocabulary import (
    MAX_VOCABULARY_BYTES,
    Pieces,
    checked_pieces,
    read_sentencepiece,
    read_vocab_txt,
)

CONFIG = "model_config.yaml"
CHECKPOINT = "model_weights.ckpt"
CHECKPOINT_FOLDER = "model_weights/"
TOKENIZERS = {"tokenizer.model": read_sentencepiece, "vocab.txt": read_vocab_txt}


def read_nemo(path: Path) -> ModelParts:
    """Everything in the file. Raises ModelNotFoundError, ModelFileError."""
    members = read_members(map_file(path), str(path), _is_wanted)
    data = _small(members, CONFIG, MAX_YAML_BYTES, path)
    config, labels = from_nemo(parse_yaml(data, f"{path}: {CONFIG}"))
    stored = _read_weights(members, path)
    front_end = {name: stored.pop(name) for name in (WINDOW, MEL_BANK) if name in stored}
    tokenizer, vocabulary = _read_vocabulary(members, labels, config.vocabulary_size, path)
    source = ModelSource(
        kind="NeMo archive",
        path=path,
        files=(path,),
        num_bytes=path.stat().st_size,
        config_sha256=hashlib.sha256(data).hexdigest(),
        tokenizer=tokenizer,
    )
    return ModelParts(config, vocabulary, _renamed(stored, path), source, front_end)


def _is_wanted(name: str) -> bool:
    tokenizer = any(_is_called(name, tokenizer) for tokenizer in TOKENIZERS)
    return name in (CONFIG, CHECKPOINT) or name.startswith(CHECKPOINT_FOLDER) or tokenizer


def _is_called(name: str, wanted: str) -> bool:
    """Whether this is `wanted`, perhaps with NeMo's hash before it."""
    return name == wanted or name.endswith("_" + wanted)


def _read_weights(members: Members, path: Path) -> dict[str, StoredTensor]:
    where = f"{path}: {CHECKPOINT}"
    if CHECKPOINT in members:
        return read_torch_checkpoint(members[CHECKPOINT], where)
    folder = {name: data for name, data in members.items() if name.startswith(CHECKPOINT_FOLDER)}
    if not folder:
        raise ModelFileError(f"{path} has no {CHECKPOINT}", "download it again")
    return read_torch_members(folder, where)


def _renamed(stored: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        canonical = canonical_name(name)
        if canonical is None:
            continue
        if canonical in tensors:
            raise ModelFileError(f"{path} has two tensors for {canonical}")
        tensors[canonical] = tensor
    return tensors


def _read_vocabulary(
    members: Members, labels: Pieces | None, size: int, path: Path
) -> tuple[str | None, Pieces | None]:
    """tokenizer.model before the labels of the configuration before vocab.txt.

    NeMo's vocab.txt may be a word-piece rendering with other ids; the other two have the model's.
    """
    found = {wanted: name for wanted in TOKENIZERS for name in members if _is_called(name, wanted)}
    if labels and "tokenizer.model" not in found:
        return f"labels in {CONFIG}", checked_pieces(list(labels), f"{path}: {CONFIG}", size)
    for wanted, read in TOKENIZERS.items():
        if wanted in found:
            data = _small(members, found[wanted], MAX_VOCABULARY_BYTES, path)
            return found[wanted], read(data, f"{path}: {found[wanted]}", size)
    return None, None


def _small(members: Members, name: str, max_bytes: int, path: Path) -> bytes:
    """A whole member. Raises ModelFileError."""
    if name not in members:
        raise ModelFileError(f"{path} has no {name}", "download it again")
    if members[name].size > max_bytes:
        raise ModelFileError(f"{path}: {name} is larger than {max_bytes >> 20} MiB")
    return members[name].tobytes()
