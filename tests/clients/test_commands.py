"""The commands' own decisions: file names, the demo's summary, usage errors, help."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli import app
from clients.demo_command import Summary
from clients.transcribe_command import Options, output_names
from protocol.client_messages import Final, Word

from .test_blocking import COUNTS, final, partial

runner = CliRunner()


def test_results_are_named_after_their_files() -> None:
    files = [Path("x/a.wav"), Path("b.mp3"), Path("y/a.flac")]
    assert output_names(files, Options("srt", out=Path("o"))) == [
        Path("o/a.wav.srt"), Path("o/b.srt"), Path("o/a.flac.srt"),
    ]  # fmt: skip
    assert output_names(files, Options("txt")) == [None, None, None]


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
