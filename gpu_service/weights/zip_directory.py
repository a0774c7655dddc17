"""The entries of a zip file, each with its bytes as a view of the file.

The standard library's zipfile reads the directory, through BoundedReader; where a member's data
begins stands in the member's own header, which is read here. Refused: encryption, symbolic links
and methods other than stored and deflated. Called by archive.py.

Header of a member, little endian:
    "PK\\3\\4" | 22 bytes | u16 num_name_bytes | u16 num_extra_bytes | name | extra | data
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from .bounded_reader import BoundedReader
from .stored_tensor import Bytes

LOCAL_HEADER = struct.Struct("<4s22sHH")
LOCAL_MAGIC = b"PK\x03\x04"
ENCRYPTED_FLAG = 1


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One member as the directory has it."""

    name: str  # unchecked
    is_folder: bool
    is_stored: bool  # not deflated
    num_bytes: int  # once inflated
    data: Bytes  # as in the file


def read_zip_directory(data: Bytes) -> Iterator[ZipEntry]:
    """Every member in order. Raises zipfile.BadZipFile, ValueError."""
    with zipfile.ZipFile(BoundedReader(data)) as archive:
        for info in archive.infolist():
            yield _entry(data, info)


def _entry(data: Bytes, info: zipfile.ZipInfo) -> ZipEntry:
    if not info.filename:
        raise ValueError("a member without a name")
    if info.flag_bits & ENCRYPTED_FLAG:
        raise ValueError(f"{info.filename!r:.80} is encrypted")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError(f"{info.filename!r:.80} is a link")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename!r:.80} is packed by method {info.compress_type}")
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if is_stored and info.compress_size != info.file_size:
        raise ValueError(f"{info.filename!r:.80} has two sizes")
    begin = _data_begin(data, info)
    end = begin + info.compress_size
    if end > data.size:
        raise ValueError(f"{info.filename!r:.80} ends beyond the end of the file")
    return ZipEntry(info.filename, info.is_dir(), is_stored, info.file_size, data[begin:end])


def _data_begin(data: Bytes, info: zipfile.ZipInfo) -> int:
    begin = info.header_offset
    end = begin + LOCAL_HEADER.size
    if begin < 0 or end > data.size:
        raise ValueError(f"{info.filename!r:.80} lies beyond the end of the file")
    magic, _, num_name_bytes, num_extra_bytes = LOCAL_HEADER.unpack(data[begin:end].tobytes())
    if magic != LOCAL_MAGIC:
        raise ValueError(f"{info.filename!r:.80} has no header")
    return int(end + num_name_bytes + num_extra_bytes)
