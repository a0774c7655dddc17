"""ModelParts: what a reader of one format hands on, before it is checked as a whole.

Plain data between hugging_face_folder.py or nemo_file.py, which find it, and
parakeet_checkpoint.py, which checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .parakeet_config import ParakeetConfig
from .stored_tensor import StoredTensor

# The files of a save_pretrained folder
CONFIG = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # {weight_map: {name: file}} of shards
GENERATION_CONFIG = "generation_config.json"
CTRANSLATE2_FILE = "model.bin"  # of a CTranslate2 folder


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model was found."""

    kind: str  # for people: "Hugging Face folder", "NeMo archive"
    path: Path  # the folder or the file
    files: tuple[Path, ...]  # everything that was read
    num_bytes: int  # of those files
    config_sha256: str  # hex, of the configuration as stored
    tokenizer: str | None  # for people: the file or field that the vocabulary came from


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Configuration, vocabulary and tensors by canonical name, not yet compared."""

    config: ParakeetConfig
    vocabulary: tuple[str, ...] | None  # (V,) by id
    tensors: Mapping[str, StoredTensor]
    source: ModelSource
    front_end: Mapping[str, StoredTensor] = field(default_factory=dict)  # NeMo's own, if stored
