"""Where control sockets are, and which servers are found there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.config import ServerConfig
from gateway.control_paths import connect, control_path, running_servers, runtime_folder
from gateway.reservation import AddressError, UnixListener


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def test_what_was_asked_for(runtime: Path) -> None:
    assert control_path(ServerConfig(control="/c", uds="/u"), 1) == Path("/c")
    assert control_path(ServerConfig(uds="/u"), 1) == Path("/u.control")
    assert control_path(ServerConfig(), 8080) == runtime / "earwire-8080.control"


def test_without_a_runtime_folder_there_is_one_in_the_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = runtime_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert runtime_folder() == folder, "it may be there already"


def test_a_folder_that_others_can_enter_is_not_used(runtime: Path) -> None:
    runtime.mkdir(mode=0o755)
    with pytest.raises(AddressError, match="no folder of this user alone"):
        runtime_folder()
    assert running_servers() == []


def test_a_folder_that_is_a_link_is_not_used(runtime: Path, tmp_path: Path) -> None:
    runtime.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(AddressError):
        control_path(ServerConfig(), 1)


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none" / "of" / "this"))
    with pytest.raises(AddressError, match="no folder for the control socket"):
        runtime_folder()


def test_sockets_of_killed_servers_are_removed_and_others_are_found(runtime: Path) -> None:
    alive = UnixListener(str(control_path(ServerConfig(), 1)))
    dead = runtime / "earwire-2.control"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    odd = runtime / "earwire-3.control"
    odd.mkdir()
    assert running_servers() == [Path(alive.path)]
    assert control_path(ServerConfig(), 4) == runtime / "earwire-4.control"
    assert sorted(runtime.iterdir()) == [Path(alive.path), odd]
    alive.close()
    with pytest.raises(OSError, match=r"."):
        connect(Path(alive.path))
