"""Reads a folder as transformers' save_pretrained writes it.

    config.json
    model.safetensors, or model.safetensors.index.json {weight_map: {name: file}} and its shards
    tokenizer.json, tokenizer.model or vocab.txt     may be missing
    preprocessor_config.json or processor_config.json     may be missing

Names of tensors are the canonical ones already. Called by parakeet_checkpoint.py, for folders of
users and of the hub's cache; whisper_checkpoint.py finds files with the same functions. It knows
where things lie, and checks no tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelFileError, ModelNotFoundError
from .fields import Fields
from .model_parts import CONFIG, INDEX, SINGLE_FILE, ModelParts, ModelSource
from .parakeet_config import NUM_MELS, ParakeetConfig, from_hugging_face
from .safetensors_file import read_safetensors
from .stored_tensor import StoredTensor
from .vocabulary import (
    MAX_VOCABULARY_BYTES,
    Pieces,
    read_sentencepiece,
    read_tokenizer_json,
    read_vocab_txt,
)

MAX_JSON_BYTES = 16 << 20
MAX_SHARDS = 256
REMEDY = "name a folder with config.json and model.safetensors, or a .nemo file"
TOKENIZERS: Mapping[str, Callable[[bytes, str, int], Pieces]] = {
    "tokenizer.json": read_tokenizer_json,
    "tokenizer.model": read_sentencepiece,
    "vocab.txt": read_vocab_txt,
}
# The features that our own front end computes; a model made for others would hear noise.
FEATURES: Mapping[str, object] = {
    "feature_size": NUM_MELS,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "win_length": 400,
    "n_fft": 512,
    "preemphasis": 0.97,
}


def read_folder(folder: Path) -> ModelParts:
    """Everything in the folder. Raises ModelNotFoundError, ModelFileError."""
    config, sha256 = read_config(folder)
    _check_features(folder)
    weights = weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in weights:
        tensors |= read_safetensors(file)
    tokenizer, vocabulary = _read_vocabulary(folder, config)
    files = (folder / CONFIG, *weights, *([folder / tokenizer] if tokenizer else ()))
    source = ModelSource(
        kind="Hugging Face folder",
        path=folder,
        files=files,
        num_bytes=sum(file.stat().st_size for file in files),
        config_sha256=sha256,
        tokenizer=tokenizer,
    )
    return ModelParts(config, vocabulary, tensors, source)


def read_config(folder: Path) -> tuple[ParakeetConfig, str]:
    """The sizes in config.json, and its sha256. Raises ModelNotFoundError, ModelFileError."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelNotFoundError(f"{folder} has no {CONFIG}", REMEDY)
    data = read_bounded(path, MAX_JSON_BYTES)
    return from_hugging_face(parse_json(data, path), str(path)), hashlib.sha256(data).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The one file, or the shards that the index names.

    Raises ModelNotFoundError, ModelFileError.
    """
    if (folder / INDEX).is_file():
        return _shards(
            folder, parse_json(read_bounded(folder / INDEX, MAX_JSON_BYTES), folder / INDEX)
        )
    if not (folder / SINGLE_FILE).is_file():
        raise ModelNotFoundError(f"{folder} has no {SINGLE_FILE}", REMEDY)
    return [folder / SINGLE_FILE]


def _shards(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    weight_map = Fields(index, str(folder / INDEX)).section("weight_map").values
    for name in weight_map.values():
        # Shards lie beside their index; a name that leads elsewhere is none.
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
            raise ModelFileError(
                f"{folder / INDEX} names {name!r:.80}, which is no file of this folder"
            )
    names = sorted(set(weight_map.values()))
    if not 0 < len(names) <= MAX_SHARDS:
        raise ModelFileError(f"{folder / INDEX} names {len(names)} files")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{folder} has no {missing[0]} "
            f"({len(missing)} of the {len(names)} files that {INDEX} names are missing)",
            "download the whole model again",
        )
    return [folder / name for name in names]


def _read_vocabulary(folder: Path, config: ParakeetConfig) -> tuple[str | None, Pieces | None]:
    """The first tokenizer that is there, and the name of its file."""
    for name, read in TOKENIZERS.items():
        path = folder / name
        if path.is_file():
            data = read_bounded(path, MAX_VOCABULARY_BYTES)
            return name, read(data, str(path), config.vocabulary_size)
    return None, None


def _check_features(folder: Path) -> None:
    """Raise ModelFileError if the model was made for other features than ours."""
    for name, section in (
        ("preprocessor_config.json", ""),
        ("processor_config.json", "feature_extractor"),
    ):
        path = folder / name
        if not path.is_file():
            continue
        fields = Fields(parse_json(read_bounded(path, MAX_JSON_BYTES), path), str(path))
        if section in fields.values:
            fields = fields.section(section)
        for field, value in FEATURES.items():
            fields.allow(field, value)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A whole small file. Raises ModelFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelFileError(f"{path} can not be read: {error}") from error
    if len(data) > max_bytes:
        raise ModelFileError(f"{path} is larger than {max_bytes >> 20} MiB")
    return data


def parse_json(data: bytes, path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises ModelFileError."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelFileError(f"{path} is not a JSON object")
    return values
