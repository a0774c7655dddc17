"""WhisperCheckpoint: one Whisper model as it lies on the disk, under canonical names.

`load_whisper()` takes what a user has: a folder of transformers' save_pretrained, a folder of
CTranslate2 (faster-whisper), the embedded model's name, or the id of a repository on Hugging Face's
hub in either form. Every tensor that the architecture needs is known to be there, in its shape and
type, before anybody sees the checkpoint; nothing of it is read into memory until it is asked for.
The oracle (decoding/whisper_oracle.py) and the GPU engine compute with it. Knows files, and no
arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..cpu.model_files import EMBEDDED_MODEL_ID, find_model
from ..errors import ModelFileError, ModelNotFoundError
from .ct2_folder import read_model_bin
from .fields import Fields
from .hub import WHISPER, find_in_hub, is_hub_id, not_in_cache, pull
from .hugging_face_folder import MAX_JSON_BYTES, parse_json, read_bounded, weight_files
from .model_parts import CONFIG, CTRANSLATE2_FILE, GENERATION_CONFIG, ModelSource
from .safetensors_file import read_safetensors
from .stored_tensor import FLOAT_TYPES, StoredTensor
from .vocabulary import MAX_VOCABULARY_BYTES
from .whisper_config import WhisperConfig, expected_shapes, from_hugging_face
from .whisper_vocabulary import WhisperVocabulary, read_vocabulary

MAX_LISTED = 8  # wrong tensors named in one error
TOKENIZER = "tokenizer.json"
PREFIX = "model."  # of every tensor in transformers' state dict, but for the head
HEAD = "proj_out.weight"  # tied to the embedding
REMEDY = "this is not a whole Whisper checkpoint: download or convert it again"
FOLDER_REMEDY = (
    f"name a folder with {CONFIG}, {TOKENIZER} and model.safetensors (transformers) "
    f"or {CTRANSLATE2_FILE} (CTranslate2), or a repository as in openai/whisper-large-v3"
)
# The features that our own front end computes; a model made for others would hear noise.
FEATURES: Mapping[str, object] = {
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
}


class Tensor(Protocol):
    """A tensor that has not been read yet."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""

    def to_float32(self) -> NDArray[np.float32]:
        """(shape) float32, C-contiguous."""


@dataclass(frozen=True, slots=True)
class WhisperCheckpoint:
    """A checkpoint that has been checked, and not been read."""

    model_id: str
    config: WhisperConfig
    vocabulary: WhisperVocabulary
    tensors: Mapping[str, Tensor]  # by canonical name, those that we use
    tokenizer: Path  # tokenizer.json
    source: ModelSource

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors; the head is the embedding."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors.values())

    def tensor(self, name: str) -> NDArray[np.float32]:
        """In float32; a read-only view of the file where it is float32 there.

        Raises ModelFileError if there is none of that name.
        """
        if name not in self.tensors:
            raise ModelFileError(f"{self.model_id} has no tensor {name}")
        return self.tensors[name].to_float32()


def load_whisper(name: str, *, download: bool = True) -> WhisperCheckpoint:
    """The checkpoint in a folder, of the embedded model, or of a repository on the hub.

    `download` fetches a repository that is not in the hub's cache yet.

    Raises ModelNotFoundError, ModelFileError.
    """
    if name == EMBEDDED_MODEL_ID:
        return _read(find_model(name).folder, name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _read(path, path.resolve().name)
    if is_hub_id(name) and not path.exists():
        found = find_in_hub(name)
        if found is None and not download:
            raise not_in_cache(name)
        return _read(found or pull(name, check_is_whisper, WHISPER), name)
    raise ModelNotFoundError(f"there is no Whisper model {name}", FOLDER_REMEDY)


def check_is_whisper(folder: Path) -> None:
    """Raise ModelFileError if the folder's config.json is that of another architecture."""
    values = _parsed(folder / CONFIG)
    if "suppress_ids" not in values:  # CTranslate2's has no sizes: they are in its tensors
        from_hugging_face(values, str(folder / CONFIG))


def _read(folder: Path, model_id: str) -> WhisperCheckpoint:
    if (folder / CTRANSLATE2_FILE).is_file():
        config, tensors = _ctranslate2(folder)
        kind, weights = "CTranslate2 folder", [folder / CTRANSLATE2_FILE]
        settings = _parsed(folder / CONFIG)
    else:
        config, tensors, weights = _hugging_face(folder)
        kind = "Hugging Face folder"
        settings = {**_parsed(folder / CONFIG), **_optional(folder / GENERATION_CONFIG)}
    _check_features(folder, config)
    tokenizer = folder / TOKENIZER
    vocabulary = read_vocabulary(_tokenizer(tokenizer), settings, config, str(folder))
    files = (folder / CONFIG, *weights, tokenizer)
    source = ModelSource(
        kind=kind,
        path=folder,
        files=files,
        num_bytes=sum(file.stat().st_size for file in files),
        config_sha256=hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest(),
        tokenizer=TOKENIZER,
    )
    return WhisperCheckpoint(model_id, config, vocabulary, tensors, tokenizer, source)


def _ctranslate2(folder: Path) -> tuple[WhisperConfig, Mapping[str, Tensor]]:
    config, tensors = read_model_bin(folder / CTRANSLATE2_FILE)
    return config, dict(tensors)


def _hugging_face(folder: Path) -> tuple[WhisperConfig, Mapping[str, Tensor], list[Path]]:
    config = from_hugging_face(_parsed(folder / CONFIG), str(folder / CONFIG))
    weights = weight_files(folder)
    stored: dict[str, StoredTensor] = {}
    for file in weights:
        stored |= read_safetensors(file)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    shapes = expected_shapes(config)
    wrong = [
        problem
        for name, shape in shapes.items()
        if (problem := _problem(name, shape, tensors.get(name)))
    ]
    # A tensor that ours does not have would have to be computed with: a bias of keys, say.
    wrong += [f"{name} is not expected" for name in tensors if name not in shapes and name != HEAD]
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise ModelFileError(f"{folder}: {'; '.join(wrong[:MAX_LISTED])}{more}", REMEDY)
    return config, {name: tensors[name] for name in shapes}, weights


def _problem(name: str, shape: tuple[int, ...], found: StoredTensor | None) -> str:
    """What is wrong with one tensor; empty where it is as it should be."""
    if found is None:
        return f"{name} {list(shape)} is missing"
    if found.shape != shape:
        return f"{name} is {list(found.shape)}, not {list(shape)}"
    if found.dtype not in FLOAT_TYPES:
        return f"{name} is of type {found.dtype}, not one of {', '.join(FLOAT_TYPES)}"
    return ""


def _check_features(folder: Path, config: WhisperConfig) -> None:
    """Raise ModelFileError if the model was made for other features than ours."""
    path = folder / "preprocessor_config.json"
    fields = Fields(_optional(path), str(path))
    for field, value in {**FEATURES, "feature_size": config.num_mels}.items():
        fields.allow(field, value)


def _tokenizer(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} has no {path.name}", FOLDER_REMEDY)
    return parse_json(read_bounded(path, MAX_VOCABULARY_BYTES), path)


def _optional(path: Path) -> Mapping[str, Any]:
    return _parsed(path) if path.is_file() else {}


def _parsed(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} has no {path.name}", FOLDER_REMEDY)
    return parse_json(read_bounded(path, MAX_JSON_BYTES), path)
