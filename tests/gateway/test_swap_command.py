"""`earwire swap-model`: which server it asks, what it shows, what it returns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.control_messages import (
    Answer,
    Done,
    Failed,
    Progress,
    SwapModel,
    decode_request,
    encode_line,
)
from gateway.errors import GatewayError
from gateway.swap_command import as_the_server_sees_it, find_server, main


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@contextmanager
def server(path: Path, *answers: Answer | bytes) -> Iterator[list[SwapModel]]:
    """Takes one request and answers it."""
    requests: list[SwapModel] = []

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as stream:
            request = decode_request(stream.readline())
            assert isinstance(request, SwapModel)
            requests.append(request)
            for answer in answers:
                sock.sendall(answer if isinstance(answer, bytes) else encode_line(answer))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join(10.0)


def test_progress_is_shown_and_the_end_is_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.control"
    with server(path, Progress("loading b"), Done("b has replaced a")) as requests:
        assert main(["b", "--old", "a", "--socket", str(tmp_path / "s")]) == 0
    assert requests == [SwapModel("b", "a")]
    shown = capsys.readouterr()
    assert shown.out == "b has replaced a\n"
    assert shown.err.endswith("s  loading b\n")


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([Failed("no such model")], "no such model"),
        ([Progress("loading")], "the server has ended"),
        ([b"hello\n"], "JSON"),
    ],
)
def test_what_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Answer | bytes], text: str
) -> None:
    with server(tmp_path / "s", *answers):
        assert main(["b", "--socket", str(tmp_path / "s")]) == 1
    assert f"earwire: error: {text}" in capsys.readouterr().err


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["b"]) == 1
    assert "no server of this user found" in capsys.readouterr().err
    assert main(["b", "--socket", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_only_server_is_found(runtime: Path) -> None:
    sockets = []
    for port in (1, 2):
        listener = socket.socket(socket.AF_UNIX)
        sockets.append(listener)
        listener.bind(str(runtime / f"earwire-{port}.control"))
        listener.listen()
        if port == 1:
            assert find_server(None) == runtime / "earwire-1.control"
    with pytest.raises(GatewayError, match=r"several servers run.*earwire-2\.control"):
        find_server(None)
    for listener in sockets:
        listener.close()


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert as_the_server_sees_it("model") == str(tmp_path / "model")
    assert as_the_server_sees_it("tiny.en") == "tiny.en"
    assert as_the_server_sees_it("nvidia/parakeet") == "nvidia/parakeet"
