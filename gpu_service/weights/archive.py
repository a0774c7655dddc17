"""The members of an untrusted archive: tar, gzipped tar or zip, told apart by their first bytes.

`read_members()` returns the wanted members by name, as views of the mapped file wherever they are
stored as they are; what is compressed goes into one temporary file that has no name. Nothing is
ever written to a path of the archive's choice. Refused as a whole: links and devices, absolute
paths and `..`, two members of one name, too many members, and data that inflates beyond reason.
It knows no model; nemo_file.py says which members it wants.
"""

from __future__ import annotations

import errno
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath

from ..errors import ModelFileError
from .bounded_reader import BoundedReader, LimitError
from .inflated import Inflated, inflate_gzip
from .stored_tensor import Bytes
from .zip_directory import read_zip_directory

MAX_MEMBERS = 20_000  # a tensor each, in a zip
MAX_NAME_BYTES = 1024
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257
REMEDY = "download it again, from a source that you trust"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the temporary file's fault, not the archive's

Members = dict[str, Bytes]


def read_members(data: Bytes, where: str, wanted: Callable[[str], bool]) -> Members:
    """Those members for whose names `wanted` holds. Raises ModelFileError."""
    head = data[:512].tobytes()
    try:
        if head.startswith(GZIP_MAGIC):
            data = inflate_gzip(data)
            head = data[:512].tobytes()
        if head.startswith(ZIP_MAGIC):
            return _zip_members(data, wanted)
        if head[TAR_MAGIC_OFFSET:].startswith(TAR_MAGIC):
            return _tar_members(data, wanted)
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, NotImplementedError),
        *(EOFError, OSError, OverflowError, RecursionError, ValueError),
    ) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            remedy = f"make room in {tempfile.gettempdir()}, or let TMPDIR name another folder"
            raise ModelFileError(f"{where} can not be unpacked: {error}", remedy) from error
        raise ModelFileError(f"{where} is damaged or hostile: {error}", REMEDY) from error
    raise ModelFileError(f"{where} is neither a tar nor a zip archive", REMEDY)


def safe_name(name: str, taken: set[str]) -> str:
    """The name without a leading "./". Raises ValueError for one that we want no part of."""
    path = PurePosixPath(name)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
    if unsafe or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise ValueError(f"a member called {name!r:.80}")
    if str(path) in taken:
        raise ValueError(f"two members called {name!r:.80}")
    if len(taken) >= MAX_MEMBERS:
        raise LimitError(f"more than {MAX_MEMBERS} members")
    taken.add(str(path))
    return str(path)


def _tar_members(data: Bytes, wanted: Callable[[str], bool]) -> Members:
    members: Members = {}
    taken: set[str] = set()
    with tarfile.open(fileobj=BoundedReader(data), mode="r:") as tar:
        for member in tar:
            name = safe_name(member.name, taken)
            if member.isdir():
                continue
            if not member.isfile() or member.issparse():
                raise ValueError(f"{name!r:.80} is a link or no ordinary file")
            end = member.offset_data + member.size
            if not 0 <= member.offset_data <= end <= data.size:
                raise ValueError(f"{name!r:.80} ends beyond the end of the file")
            if wanted(name):
                members[name] = data[member.offset_data : end]
    return members


def _zip_members(data: Bytes, wanted: Callable[[str], bool]) -> Members:
    members: Members = {}
    taken: set[str] = set()
    inflated = Inflated(data.size)
    for entry in read_zip_directory(data):
        name = safe_name(entry.name, taken)
        if entry.is_folder or not wanted(name):
            continue
        if entry.is_stored:
            members[name] = entry.data
        else:
            inflated.add(name, entry.data, entry.num_bytes)
    return members | inflated.members()
