"""bench/engine.py runs: its parts are the engine's own, and change with it."""

from __future__ import annotations

from bench.engine import Stages, run_live, time_stages
from gpu_service.cpu.whisper import WhisperRecognizer

from ..gpu_service.speech import two_cities


def test_every_stage_is_timed_and_says_the_words() -> None:
    stages, speech = Stages(), [two_cities()[: 4 * 16_000]]
    cached, full = time_stages(speech, "tiny.en", 1, stages)
    assert "best of times" in cached
    assert "best of times" in full
    num_revised, num_finals = run_live(speech, WhisperRecognizer(num_threads=1), stages)
    assert (num_revised, num_finals) == (0, 1)
    assert {"draft", "final", "features", "align"} <= set(stages.wall_ms)
    assert all(stages.summary(stage)["p50"] > 0 for stage in stages.wall_ms)
