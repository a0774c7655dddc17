"""Models that are loaded once for all tests of the CPU engine."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_service.cpu.model_files import ModelFiles, find_model
from gpu_service.cpu.whisper import WhisperRecognizer
from gpu_service.cpu.whisper_encoder import WhisperEncoder


@pytest.fixture(scope="session")
def model_files() -> ModelFiles:
    return find_model("tiny.en")


@pytest.fixture(scope="session")
def recognizer(model_files: ModelFiles) -> WhisperRecognizer:
    return WhisperRecognizer(model_files)


@pytest.fixture(scope="session")
def encoder(model_files: ModelFiles) -> WhisperEncoder:
    return WhisperEncoder(model_files.weights, 1, is_int8=False)


@pytest.fixture(scope="session")
def ctranslate2_model(model_files: ModelFiles) -> Any:
    """The oracle: CTranslate2's own encoder and decoder, in float32."""
    import ctranslate2

    return ctranslate2.models.Whisper(
        str(model_files.folder), device="cpu", compute_type="float32", intra_threads=1
    )
