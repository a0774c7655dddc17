"""Which recognizer: by what lies in the folder, with one clear error for everything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpu_service import recognizers
from gpu_service.builder import manifest
from gpu_service.config import ServiceConfig
from gpu_service.cpu.parakeet import CUT_RULE, ParakeetRecognizer
from gpu_service.draft_policy import AGREEMENT, POLICIES
from gpu_service.errors import ModelError, ModelNotFoundError
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.whisper_parts import WhisperSizes
from gpu_service.recognizers import MANIFEST, is_engine_folder, is_whisper, load_recognizer
from tests.fixtures.whisper.random_checkpoint import write_folder

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


def config_of(model: str, **settings: Any) -> ServiceConfig:
    return ServiceConfig(index=0, control_fd=0, model=model, **settings)


def engine_folder(tmp_path: Path) -> str:
    (tmp_path / "manifest.json").write_text("{}")
    return str(tmp_path)


def test_engine_folders_are_known_by_their_manifest(tmp_path: Path) -> None:
    assert MANIFEST == manifest.MANIFEST
    assert not is_engine_folder(tmp_path)
    assert is_engine_folder(Path(engine_folder(tmp_path)))


def test_an_engine_for_a_gpu_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="name the model that it was built of"):
        load_recognizer(config_of(engine_folder(tmp_path), engine="cpu"))


def test_whisper_runs_on_the_gpu_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    module = ModuleType("gpu_service.gpu.whisper_open")
    module.open_whisper = lambda *arguments: fake_recognizer(asked, "whisper", *arguments)
    module.open_whisper_folder = lambda *arguments: fake_recognizer(asked, "folder", *arguments)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    folder = write_folder(tmp_path / "whisper")
    for model in ("tiny.en", str(folder)):
        load_recognizer(config_of(model, engine="gpu", precision="fp32", max_streams=20))
    sizes = WhisperSizes(max_streams=20, max_batch=32)
    (folder / "manifest.json").write_text('{"family": "whisper"}')
    load_recognizer(config_of(str(folder), max_streams=20, draft_policy="alignatt"))
    assert asked == [
        ("whisper", "tiny.en", sizes, "fp32", AGREEMENT),
        ("whisper", str(folder), sizes, "fp32", AGREEMENT),
        ("folder", folder, sizes, None, POLICIES["alignatt"]),
    ]


def test_a_folder_of_transformers_says_which_family_it_is(tmp_path: Path) -> None:
    assert is_whisper(str(write_folder(tmp_path / "whisper")))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.safetensors").touch()
    assert not is_whisper(str(tmp_path / "bare"))


def test_a_repository_says_it_by_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache, or fetched alone; where there is none it may be Parakeet."""
    folder = write_folder(tmp_path / "whisper")
    monkeypatch.setattr(recognizers, "config_folder", lambda hub_id: folder)
    assert is_whisper("somebody/whisper")
    monkeypatch.setattr(recognizers, "config_folder", lambda hub_id: None)
    assert not is_whisper("somebody/whisper")


@pytest.mark.parametrize("engine", ["auto", "gpu"])
def test_the_gpu_is_taken_for_engine_folders_and_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """What is opened, and with which settings; the modules that need CUDA are not there."""
    asked: list[tuple[object, ...]] = []
    module = ModuleType("gpu_service.gpu.parakeet_open")
    module.open_model = lambda *arguments: fake_recognizer(asked, "model", *arguments)
    module.open_engine_folder = lambda *arguments: fake_recognizer(asked, "folder", *arguments)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    settings = {"engine": engine, "max_streams": 40, "hop_ms": 160, "max_utterance_ms": 9_000}
    load_recognizer(config_of(engine_folder(tmp_path), precision="fp16", **settings))
    assert [asked[0][0], asked[0][1], asked[0][3]] == ["folder", tmp_path, "fp16"]
    if engine == "gpu":
        load_recognizer(config_of(str(TINY), draft="window", window_s=4, **settings))
        assert [asked[1][0], asked[1][1], asked[1][3]] == ["model", str(TINY), None]
        assert asked[1][2] == GpuParakeetSettings(
            max_utterance_samples=144_000, draft="window", window_frames=50, max_streams=40,
            hop_ms=160, max_drafts=64,
        )  # fmt: skip


def fake_recognizer(asked: list[tuple[object, ...]], *arguments: Any) -> Any:
    asked.append(arguments)
    return SimpleNamespace(max_utterance_samples=arguments[2].max_samples, model_id="fake")


def test_the_gpu_engine_needs_its_packages() -> None:
    program = (
        "import sys; sys.modules['cuda'] = None\n"
        "from gpu_service.config import ServiceConfig\n"
        "from gpu_service.errors import ModelError\n"
        "from gpu_service.recognizers import load_recognizer\n"
        "try:\n"
        f"    load_recognizer(ServiceConfig(index=0, control_fd=0, model={str(TINY)!r},"
        " engine='gpu'))\n"
        "except ModelError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "earwire[gpu]" in done.stdout, done.stderr
