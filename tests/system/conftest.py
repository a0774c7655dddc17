"""What the system tests share: one server for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .audio import Samples
from .processes import arenas_in_shm
from .server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One worker, one service, every listener."""
    with Server("--threads", "2") as running:
        yield running
        assert running.process.poll() is None, "the shared server has died"
        assert arenas_in_shm() == []


@pytest.fixture(scope="session")
def offline() -> Callable[[Samples], str]:
    """Plain faster-whisper with the same weights, one segment at a time."""
    from faster_whisper import WhisperModel

    from gpu_service.cpu.model_files import find_model

    model: Any = WhisperModel(
        str(find_model("tiny.en").folder), device="cpu", compute_type="int8", cpu_threads=2
    )

    def decode(segment: Samples) -> str:
        found, _ = model.transcribe(
            segment.astype("float32") / 32768.0,
            beam_size=5,
            vad_filter=False,
            condition_on_previous_text=False,
        )
        return " ".join(part.text.strip() for part in found)

    return decode


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real server processes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)
