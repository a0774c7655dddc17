"""Which recognizer: by what lies in the folder, with one clear error for everything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpu_service.config import ServiceConfig
from gpu_service.cpu.parakeet import CUT_RULE, ParakeetRecognizer
from gpu_service.errors import ModelError, ModelNotFoundError
from gpu_service.recognizers import is_whisper, load_recognizer

TINY = Path(__file__).parents[1] / "fixtures" / "parakeet" / "tiny"


def test_families_are_told_apart(tmp_path: Path) -> None:
    whisper = tmp_path / "whisper"
    whisper.mkdir()
    (whisper / "model.bin").touch()
    nemo = tmp_path / "model.nemo"
    nemo.touch()
    assert is_whisper("tiny.en")
    assert is_whisper(str(whisper))
    assert not is_whisper(str(nemo))
    assert not is_whisper(str(TINY))
    assert not is_whisper("nvidia/parakeet-tdt-0.6b-v3")


@pytest.mark.parametrize("name", ["", "nothing/here/at/all", "/nonexistent"])
def test_nothing_there_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"is no model.*model\.safetensors"):
        is_whisper(str(tmp_path / name))


def test_settings_reach_parakeet() -> None:
    config = ServiceConfig(
        index=0, control_fd=0, model=str(TINY), draft="window", window_s=4,
        max_utterance_ms=5_000, hotword_weight=1.5, threads=1,
    )  # fmt: skip
    recognizer = load_recognizer(config)
    assert isinstance(recognizer, ParakeetRecognizer)
    settings = recognizer.settings
    assert (settings.draft, settings.window_frames, settings.num_threads) == ("window", 50, 1)
    assert settings.hotword_weight == 1.5
    assert recognizer.max_utterance_samples >= 80_000 + CUT_RULE.left_samples


def test_whisper_hears_thirty_seconds() -> None:
    config = ServiceConfig(index=0, control_fd=0, max_utterance_ms=30_001, threads=1)
    with pytest.raises(ModelError, match="--max-utterance-ms 30000"):
        load_recognizer(config)


@pytest.mark.parametrize(
    ("model", "package", "extra"),
    [("tiny.en", "onnx", "tiny"), (str(TINY), "safetensors", "parakeet")],
)
def test_a_package_that_is_not_installed_is_an_error_with_its_remedy(
    model: str, package: str, extra: str
) -> None:
    """In a Python of its own, where that package can not be imported."""
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from gpu_service.config import ServiceConfig\n"
        "from gpu_service.errors import ModelError\n"
        "from gpu_service.recognizers import load_recognizer\n"
        "try:\n"
        f"    load_recognizer(ServiceConfig(index=0, control_fd=0, model={model!r}))\n"
        "except ModelError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"needs the Python package {package}" in done.stdout, done.stderr
    assert f"earwire[{extra}]" in done.stdout
