"""Ids and lists of tokens, by name, from whatever a model's files say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpu_service.cpu.model_files import find_model
from gpu_service.errors import ModelFileError
from gpu_service.weights.whisper_config import WhisperConfig
from gpu_service.weights.whisper_vocabulary import WhisperVocabulary, read_vocabulary
from tests.fixtures.whisper.random_checkpoint import (
    NUM_TEXT,
    generation_json,
    sizes,
    tokenizer_json,
)


def read(
    tokenizer: Any = None, settings: Any = None, config: WhisperConfig | None = None
) -> WhisperVocabulary:
    return read_vocabulary(
        tokenizer_json() if tokenizer is None else tokenizer,
        generation_json() if settings is None else settings,
        config or sizes(),
        "model",
    )


def full_tokenizer(num_text: int, num_languages: int) -> dict[str, Any]:
    """The special tokens of a true vocabulary."""
    names = ["endoftext", "startoftranscript", *(f"l{i}" for i in range(num_languages))]
    names += ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    entries = [{"content": f"<|{name}|>", "id": num_text + i} for i, name in enumerate(names)]
    return {"added_tokens": entries}


def test_a_multilingual_model_has_languages_and_tasks() -> None:
    vocabulary = read()
    assert dict(vocabulary.languages) == {
        "en": NUM_TEXT + 2,
        "de": NUM_TEXT + 3,
        "fr": NUM_TEXT + 4,
    }
    assert vocabulary.is_multilingual
    assert (vocabulary.end, vocabulary.start) == (NUM_TEXT, NUM_TEXT + 1)
    assert (vocabulary.translate, vocabulary.transcribe) == (NUM_TEXT + 5, NUM_TEXT + 6)
    assert (vocabulary.previous, vocabulary.no_speech) == (NUM_TEXT + 8, NUM_TEXT + 9)
    assert vocabulary.first_timestamp == vocabulary.no_timestamps + 1 == NUM_TEXT + 11
    assert vocabulary.suppressed == (1, 2, 7)
    assert vocabulary.suppressed_first == (20, NUM_TEXT)
    assert vocabulary.alignment_heads == ((1, 0), (1, 1))


def test_an_english_model_names_no_language() -> None:
    vocabulary = read(
        tokenizer_json(multilingual=False),
        generation_json(multilingual=False),
        sizes(multilingual=False),
    )
    assert not vocabulary.is_multilingual
    assert vocabulary.no_speech == NUM_TEXT + 9


@pytest.mark.parametrize(
    ("num_text", "num_languages", "size", "is_multilingual"),
    [(50256, 99, 51864, False), (50257, 99, 51865, True), (50257, 100, 51866, True)],
)
def test_the_true_vocabularies_tell_by_their_size(
    num_text: int, num_languages: int, size: int, is_multilingual: bool
) -> None:
    config = WhisperConfig(80, 64, 1, 128, 1, 4, size, 448)
    vocabulary = read(full_tokenizer(num_text, num_languages), {}, config)
    assert vocabulary.is_multilingual is is_multilingual
    assert len(vocabulary.languages) == (num_languages if is_multilingual else 0)
    assert vocabulary.first_timestamp + 1501 == size
    assert (vocabulary.suppressed, vocabulary.suppressed_first) == ((), ())
    assert vocabulary.alignment_heads == ((2, 0), (3, 0))  # the upper half


def test_the_embedded_model_says_its_ids() -> None:
    files = find_model("tiny.en")
    config = WhisperConfig(80, 384, 6, 1536, 4, 4, 51864, 448)
    tokenizer = json.loads(files.tokenizer.read_text())
    vocabulary = read(tokenizer, json.loads(files.config.read_text()), config)
    assert (vocabulary.end, vocabulary.start, vocabulary.first_timestamp) == (50256, 50257, 50363)
    assert vocabulary.suppressed_first == (220, 50256)
    assert len(vocabulary.alignment_heads) == 8


def test_the_first_list_that_says_something_is_taken() -> None:
    settings = {"suppress_tokens": None, "suppress_ids": [5, 3, 5]}
    assert read(settings={**settings, "is_multilingual": True}).suppressed == (3, 5)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"suppress_tokens": [-1]}, "suppress_tokens"),
        ({"suppress_tokens": [1 << 20]}, "suppress_tokens"),
        ({"begin_suppress_tokens": "x"}, "begin_suppress_tokens"),
        ({"alignment_heads": "x"}, "alignment_heads"),
        ({"alignment_heads": [[0, 0]] * 2000}, "alignment_heads"),
        ({"alignment_heads": [[9, 0]]}, "alignment_heads"),
        ({"alignment_heads": [[0, 0, 0]]}, "alignment_heads"),
        ({"alignment_heads": [3]}, "alignment_heads"),
        ({"no_timestamps_token_id": 3}, "notimestamps"),
    ],
)
def test_a_configuration_of_another_model_is_refused(settings: Any, what: str) -> None:
    with pytest.raises(ModelFileError, match=what):
        read(settings=settings)


@pytest.mark.parametrize(
    "tokenizer",
    [
        {},
        {"added_tokens": None},
        {"added_tokens": [{"content": "<|endoftext|>"}]},
        {"added_tokens": [{"content": "<|endoftext|>", "id": "7"}]},
        {"added_tokens": []},
        full_tokenizer(50257, 99),
        full_tokenizer(0, 3),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelFileError, match="model"):
        read(tokenizer, {})


@pytest.mark.parametrize("name", ["startofprev", "nospeech", "translate", "transcribe"])
@pytest.mark.parametrize("token", [-1, sizes().vocabulary_size, 2_000_000_000])
def test_ids_that_no_table_has_are_refused(name: str, token: int) -> None:
    """A kernel reads the row of a token's table."""
    tokenizer = tokenizer_json()
    for entry in tokenizer["added_tokens"]:
        if entry["content"] == f"<|{name}|>":
            entry["id"] = token
    with pytest.raises(ModelFileError, match="ids beyond"):
        read(tokenizer)
