"""Which recognizer runs a model that a user named: by what lies there, never by its name.

`load_recognizer()` is all that __main__.py needs. It knows every family of models, and is the only
module that does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .config import ServiceConfig
from .cpu.model_files import is_whisper_model
from .decoding.tokens import FRAME_SAMPLES
from .errors import ModelError, ModelNotFoundError
from .recognizer import Recognizer
from .weights.hub import is_hub_id
from .weights.model_parts import INDEX, SINGLE_FILE
from .words import SAMPLE_RATE_HZ

REMEDY = (
    "name tiny.en, a folder with model.bin (Whisper, as CTranslate2 writes it) or with config.json "
    "and model.safetensors (Parakeet-TDT), a .nemo file, or a repository such as "
    "nvidia/parakeet-tdt-0.6b-v3"
)


def load_recognizer(config: ServiceConfig) -> Recognizer:
    """The model of the settings, ready to be warmed up. Raises ModelError."""
    num_threads = config.threads or min(2, os.cpu_count() or 1)
    recognizer = (
        _whisper(config.model, num_threads)
        if is_whisper(config.model)
        else _parakeet(config, num_threads)
    )
    longest_samples = config.max_utterance_ms * SAMPLE_RATE_HZ // 1000
    if longest_samples > recognizer.max_utterance_samples:
        longest_ms = recognizer.max_utterance_samples * 1000 // SAMPLE_RATE_HZ
        raise ModelError(
            f"{recognizer.model_id} hears {longest_ms} ms at a time",
            f"use --max-utterance-ms {longest_ms}",
        )
    return recognizer


def is_whisper(model: str) -> bool:
    """True for the embedded model and for CTranslate2 folders, False for what may be Parakeet-TDT.

    Raises ModelNotFoundError where there is nothing of either.
    """
    path = Path(model).expanduser()
    if path.is_file() or any((path / name).is_file() for name in (SINGLE_FILE, INDEX)):
        return False
    if is_whisper_model(model):
        return True
    if not path.exists() and is_hub_id(model):
        return False
    raise ModelNotFoundError(f"{model} is no model", REMEDY)


def _whisper(model: str, num_threads: int) -> Recognizer:
    with _packages_of("tiny"):
        from .cpu.whisper import WhisperRecognizer

        return WhisperRecognizer(model, num_threads=num_threads, max_parallel=num_threads)


def _parakeet(config: ServiceConfig, num_threads: int) -> Recognizer:
    with _packages_of("parakeet"):
        from .cpu.parakeet import ParakeetRecognizer, ParakeetSettings

    settings = ParakeetSettings(
        max_utterance_samples=config.max_utterance_ms * SAMPLE_RATE_HZ // 1000,
        draft=config.draft,
        window_frames=config.window_s * SAMPLE_RATE_HZ // FRAME_SAMPLES,
        hotword_weight=config.hotword_weight,
        num_threads=num_threads,
    )
    return ParakeetRecognizer(config.model, settings)


@contextmanager
def _packages_of(extra: str) -> Iterator[None]:
    """A package that is not installed is an error with its remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        problem = f"this model needs the Python package {error.name}"
        raise ModelError(problem, f"pip install 'earwire[{extra}]'") from error
