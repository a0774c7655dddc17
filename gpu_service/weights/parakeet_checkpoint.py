"""ParakeetCheckpoint: one model as it lies on the disk, under canonical names.

`load_checkpoint()` takes what a user has: a folder of transformers' save_pretrained, a .nemo file,
or the id of a Hugging Face repository that is in the cache. Whatever it was, every tensor that the
architecture needs is known to be there, in its shape and in a float type, before anybody sees the
checkpoint; nothing of it is read into memory until it is asked for. parakeet_weights.py makes of it
what the engines compute with, models_command.py shows it. Knows files, and no arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, ModelNotFoundError
from .hub import find_in_hub, is_hub_id, not_in_cache, pull
from .hugging_face_folder import read_config, read_folder
from .model_parts import ModelParts, ModelSource
from .nemo_file import read_nemo
from .nemo_names import MEL_BANK, WINDOW
from .parakeet_config import ParakeetConfig, expected_shapes
from .stored_tensor import FLOAT_TYPES, StoredTensor

MAX_LISTED = 8  # wrong tensors named in one error
FRONT_END_TOLERANCE = 1e-5  # of values up to 1 (window) and 0.03 (mel bank)
REMEDY = "this is not a whole Parakeet-TDT checkpoint: download or convert it again"


@dataclass(frozen=True, slots=True)
class ParakeetCheckpoint:
    """A checkpoint that has been checked, and not been read."""

    model_id: str
    config: ParakeetConfig
    vocabulary: tuple[str, ...] | None  # (V,) pieces by id; None without a tokenizer
    tensors: Mapping[str, StoredTensor]  # by canonical name, those that we use
    source: ModelSource
    front_end: Mapping[str, StoredTensor]  # NeMo's window and mel bank, where they are stored

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors that the architecture has."""
        return tuple(self.tensors)

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors, statistics of the batch norms included."""
        return sum(tensor.num_elements for tensor in self.tensors.values())

    def tensor(self, name: str) -> NDArray[np.float32]:
        """In float32; a read-only view of the file where it is float32 there.

        Raises ModelFileError if there is none of that name.
        """
        if name not in self.tensors:
            raise ModelFileError(f"{self.model_id} has no tensor {name}")
        return self.tensors[name].to_float32()

    def check_front_end(self, window: NDArray[np.float32], mel_bank: NDArray[np.float32]) -> None:
        """Raise ModelFileError if the checkpoint was made for other features.

        `window` (400,) and `mel_bank` (F, 257) are ours. Where none are stored, nothing is checked.
        """
        for name, ours in ((WINDOW, window), (MEL_BANK, mel_bank)):
            if name not in self.front_end:
                continue
            theirs = self.front_end[name].to_float32().reshape(-1)
            same = theirs.size == ours.size and np.allclose(
                theirs, ours.reshape(-1), rtol=0, atol=FRONT_END_TOLERANCE
            )
            if not same:
                raise ModelFileError(
                    f"{self.model_id} was made for other features than Earwire's ({name} differs)"
                )


def load_checkpoint(path_or_hub_id: str, *, download: bool = True) -> ParakeetCheckpoint:
    """The checkpoint in a folder, in a .nemo file, or of a repository on Hugging Face's hub.

    `download` fetches a repository that is not in the hub's cache yet.

    Raises ModelNotFoundError, ModelFileError.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return _checked(path.resolve().name, read_folder(path))
    if path.is_file():
        return _checked(path.stem, read_nemo(path))
    if is_hub_id(path_or_hub_id):
        found = find_in_hub(path_or_hub_id)
        if found is None and not download:
            raise not_in_cache(path_or_hub_id)
        found = found or pull(path_or_hub_id, read_config)
        parts = read_folder(found) if found.is_dir() else read_nemo(found)
        return _checked(path_or_hub_id, parts)
    raise ModelNotFoundError(
        f"there is no {path_or_hub_id}",
        "name a folder with config.json and model.safetensors, a .nemo file, "
        "or a repository as in nvidia/parakeet-tdt-0.6b-v3",
    )


def _checked(model_id: str, parts: ModelParts) -> ParakeetCheckpoint:
    """Raises ModelFileError listing what is missing or different."""
    shapes = expected_shapes(parts.config)
    wrong = [
        problem
        for name, shape in shapes.items()
        if (problem := _problem(name, shape, parts.tensors.get(name)))
    ]
    wrong += [f"{name} is not expected" for name in parts.tensors if _is_foreign(name, shapes)]
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        listed = "; ".join(wrong[:MAX_LISTED])
        raise ModelFileError(f"{parts.source.path}: {listed}{more}", REMEDY)
    return ParakeetCheckpoint(
        model_id=model_id,
        config=parts.config,
        vocabulary=parts.vocabulary,
        tensors={name: parts.tensors[name] for name in shapes},
        source=parts.source,
        front_end=parts.front_end,
    )


def _is_foreign(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the architecture would have to compute with a tensor that ours does not have.

    A bias, say: without it, the output would be wrong and look right.
    """
    ours = name.startswith(("encoder.", "encoder_projector.", "decoder.", "joint."))
    return ours and name not in shapes and not name.endswith(".num_batches_tracked")


def _problem(name: str, shape: tuple[int, ...], found: StoredTensor | None) -> str:
    """What is wrong with one tensor; empty where it is as it should be."""
    if found is None:
        return f"{name} {list(shape)} is missing"
    if found.shape != shape:
        return f"{name} is {list(found.shape)}, not {list(shape)}"
    if found.dtype not in FLOAT_TYPES:
        return f"{name} is of type {found.dtype}, not one of {', '.join(FLOAT_TYPES)}"
    return ""
