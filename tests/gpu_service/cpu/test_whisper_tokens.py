"""Vocabulary and words of the real tokenizer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from gpu_service.cpu.model_files import ModelFiles
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.errors import ModelFileError
from gpu_service.words import spread_words


@pytest.fixture(scope="module")
def tokens(model_files: ModelFiles) -> WhisperTokens:
    return WhisperTokens(model_files.tokenizer, model_files.config)


def test_an_english_model_has_no_languages(tokens: WhisperTokens) -> None:
    assert tokens.language_ids == {}
    assert tokens.start("en") == tokens.start(None) == [tokens.sot]


def test_words_hold_all_tokens_and_keep_punctuation(tokens: WhisperTokens) -> None:
    ids = tokens.encode(" Hello, incredulity! It's caf\u00e9 \U0001f600.")
    words = tokens.words(ids, "en")
    assert [word.text for word in words][:4] == ["Hello,", "incredulity!", "It's", "caf\u00e9"]
    assert sum(word.num_tokens for word in words) == len(ids)
    assert tokens.words(ids, "ja") == words, "Latin letters have spaces in every language"


def test_tokens_are_split_behind_words(tokens: WhisperTokens) -> None:
    ids = tokens.encode(" It was the best of times")
    before, behind = tokens.split_behind(ids, ("It", "was"))
    assert (tokens.decode(before), tokens.decode(behind)) == (" It was", " the best of times")
    assert [*before, *behind] == ids
    assert tokens.split_behind(ids, ()) == ([], ids)
    other, nothing = tokens.split_behind(ids, ("It", "is"))
    assert (tokens.decode(other), nothing) == (" It is", [])


def test_words_without_spaces_are_split_behind_as_they_are_written(tokens: WhisperTokens) -> None:
    ids = tokens.encode(" 我们用 Python 写字。")
    words = [word.text for word in tokens.words(ids, "zh")]
    assert words == ["我", "们", "用", "Python", "写", "字", "。"], "Latin letters stay together"
    before, behind = tokens.split_behind(ids, tuple(words[:3]))
    assert (tokens.decode(before), tokens.decode(behind)) == (" 我们用", " Python 写字。")


@pytest.mark.parametrize(
    "name",
    ["<|startoftranscript|>", "<|endoftext|>", "<|startofprev|>", "<|notimestamps|>", "<|0.00|>"],
)
def test_what_is_written_is_text_whatever_it_spells(tokens: WhisperTokens, name: str) -> None:
    text = f" say {name} again"
    ids = tokens.encode(text)
    assert ids == tokens.text_only(ids)
    assert tokens.decode(ids) == text


def test_added_tokens_that_no_one_calls_special_are_dropped(
    tmp_path: Path, model_files: ModelFiles
) -> None:
    """Times in the tokenizers of multilingual models."""
    changed = json.loads(model_files.tokenizer.read_text())
    entry = {**changed["added_tokens"][-1], "special": False}
    first = entry["id"] + 1
    changed["added_tokens"].append({**entry, "id": first, "content": "<|0.00|>"})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(changed))
    tokens = WhisperTokens(path, model_files.config)
    assert tokens.first_timestamp == first
    ids = tokens.encode(" say<|0.00|> again")
    assert ids == tokens.text_only(ids)
    assert tokens.decode(ids) == " say again"


def test_timestamps_are_no_text(tokens: WhisperTokens) -> None:
    ids = [tokens.first_timestamp, *tokens.encode(" yes"), tokens.first_timestamp + 60]
    assert tokens.decode(ids) == " yes"
    assert tokens.seconds(ids[-1]) == pytest.approx(1.2)
    assert tokens.seconds(ids[1]) is None


def test_a_damaged_tokenizer_is_refused(tmp_path: Path, model_files: ModelFiles) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    with pytest.raises(ModelFileError, match=tmp_path.name):
        WhisperTokens(broken, model_files.config)


def test_spread_words_tile_the_audio() -> None:
    words = spread_words(["a", "long-word", "b"], 1_600, 0.5)
    assert (words[0].start_sample, words[-1].end_sample) == (0, 1_600)
    assert all(one.end_sample == two.start_sample for one, two in itertools.pairwise(words))
    assert spread_words([], 1_600, 0.5) == ()
