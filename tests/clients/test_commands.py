"""The commands' own decisions: file names, the demo's summary, usage errors, help."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
import wave
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clients import listen_command
from clients.address import NO_CREDENTIALS
from clients.cli import app
from clients.demo_command import Summary
from clients.errors import ClientError
from clients.microphone import MicrophoneError
from clients.transcribe_command import Options, output_names
from clients.transcribe_command import run as transcribe
from protocol.client_messages import Final, Hello, Word

from .server import Peer, closed, serving
from .test_blocking import COUNTS, final, partial

runner = CliRunner()


def test_results_are_named_after_their_files() -> None:
    files = [Path("x/a.wav"), Path("b.mp3"), Path("y/a.flac")]
    assert output_names(files, Options("srt", out=Path("o"))) == [
        Path("o/a.wav.srt"), Path("o/b.srt"), Path("o/a.flac.srt"),
    ]  # fmt: skip
    assert output_names(files, Options("txt")) == [None, None, None]
    with pytest.raises(ClientError, match="a folder for each"):
        output_names([Path("x/a.wav"), Path("y/a.wav")], Options("txt", out=Path("o")))


def one_second(path: Path) -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(bytes(32_000))
    return path


def takes(num_samples: int) -> Callable[[Peer], None]:
    """A server that has so many samples when it ends the session."""

    def script(peer: Peer) -> None:
        peer.start()
        peer.read_until_bye()
        peer.send(final("all is well"), closed(num_samples))

    return script


def test_half_a_transcript_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server went away behind the bye, with audio on its way."""
    file = one_second(tmp_path / "a.wav")
    with serving(takes(16_000), tmp_path) as url:
        assert transcribe([file], Options("txt", server=url)) == 0
    assert capsys.readouterr().out == "all is well\n"
    (tmp_path / "s.sock").unlink()
    with serving(takes(9_000), tmp_path) as url:
        assert transcribe([file], Options("txt", server=url)) == 1
    assert "before it had all of the audio" in capsys.readouterr().err


def test_a_file_name_may_be_any_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = one_second(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")))
    with serving(takes(16_000), tmp_path) as url:
        assert transcribe([file], Options("json", server=url)) == 0
    assert json.loads(capsys.readouterr().out)["file"].endswith("caf\ufffd.wav")


@pytest.mark.parametrize(("error", "said"), [(errno.EPIPE, ""), (errno.ENOSPC, "stdout: ")])
def test_nothing_is_transcribed_for_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: int,
    said: str,
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(error, "no more")

    file = one_second(tmp_path / "a.wav")
    monkeypatch.setattr(sys, "stdout", Full())
    with serving(takes(16_000), tmp_path) as url:  # for one connection
        assert transcribe([file, file], Options("txt", server=url)) == 1
    sys.stdout.close()
    assert said in capsys.readouterr().err


class Unplugged:
    """A microphone that goes away in mid-sentence."""

    name, rate_hz, num_dropped_blocks, is_stuck = "a microphone", 16_000, 0, False

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def blocks(self) -> Iterator[bytes]:
        yield bytes(640)
        raise MicrophoneError("a microphone has stopped")


def test_what_was_said_before_a_microphone_went_away_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listen_command, "_stop_on_signal", threading.Event)
    microphone: Any = Unplugged()
    with serving(takes(320), tmp_path) as url, pytest.raises(MicrophoneError, match="stopped"):
        listen_command._caption(microphone, url, NO_CREDENTIALS, Hello())
    assert "all is well" in capsys.readouterr().out


def test_the_demo_counts_from_the_onset_of_speech() -> None:
    summary = Summary(start_s=100.0)
    summary.add(partial(""), 100.1)
    summary.add(partial("Hel"), 101.0)
    summary.add(partial("Hello"), 101.5)
    words = (Word("Hello", 8_000, 9_000, 1.0),)
    hello = Final(utterance=0, start_sample=0, end_sample=1, text="Hello", words=words, **COUNTS)
    summary.add(hello, 102.0)
    summary.add(final(""), 103.0)
    assert summary.lines(2) == [
        "2 partial texts, 1 final ones",
        "first words shown 0.50 s after speech began",
    ]
    assert Summary(0.0).lines(0) == ["0 partial texts, 0 final ones"]


def test_the_version() -> None:
    assert runner.invoke(app, ["--version"]).output == f"earwire {version('earwire')}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["transcribe"], "Missing argument"),
        (["transcribe", "--json", "--srt", "a.wav"], "choose one of"),
        (["transcribe", "--srt", "a.wav", "b.wav"], "need --out"),
        (["transcribe", "--vad", "maybe", "a.wav"], "'maybe' is not one of"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_is_status_2(argv: list[str], message: str) -> None:
    done = runner.invoke(app, argv)
    assert done.exit_code == 2
    assert message in done.output


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    arguments = ["transcribe", "--server", f"unix://{tmp_path}/none", __file__]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 1


def test_serve_takes_its_options_from_the_gateway() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", "serve", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: earwire serve" in done.stdout
    for option in ("--model", "--port", "--native-port", "--uds", "--workers", "--max-sessions"):
        assert option in done.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, clients.cli;"
        "heavy = {'numpy', 'websockets', 'asyncio', 'msgspec', 'rich.live'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
