"""Fuzz targets of what reads models that somebody else made: archives, weights, configurations,
vocabularies. Each may refuse a file with ModelFileError, and nothing else.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from gpu_service.builder.manifest import (
    MANIFEST,
    Candidate,
    Machine,
    Manifest,
    read_manifest,
    write_manifest,
)
from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.weights.archive import read_members
from gpu_service.weights.hugging_face_folder import parse_json
from gpu_service.weights.nemo_config import from_nemo, parse_yaml
from gpu_service.weights.nemo_file import read_nemo
from gpu_service.weights.parakeet_config import expected_shapes, from_hugging_face
from gpu_service.weights.safetensors_file import read_safetensors
from gpu_service.weights.stored_tensor import FLOAT_TYPES, StoredTensor
from gpu_service.weights.torch_checkpoint import read_torch_checkpoint, read_torch_members
from gpu_service.weights.vocabulary import (
    read_sentencepiece,
    read_tokenizer_json,
    read_vocab_txt,
)
from tests.gpu_service.weights import torch_file
from tests.gpu_service.weights.checkpoints import CONFIG, NEMO_CONFIG, PIECES

from .target import MEDIUM_BYTES, SHORT_BYTES, Script, Target, script

MAX_FILE_BYTES = 16_384
BLOCK_BYTES = 512  # of a tar


def _bytes(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[Path]:
    """A file in memory, by a path."""
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _read_all(tensors: dict[str, StoredTensor], num_bytes: int) -> None:
    """Every tensor can be read, and is no larger than the file."""
    for tensor in tensors.values():
        assert tensor.num_bytes <= num_bytes
        if tensor.dtype in FLOAT_TYPES:
            assert tensor.to_float32().shape == tensor.shape


# Archives


def run_archive(data: bytes) -> None:
    """tar, gzip and zip. Checksums of tar headers are put right, or none would be read."""
    source = Script(data)
    is_fixed = source.flag()
    archive = source.rest()
    if is_fixed:
        archive = _with_checksums(archive)
    try:
        members = read_members(_bytes(archive), "file", lambda name: True)
    except ModelFileError:
        return
    assert sum(member.size for member in members.values()) <= 64 << 20


def _with_checksums(archive: bytes) -> bytes:
    out = bytearray(archive)
    for at in range(0, len(out) - BLOCK_BYTES + 1, BLOCK_BYTES):
        block = out[at : at + BLOCK_BYTES]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(out)


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()[: 4 * BLOCK_BYTES + sum(map(len, members.values()))]


def archive_seeds() -> Iterator[bytes]:
    """Two members in each kind of archive."""
    members = {"a/b": b"hello" * 9, "./c": b""}
    tar = tar_of(members)
    yield b"\x01" + tar
    yield b"\x00" + gzip.compress(tar, mtime=0)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield b"\x00" + torch_file.zip_of(members, method)


# Torch


def _pickle() -> bytes:
    tensor = torch_file.tensor("0", "FloatStorage", (2, 3), (3, 1))
    half = torch_file.tensor("1", "HalfStorage", (2,), (1,), 1)
    return torch_file.state_dict({"a.weight": tensor, "b": half})


def run_torch_pickle(data: bytes) -> None:
    """The pickle of a checkpoint, with two storages to refer to."""
    members = {
        "m/data.pkl": _bytes(data),
        "m/data/0": _bytes(bytes(range(64))),
        "m/data/1": _bytes(bytes(16)),
    }
    with contextlib.suppress(ModelFileError):
        _read_all(read_torch_members(members, "file"), 80)


def torch_pickle_seeds() -> Iterator[bytes]:
    """A state dict; the same as torch writes it; one that wants to run something."""
    yield _pickle()
    with zipfile.ZipFile(Path(torch_file.__file__).with_name("torch_saved.ckpt")) as saved:
        name = next(name for name in saved.namelist() if name.endswith("data.pkl"))
        yield saved.read(name)
    yield b"\x80\x02" + torch_file.SYSTEM + torch_file.text("true") + b"\x85R."


def run_torch_checkpoint(data: bytes) -> None:
    """The whole zip."""
    with contextlib.suppress(ModelFileError):
        _read_all(read_torch_checkpoint(_bytes(data), "file"), len(data))


def torch_checkpoint_seeds() -> Iterator[bytes]:
    """A small one."""
    members = {"m/data.pkl": _pickle(), "m/data/0": bytes(24), "m/data/1": bytes(8)}
    yield torch_file.zip_of(members)


# Safetensors


def run_safetensors(data: bytes) -> None:
    """A header with its length put right, and data."""
    source = Script(data)
    header, is_fixed = source.chunk(), source.flag()
    length = len(header) if is_fixed else source.byte() << 56 | len(header)
    file = length.to_bytes(8, "little") + header + source.rest()
    with _file(file) as path, contextlib.suppress(ModelFileError):
        _read_all(read_safetensors(path), MAX_FILE_BYTES)


def safetensors_seeds() -> Iterator[bytes]:
    """Two tensors."""
    entries = {
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]},
        "__metadata__": {"format": "pt"},
    }
    yield script(json.dumps(entries), 1) + bytes(10)
    yield script("{}", 1)


# NeMo


@cache
def _nemo_yaml() -> bytes:
    return yaml.safe_dump(NEMO_CONFIG).encode()


def run_nemo(data: bytes) -> None:
    """A .nemo file whose members are the script's."""
    source = Script(data)
    names = ("model_config.yaml", "model_weights.ckpt", "a_tokenizer.model", "vocab.txt")
    members = {name: chunk for name in names if (chunk := source.chunk())}
    with _file(tar_of(members)) as path, contextlib.suppress(ModelFileError):
        _read_all(dict(read_nemo(path).tensors), MAX_FILE_BYTES)


def nemo_seeds() -> Iterator[bytes]:
    """A whole one, which lacks tensors, and one with another tokenizer."""
    checkpoint = next(torch_checkpoint_seeds())
    yield script(_nemo_yaml(), checkpoint, next(sentencepiece_seeds())[1:], "")
    yield script(_nemo_yaml(), checkpoint, "", "\n".join(PIECES))


def run_nemo_config(data: bytes) -> None:
    """NeMo's YAML. Sizes that are believed give shapes."""
    with contextlib.suppress(ModelFileError):
        config, _ = from_nemo(parse_yaml(data, "file"))
        assert expected_shapes(config)


def nemo_config_seeds() -> Iterator[bytes]:
    """The whole configuration, and YAML's odd corners."""
    yield _nemo_yaml()
    yield b"a: &a [1, 2]\nb: {<<: *a, c: !!binary YQ==}\n? [x]\n: 2001-01-01\n"


# Hugging Face


def run_hugging_face_config(data: bytes) -> None:
    """config.json."""
    with contextlib.suppress(ModelFileError):
        assert expected_shapes(from_hugging_face(parse_json(data, Path("file")), "file"))


def hugging_face_config_seeds() -> Iterator[bytes]:
    """The whole configuration."""
    yield json.dumps(CONFIG).encode()


def _vocabulary(read: Callable[[bytes, str, int], tuple[str, ...]]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        size = data[0] % 16 if data else 0
        with contextlib.suppress(ModelFileError):
            assert len(read(data[1:], "file", size)) == size

    return run


def tokenizer_json_seeds() -> Iterator[bytes]:
    """Both kinds of vocabulary."""
    count = bytes((len(PIECES),))
    by_piece = {piece: index for index, piece in enumerate(PIECES)}
    added = [{"id": 6, "content": "<blank>"}]
    yield count + json.dumps({"model": {"vocab": by_piece}, "added_tokens": added}).encode()
    yield count + json.dumps({"model": {"vocab": [[piece, 0.0] for piece in PIECES]}}).encode()


def sentencepiece_seeds() -> Iterator[bytes]:
    """Pieces with scores between them."""
    out = bytearray()
    for piece in PIECES:
        message = b"\x0a" + bytes((len(piece.encode()),)) + piece.encode() + b"\x15\0\0\0\0\x18\x01"
        out += b"\x0a" + bytes((len(message),)) + message
    yield bytes((len(PIECES),)) + bytes(out)


def vocab_txt_seeds() -> Iterator[bytes]:
    """With and without ids."""
    yield bytes((len(PIECES),)) + "\n".join(PIECES).encode()
    numbered = [f"{piece} {index}" for index, piece in enumerate((*PIECES, "<blk>"))]
    yield bytes((len(PIECES),)) + "\n".join(numbered).encode()


# Engine folders


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """One for all inputs, whose manifest lies in memory; it goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="earwire-fuzz-")
    os.symlink(f"/proc/self/fd/{os.memfd_create(MANIFEST)}", Path(folder.name) / MANIFEST)
    return folder


def run_manifest(data: bytes) -> None:
    """manifest.json of an engine folder."""
    folder = Path(_folder().name)
    (folder / MANIFEST).write_bytes(data)
    with contextlib.suppress(ModelFileError, ModelNotFoundError):
        manifest = read_manifest(folder)
        write_manifest(folder, manifest)
        assert read_manifest(folder) == manifest


def manifest_seeds() -> Iterator[bytes]:
    """A whole one, of a folder without files."""
    machine = Machine(gpu="G", compute_capability="9.0", driver="580.1", libraries={"l": "1"})
    config = from_hugging_face(CONFIG, "config.json")
    manifest = Manifest(
        earwire="0.1.0", key="k", model_id="m", weights_sha256="0" * 64, config=config,
        max_frames=100, max_batch=4, precision="fp16", encoder="cublas", machine=machine,
        candidates=(Candidate(encoder="cublas", problem="none"),), files={},
    )  # fmt: skip
    yield msgspec.json.encode(manifest)


TARGETS = (
    Target("archive", run_archive, archive_seeds),
    Target("torch_pickle", run_torch_pickle, torch_pickle_seeds, SHORT_BYTES),
    Target("torch_checkpoint", run_torch_checkpoint, torch_checkpoint_seeds, MEDIUM_BYTES),
    Target("safetensors", run_safetensors, safetensors_seeds, SHORT_BYTES),
    Target("nemo", run_nemo, nemo_seeds, MEDIUM_BYTES),
    Target("nemo_config", run_nemo_config, nemo_config_seeds, MEDIUM_BYTES),
    Target("hugging_face_config", run_hugging_face_config, hugging_face_config_seeds),
    Target("tokenizer_json", _vocabulary(read_tokenizer_json), tokenizer_json_seeds),
    Target("sentencepiece", _vocabulary(read_sentencepiece), sentencepiece_seeds),
    Target("vocab_txt", _vocabulary(read_vocab_txt), vocab_txt_seeds),
    Target("manifest", run_manifest, manifest_seeds, SHORT_BYTES),
)
