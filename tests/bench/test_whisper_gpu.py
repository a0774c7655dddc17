"""bench/whisper_gpu.py on the emulated device: every section runs; numbers mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import whisper_gpu
from bench.whisper_measure import MeasureSizes
from bench.whisper_plot import speeds
from bench.whisper_random import random_checkpoint
from bench.whisper_speech import compared
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.gpu.device import DeviceError
from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms, why_unavailable

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))

SMALL = MeasureSizes(batch=2, num_batches=1, num_tokens=3, runs=1, positions=6)


def emulated(tactics: Path | None, *, tune: bool) -> tuple[Any, Any]:
    device = EmulatedDevice()
    return device, EmulatedGemms(device)


def test_every_section_of_a_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu_service.builder import whisper_gate, whisper_reference
    from gpu_service.gpu import whisper_prompts

    monkeypatch.setattr(whisper_reference, "NUM_STEPS", 2)
    monkeypatch.setattr(whisper_gate, "MAX_TIMED_RUNS", 1)
    monkeypatch.setattr(whisper_prompts, "LENGTHS", (4, 8))
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    arguments = ["--models", "smoke", "--only", "correct", "window", "bulk", "baselines"]
    arguments += ["--baseline-python", "/nowhere/python", "--out", str(out), "--plot", str(plot)]
    assert whisper_gpu.main(arguments, emulated, SMALL) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    smoke = line["smoke"]
    assert smoke["correct"]["passes"], smoke["correct"]
    assert smoke["correct"]["decisions"] == 4
    assert smoke["window"]["tokens"] == 3
    assert 0 < smoke["window"]["step_floor_ms"] < 1
    assert "step_apart_ms" in smoke["window"]
    assert smoke["bulk"]["tokens_per_window"] == 3
    assert smoke["bulk"]["audio_s_per_s"] > 0
    assert "nowhere" in smoke["baselines"]["missing"]
    assert json.loads(out.read_text())["smoke"] == smoke
    assert plot.stat().st_size > 0


def test_without_a_device_none_can_begin(capsys: pytest.CaptureFixture[str]) -> None:
    def none(tactics: Path | None, *, tune: bool) -> Any:
        raise DeviceError("no GPU")

    assert whisper_gpu.main(["--models", "smoke"], none) == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_section_that_fails_says_so_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(whisper_gpu, "run_correct", broken)
    monkeypatch.setattr(whisper_gpu, "run_speech", broken)
    arguments = ["--models", "smoke", "--only", "speech", "correct"]
    assert whisper_gpu.main(arguments, emulated, SMALL) == 1
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["smoke"]["correct"] == {"error": "ValueError: broken"}


def test_random_checkpoints_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (random_checkpoint("smoke", tmp_path) for _ in range(2))
    assert first.vocabulary.first_timestamp == 50_365
    assert first.vocabulary.languages["en"] == 50_259
    for name in ("encoder.layers.1.fc1.weight", "decoder.layer_norm.weight"):
        assert (first.tensor(name) == second.tensor(name)).all()
    tokens = WhisperTokens(first.tokenizer, tmp_path / "config.json")
    assert tokens.decode(tokens.encode(" a b")) == " a b"


def test_golden_tokens_are_compared_by_words_and_times() -> None:
    end = 100
    cases = [{"tokens": [101, 5, 6, 120]}, {"tokens": [7]}]
    assert compared([(101, 5, 6, 122), (7,)], cases, end) == {
        "equal_tokens": 1, "equal_words": 2, "times_within_40_ms": 2,
    }  # fmt: skip
    assert compared([(101, 5, 6, 123), (8, 101)], cases, end) == {
        "equal_tokens": 0, "equal_words": 1, "times_within_40_ms": 0,
    }  # fmt: skip


def test_speeds_are_those_of_the_batch() -> None:
    results = {
        "window": {"audio_s_per_s": 5.0},
        "bulk": {"audio_s_per_s": 9.0, "batch": 32},
        "baselines": {
            "transformers_audio_s_per_s": {"1": 2.0, "32": 4.0},
            "ctranslate2_audio_s_per_s": {"missing": "no wheel"},
        },
    }
    assert speeds(results, "window") == {"Earwire": 5.0, "transformers": 2.0}
    assert speeds(results, "bulk") == {"Earwire": 9.0, "transformers": 4.0}
