"""Untrusted archives: the same members out of every kind, and nothing out of a hostile one."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.errors import ModelFileError
from gpu_service.weights import archive, bounded_reader
from gpu_service.weights.archive import Members, read_members
from gpu_service.weights.bounded_reader import BoundedReader, LimitError

from .checkpoints import tar_of
from .torch_file import zip_of

FILES = {"config.yaml": b"a: 1\n", "folder/weights": bytes(range(256)) * 64, "empty": b""}


def read(data: bytes) -> Members:
    return read_members(np.frombuffer(data, np.uint8), "model.nemo", lambda name: True)


def contents(members: Members) -> dict[str, bytes]:
    return {name: member.tobytes() for name, member in members.items()}


def tar_with(*entries: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return tar_with(entry)


@pytest.mark.parametrize(
    "data",
    [
        tar_of(FILES),
        tar_of(FILES, "w:gz"),
        zip_of(FILES),
        zip_of(FILES, zipfile.ZIP_DEFLATED),
        gzip.compress(zip_of(FILES)),
    ],
    ids=["tar", "tar.gz", "zip", "deflated zip", "gzipped zip"],
)
def test_every_kind_of_archive_has_the_same_members(data: bytes) -> None:
    assert contents(read(data)) == FILES


def test_what_is_not_packed_is_a_view_of_the_file() -> None:
    for data in (tar_of(FILES), zip_of(FILES)):
        whole = np.frombuffer(data, np.uint8)
        members = read_members(whole, "model.nemo", lambda name: True)
        assert np.shares_memory(members["folder/weights"], whole)


def test_only_the_wanted_members_are_unpacked() -> None:
    for data in (tar_of(FILES), zip_of(FILES, zipfile.ZIP_DEFLATED)):
        whole = np.frombuffer(data, np.uint8)
        assert set(read_members(whole, "m", lambda name: name == "empty")) == {"empty"}


def test_packed_members_lie_where_float32_can_be_used() -> None:
    members = read(zip_of({"a": b"x", "b": b"1234"}, zipfile.ZIP_DEFLATED))
    assert members["b"].view(np.float32).flags.aligned


def test_unpacking_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    members = read(tar_of(FILES, "w:gz"))
    assert list(tmp_path.iterdir()) == []
    assert contents(members) == FILES


def test_a_full_disk_is_not_the_archives_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> IO[bytes]:
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ModelFileError, match=r"can not be unpacked: .*make room in"):
        read(gzip.compress(tar_of(FILES)))


def test_folders_are_passed_over() -> None:
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    assert read(tar_with(folder)) == {}
    assert read(zip_of({"folder/": b"", "a": b"b"})).keys() == {"a"}


def test_a_member_without_a_name_is_refused() -> None:
    archive_bytes = zip_of({"a": b"b"})
    at = archive_bytes.index(b"PK\x01\x02") + 28  # of the name's length in the directory
    nameless = archive_bytes[:at] + b"\0\0" + archive_bytes[at + 2 :]
    with pytest.raises(ModelFileError, match="damaged or hostile"):
        read(nameless)


@pytest.mark.parametrize(
    "data",
    [
        special("model_weights.ckpt", tarfile.SYMTYPE, "/etc/passwd"),
        special("model_weights.ckpt", tarfile.LNKTYPE, "config.yaml"),
        special("model_weights.ckpt", tarfile.CHRTYPE),
        special("model_weights.ckpt", tarfile.FIFOTYPE),
    ],
    ids=["symbolic link", "hard link", "device", "fifo"],
)
def test_links_and_devices_in_a_tar_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="link or no ordinary file"):
        read(data)


def test_a_link_in_a_zip_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(ModelFileError, match="is a link"):
        read(buffer.getvalue())


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/passwd", "a\\..\\b", "x" * 2000])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    for data in (tar_with(tarfile.TarInfo(name)), zip_of({name: b""})):
        with pytest.raises(ModelFileError, match="a member called"):
            read(data)


def test_two_members_of_one_name_are_refused() -> None:
    with pytest.raises(ModelFileError, match="two members"):
        read(tar_with(tarfile.TarInfo("a"), tarfile.TarInfo("./a")))


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    six = {str(index): b"" for index in range(6)}
    for data in (tar_of(six), zip_of(six)):
        with pytest.raises(ModelFileError, match="more than 5 members"):
            read(data)


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zip_of({"bomb": data}, 8)])
def test_a_bomb_is_refused_before_it_goes_off(pack: object, tmp_path: Path) -> None:
    assert callable(pack)
    bomb = pack(bytes(40 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(ModelFileError, match="inflates beyond 16 MiB"):
        read(bomb)


def test_a_zip_that_lies_about_its_sizes_is_refused() -> None:
    honest = zip_of({"a": b"x" * 1000}, zipfile.ZIP_DEFLATED)
    directory = honest.rindex(b"PK\x01\x02")
    for size in (10, 100_000):
        lying = bytearray(honest)
        struct.pack_into("<I", lying, directory + 24, size)
        with pytest.raises(ModelFileError, match="has 1000 bytes, not"):
            read(bytes(lying))


def changed_zip(offset: int, value: int, layout: str = "<H", data: bytes = b"abc") -> bytes:
    """A stored zip with one field of its directory entry changed."""
    changed = bytearray(zip_of({"a": data}))
    struct.pack_into(layout, changed, changed.rindex(b"PK\x01\x02") + offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed_zip(8, 1), "encrypted"),
        (changed_zip(10, 14), "packed by method 14"),
        (changed_zip(24, 9, "<I"), "two sizes"),
        (changed_zip(42, 1 << 20, "<I"), "beyond the end"),
        (changed_zip(42, 2, "<I"), "no header"),
    ],
)
def test_a_zip_entry_that_does_not_add_up_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read(data)


@pytest.mark.parametrize("data", [tar_of(FILES), tar_of(FILES, "w:gz"), zip_of(FILES)])
def test_a_truncated_archive_is_refused(data: bytes) -> None:
    for num_bytes in (0, 1, 4, 200, 600, 1600, 3000):
        if num_bytes < len(data):
            with pytest.raises(ModelFileError, match=r"model\.nemo"):
                read(data[:num_bytes])


def test_something_else_is_no_archive() -> None:
    with pytest.raises(ModelFileError, match="neither a tar nor a zip"):
        read(b"GGUF" + bytes(1000))


def test_a_tar_header_that_asks_for_gigabytes_is_refused() -> None:
    entry = tarfile.TarInfo("a")
    data = bytearray(tar_with(entry, content=bytes(20 << 20)))
    data[156:157] = tarfile.XHDTYPE  # its 20 MiB are now a header to be read at once
    data[148:156] = b" " * 8
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    with pytest.raises(ModelFileError, match="a directory of"):
        read(bytes(data))


def test_a_directory_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_reader, "MAX_CALLS", 10)
    with pytest.raises(ModelFileError, match="does not end"):
        read(tar_of({str(index): b"" for index in range(20)}))


def test_the_bounded_reader_is_a_file() -> None:
    reader = BoundedReader(np.frombuffer(b"abcdef", np.uint8))
    assert reader.readable()
    assert reader.seekable()
    assert (reader.read(2), reader.tell(), reader.read(), reader.read(5)) == (
        b"ab",
        2,
        b"cdef",
        b"",
    )
    assert (reader.seek(-2, os.SEEK_END), reader.seek(-1, os.SEEK_CUR), reader.read(1)) == (
        4,
        3,
        b"d",
    )
    assert (reader.seek(100), reader.read(1)) == (100, b"")
    with pytest.raises(ValueError, match="before the start"):
        reader.seek(-1)
    big = BoundedReader(np.zeros(bounded_reader.MAX_READ_BYTES + 1, np.uint8))
    with pytest.raises(LimitError):
        big.read()


@given(st.sampled_from([tar_of(FILES), zip_of(FILES), zip_of(FILES, 8)]), st.data())
@settings(max_examples=300)
def test_any_changed_byte_is_read_or_refused(data: bytes, draw: st.DataObject) -> None:
    changed = bytearray(data)
    changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(ModelFileError):
        read(bytes(changed))
