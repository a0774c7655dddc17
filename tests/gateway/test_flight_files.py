"""The folder of flight records: who may look, how much may be there, what is never touched."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.flight_files import (
    MAX_WRITERS,
    FlightFiles,
    FlightFolderError,
    file_name,
    prepare_folder,
)
from protocol.flight_record import decode_record

from ..protocol.test_flight_record import HEAD, PCM

NAME = "20231114T221320.000Z-0abc-1-empty_final.flight"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def join_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "flight-record":
            thread.join()


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_folder(str(folder))
    assert mode_of(folder) == 0o700
    prepare_folder(str(folder))


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o707])
def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FlightFolderError, match="chmod 700"):
        prepare_folder(str(tmp_path))


def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FlightFolderError, match="another user owns it"):
        prepare_folder(str(tmp_path))


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FlightFolderError, match="file/b: Not a directory"):
        prepare_folder(str(tmp_path / "file" / "b"))
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FlightFolderError, match="no permission"):
        prepare_folder(str(tmp_path))


def test_a_record_is_written_beside_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert FlightFiles(str(tmp_path), 100_000).save(HEAD, PCM)
    join_writers()
    assert os.listdir(tmp_path) == [NAME]
    record = decode_record((tmp_path / NAME).read_bytes())
    assert record.head == HEAD
    assert bytes(record.pcm) == PCM
    assert mode_of(tmp_path / NAME) == 0o600
    (line,) = caplog.records
    assert json.loads(line.getMessage()) == {
        "event": "flight_record", "session_id": "0abc-1", "reason": "empty_final",
        "file": str(tmp_path / NAME),
    }  # fmt: skip


def test_a_busy_disk_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(FlightFiles, "write", lambda self, name, *parts: release.wait())
    files = FlightFiles(str(tmp_path), 100_000)
    assert [files.save(HEAD, PCM) for _ in range(MAX_WRITERS + 1)] == [True] * MAX_WRITERS + [False]
    release.set()
    join_writers()
    assert files.save(HEAD, PCM)
    join_writers()


def test_where_no_thread_can_be_started_nothing_is_kept_and_nothing_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_the_limit(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    files = FlightFiles(str(tmp_path), 100_000)
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", at_the_limit)
        assert [files.save(HEAD, PCM) for _ in range(MAX_WRITERS + 1)] == [False] * (
            MAX_WRITERS + 1
        )
    assert files.save(HEAD, PCM), "its writers are free again"
    join_writers()


def test_names_sort_by_time() -> None:
    assert file_name(HEAD) == NAME


def test_old_records_make_room_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(bytes(500))
    files = FlightFiles(str(tmp_path), 100)
    for number in range(5):
        path = files.write(f"{number}.flight", b"head", bytes(36))
        assert path.read_bytes() == b"head" + bytes(36)
    assert sorted(os.listdir(tmp_path)) == ["3.flight", "4.flight", "notes.txt"]
    files.write("5.flight", bytes(100))
    assert sorted(os.listdir(tmp_path)) == ["5.flight", "notes.txt"]


def test_what_is_too_large_removes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = FlightFiles(str(tmp_path), 100)
    files.write("0.flight", bytes(90))
    with pytest.raises(OSError, match="over --flight-recorder-mb"):
        files.write("1.flight", bytes(101))
    assert os.listdir(tmp_path) == ["0.flight"]
    caplog.set_level(logging.ERROR)
    assert files.save(HEAD, PCM)
    join_writers()
    (line,) = caplog.records
    assert json.loads(line.getMessage())["error"].endswith("is over --flight-recorder-mb")
    assert files.save(HEAD, PCM)  # its writer is free again
    join_writers()


def test_a_file_that_cannot_be_written_is_not_left_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.tmp.flight").write_bytes(b"of a worker that was killed")
    files = FlightFiles(str(tmp_path), 1_000)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        files.write("0.flight", b"abc")
    assert os.listdir(tmp_path) == []


def test_writers_of_several_processes_stay_below_the_limit_together(tmp_path: Path) -> None:
    written: list[Path] = []

    def write(number: int) -> None:
        own = FlightFiles(str(tmp_path), 1_000)  # a lock of its own, as in a process of its own
        for count in range(10):
            written.append(own.write(f"{number}-{count}.flight", bytes(300)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 40
    assert len(os.listdir(tmp_path)) == 3
