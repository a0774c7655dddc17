"""Finding a model, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_service.cpu.model_files import check_hashes, find_model
from gpu_service.errors import ModelFileError, ModelNotFoundError


def test_the_embedded_model_is_found_and_checked() -> None:
    files = find_model("tiny.en")
    assert files.model_id == "tiny.en"
    assert files.weights.is_file()
    assert files.config.is_file()
    assert files.tokenizer.is_file()


def test_a_folder_is_taken_by_its_name(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_text("{}")
    assert find_model(str(tmp_path)).model_id == tmp_path.name


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ModelNotFoundError, match=r"config.json, tokenizer.json, vocabulary.txt"):
        find_model(str(tmp_path))


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="earwire"):
        check_hashes(tmp_path, {"model.bin": "00"})
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ModelFileError, match="sha256"):
        check_hashes(tmp_path, {"model.bin": "00"})
