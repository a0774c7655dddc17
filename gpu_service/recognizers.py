"""Which recognizer runs a model that a user named: by what lies there, never by its name.

`load_recognizer()` is all that __main__.py needs. It knows every family of models, and is the only
module that does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch_buckets import bucket_of
from .config import ServiceConfig
from .cpu.model_files import is_whisper_model
from .decoding.tokens import FRAME_SAMPLES
from .draft_policy import POLICIES
from .errors import ModelError, ModelNotFoundError
from .recognizer import Recognizer
from .weights.hub import config_folder, is_hub_id
from .weights.model_parts import CONFIG, INDEX, SINGLE_FILE
from .weights.whisper_config import MODEL_TYPE
from .words import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from .gpu.encoder_weights import Precision

MANIFEST = "manifest.json"
MAX_WHISPER_BATCH = 32  # windows at once: a large model has 250 MB for each
REMEDY = (
    "name tiny.en, a folder with model.bin (Whisper, as CTranslate2 writes it), with config.json "
    "and model.safetensors (Parakeet-TDT, or Whisper for a GPU) or with manifest.json (of earwire "
    "build), a .nemo file, or a repository such as nvidia/parakeet-tdt-0.6b-v3"
)


def load_recognizer(config: ServiceConfig) -> Recognizer:
    """The model of the settings, ready to be warmed up. Raises ModelError, DeviceError."""
    recognizer = _load(config)
    longest_samples = config.max_utterance_ms * SAMPLE_RATE_HZ // 1000
    if longest_samples > recognizer.max_utterance_samples:
        longest_ms = recognizer.max_utterance_samples * 1000 // SAMPLE_RATE_HZ
        raise ModelError(
            f"{recognizer.model_id} hears {longest_ms} ms at a time",
            f"use --max-utterance-ms {longest_ms}",
        )
    return recognizer


def _load(config: ServiceConfig) -> Recognizer:
    folder = Path(config.model).expanduser()
    is_engine = is_engine_folder(folder)
    if is_engine and config.engine == "cpu":
        raise ModelError(f"{folder} is an engine for a GPU", "name the model that it was built of")
    if is_engine or config.engine == "gpu":
        return _gpu(config, folder if is_engine else None)
    num_threads = config.threads or min(2, os.cpu_count() or 1)
    if is_whisper(config.model):
        return _whisper(config, num_threads)
    return _parakeet(config, num_threads)


def is_engine_folder(folder: Path) -> bool:
    """True for what `earwire build` wrote (builder/manifest.py)."""
    return (folder / MANIFEST).is_file()


def is_whisper(model: str) -> bool:
    """True for Whisper in any form, False for what may be Parakeet-TDT.

    Raises ModelNotFoundError where there is nothing of either.
    """
    path = Path(model).expanduser()
    if is_whisper_model(model):
        return True
    if path.is_file():
        return False
    if any((path / name).is_file() for name in (SINGLE_FILE, INDEX)):
        return says_whisper(path)
    if not path.exists() and is_hub_id(model):
        folder = config_folder(model)
        return folder is not None and says_whisper(folder)
    raise ModelNotFoundError(f"{model} is no model", REMEDY)


def says_whisper(folder: Path) -> bool:
    """What its config.json says; a folder without one is for Parakeet's reader to judge."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    with _packages_of("parakeet"):
        from .weights.hugging_face_folder import MAX_JSON_BYTES, parse_json, read_bounded
    values = parse_json(read_bounded(path, MAX_JSON_BYTES), path)
    return values.get("model_type") == MODEL_TYPE or "suppress_ids" in values


def _whisper(config: ServiceConfig, num_threads: int) -> Recognizer:
    with _packages_of("tiny"):
        from .cpu.whisper import WhisperRecognizer

        return WhisperRecognizer(
            config.model,
            num_threads=num_threads,
            max_parallel=num_threads,
            policy=POLICIES[config.draft_policy],
        )


def _parakeet(config: ServiceConfig, num_threads: int) -> Recognizer:
    with _packages_of("parakeet"):
        from .cpu.parakeet import ParakeetRecognizer, ParakeetSettings

    settings = ParakeetSettings(**_rules(config), num_threads=num_threads)
    return ParakeetRecognizer(config.model, settings)


def _gpu(config: ServiceConfig, engine_folder: Path | None) -> Recognizer:
    """A model on a GPU, from an engine folder or from the model itself."""
    precision = None if config.precision == "auto" else config.precision
    if engine_folder is None:
        of_whisper = is_whisper(config.model)
    else:
        with _packages_of("gpu"):
            from .builder.manifest import is_whisper_engine
        of_whisper = is_whisper_engine(engine_folder)
    if of_whisper:
        return _gpu_whisper(config, engine_folder, precision)
    with _packages_of("gpu"):
        from .gpu.parakeet_open import open_engine_folder, open_model
        from .gpu.parakeet_settings import MAX_DRAFTS, GpuParakeetSettings

    settings = GpuParakeetSettings(
        **_rules(config),
        max_streams=config.max_streams,
        max_drafts=min(MAX_DRAFTS, bucket_of(config.max_streams)),
        hop_ms=config.hop_ms,
    )
    if engine_folder is None:
        return open_model(config.model, settings, precision)
    return open_engine_folder(engine_folder, settings, precision)


def _gpu_whisper(
    config: ServiceConfig, engine_folder: Path | None, precision: Precision | None
) -> Recognizer:
    with _packages_of("gpu"):
        from .gpu.whisper_open import open_whisper, open_whisper_folder
        from .gpu.whisper_parts import WhisperSizes

    sizes = WhisperSizes(
        max_streams=config.max_streams,
        max_batch=min(MAX_WHISPER_BATCH, 1 << (config.max_streams - 1).bit_length()),
    )
    policy = POLICIES[config.draft_policy]
    if engine_folder is None:
        return open_whisper(config.model, sizes, precision, policy)
    return open_whisper_folder(engine_folder, sizes, precision, policy)


def _rules(config: ServiceConfig) -> dict[str, Any]:
    """Fields of ParakeetRules."""
    return {
        "max_utterance_samples": config.max_utterance_ms * SAMPLE_RATE_HZ // 1000,
        "draft": config.draft,
        "window_frames": config.window_s * SAMPLE_RATE_HZ // FRAME_SAMPLES,
        "hotword_weight": config.hotword_weight,
    }


@contextmanager
def _packages_of(extra: str) -> Iterator[None]:
    """A package that is not installed is an error with its remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        problem = f"this model needs the Python package {error.name}"
        raise ModelError(problem, f"pip install 'earwire[{extra}]'") from error
