"""Reads the tensors of a checkpoint that torch.save wrote: a zip with data.pkl and data/KEY.

    NAME/data.pkl      pickle of {tensor name: (storage KEY, offset, shape, strides)}
    NAME/data/KEY      the elements of one storage; several tensors may share one
    NAME/byteorder     "little", in files of newer versions

torch itself is not needed. The storages stay where they are in the mapped file. Knows the format,
no model; called by nemo_file.py.
"""

from __future__ import annotations

from ..errors import ModelFileError
from .archive import Members, read_members
from .stored_tensor import ITEM_BYTES, Bytes, StoredTensor, stored_tensor
from .torch_pickle import read_state_dict

PICKLE = "data.pkl"
REMEDY = "download it again, from a source that you trust"


def read_torch_checkpoint(data: Bytes, where: str) -> dict[str, StoredTensor]:
    """Every tensor by its name. Raises ModelFileError."""
    if not data[:4].tobytes().startswith(b"PK"):
        raise ModelFileError(f"{where} is not a checkpoint of torch 1.6 or newer", REMEDY)
    return read_torch_members(read_members(data, where, lambda name: True), where)


def read_torch_members(members: Members, where: str) -> dict[str, StoredTensor]:
    """The same, once the members are at hand. Raises ModelFileError."""
    pickles = [name for name in members if name == PICKLE or name.endswith("/" + PICKLE)]
    if len(pickles) != 1:
        raise ModelFileError(f"{where} has {len(pickles)} files {PICKLE}, not one", REMEDY)
    prefix = pickles[0].removesuffix(PICKLE)
    byteorder = members.get(f"{prefix}byteorder")
    if byteorder is not None and byteorder[:16].tobytes() != b"little":
        raise ModelFileError(f"{where} was written on a big-endian machine")

    def make(
        key: str, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> StoredTensor:
        storage = members.get(f"{prefix}data/{key}")
        if storage is None:
            raise ValueError(f"there is no storage {key!r:.40}")
        return stored_tensor(storage, offset * ITEM_BYTES[dtype], dtype, shape, strides)

    try:
        return read_state_dict(members[pickles[0]].tobytes(), make)
    except ValueError as error:  # PickleRefusedError is one
        raise ModelFileError(f"{where}: {error}", REMEDY) from error
