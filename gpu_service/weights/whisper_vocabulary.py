"""WhisperVocabulary: which ids mean what in one Whisper model.

Ids differ between the English-only models, the multilingual ones and large-v3, and fine-tuned ones
may have others still: each is looked up by its name in tokenizer.json, and the lists of tokens that
never come out in the model's own configuration. None is written down here. Pure: parsed files in,
numbers out. How text is spelled in tokens is not known here (whisper_text.py).

    text ... | <|endoftext|> <|startoftranscript|> <|en|> ... <|translate|> <|transcribe|>
    <|startoflm|> <|startofprev|> <|nospeech|> <|notimestamps|> <|0.00|> <|0.02|> ... <|30.00|>
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import ModelFileError
from .fields import Fields
from .whisper_config import WhisperConfig

NUM_TIMESTAMPS = 1501  # 0.00 s to 30.00 s
# OpenAI's own rule (whisper/model.py, is_multilingual), where the configuration does not say.
MULTILINGUAL_SIZE = 51_865
MAX_SUPPRESSED = 4096
MAX_HEADS = 1024
REMEDY = "take tokenizer.json and the configuration from the same Whisper model"

Head = tuple[int, int]  # layer and head of the decoder


@dataclass(frozen=True, slots=True)
class WhisperVocabulary:
    """The ids of one model, and its lists."""

    size: int  # V
    end: int  # <|endoftext|>; every id below is text
    start: int  # <|startoftranscript|>
    languages: Mapping[str, int]  # code to id in the order of ids; empty for English-only models
    translate: int
    transcribe: int
    previous: int  # <|startofprev|>: text that came before follows
    no_speech: int
    no_timestamps: int
    suppressed: tuple[int, ...]  # never come out; ascending
    suppressed_first: tuple[int, ...]  # do not come out as the first
    alignment_heads: tuple[Head, ...]  # their attention follows the audio

    @property
    def first_timestamp(self) -> int:
        """<|0.00|>; every id from here on is a time in steps of 20 ms."""
        return self.no_timestamps + 1

    @property
    def is_multilingual(self) -> bool:
        """Whether prompts name a language and a task."""
        return bool(self.languages)


def read_vocabulary(
    tokenizer: Mapping[str, Any], settings: Mapping[str, Any], config: WhisperConfig, where: str
) -> WhisperVocabulary:
    """The ids of a model.

    Args:
        tokenizer: a parsed tokenizer.json.
        settings: a parsed generation_config.json over config.json; CTranslate2's names
            (suppress_ids, suppress_ids_begin) are taken as well.
        where: names the model in errors.

    Raises ModelFileError.
    """
    ids = _ids(tokenizer, where)
    names = {
        name: _special(ids, f"<|{name}|>", where)
        for name in (
            *("endoftext", "startoftranscript", "translate", "transcribe"),
            *("startofprev", "notimestamps"),
        )
    }
    no_speech = _special(ids, "<|nospeech|>", where, "<|nocaptions|>")
    _check_order(names, settings, config, where)
    if not all(0 <= token < config.vocabulary_size for token in (*names.values(), no_speech)):
        raise ModelFileError(
            f"{where}: tokenizer.json has ids beyond the model's {config.vocabulary_size} tokens",
            REMEDY,
        )
    fields = Fields(settings, where)
    languages = {
        text.strip("<|>"): token
        for text, token in sorted(ids.items(), key=lambda item: item[1])
        if names["startoftranscript"] < token < min(names["translate"], names["transcribe"])
    }
    return WhisperVocabulary(
        size=config.vocabulary_size,
        end=names["endoftext"],
        start=names["startoftranscript"],
        languages=languages if _is_multilingual(settings, config) else {},
        translate=names["translate"],
        transcribe=names["transcribe"],
        previous=names["startofprev"],
        no_speech=no_speech,
        no_timestamps=names["notimestamps"],
        suppressed=_tokens(fields, config, "suppress_tokens", "suppress_ids"),
        suppressed_first=_tokens(fields, config, "begin_suppress_tokens", "suppress_ids_begin"),
        alignment_heads=_alignment_heads(fields, config),
    )


def _ids(tokenizer: Mapping[str, Any], where: str) -> dict[str, int]:
    """Every special token's id."""
    try:
        added = {str(entry["content"]): entry["id"] for entry in tokenizer["added_tokens"]}
    except (TypeError, KeyError) as error:
        raise ModelFileError(
            f"{where}: tokenizer.json is no Whisper's: {error!r}", REMEDY
        ) from error
    if any(type(token) is not int for token in added.values()):
        raise ModelFileError(f"{where}: tokenizer.json has ids that are no numbers", REMEDY)
    return added


def _special(ids: Mapping[str, int], *names_and_where: str) -> int:
    """The id of the first of the names that there is: name, where, further names."""
    name, where, *others = names_and_where
    for candidate in (name, *others):
        if candidate in ids:
            return ids[candidate]
    raise ModelFileError(f"{where}: the tokenizer has no {name}", REMEDY)


def _check_order(
    names: Mapping[str, int], settings: Mapping[str, Any], config: WhisperConfig, where: str
) -> None:
    """Raise ModelFileError where tokenizer and model are not of one kind."""
    last = names["notimestamps"] + NUM_TIMESTAMPS
    in_order = 0 < names["endoftext"] < names["startoftranscript"] < names["notimestamps"]
    if not in_order or last >= config.vocabulary_size:
        raise ModelFileError(
            f"{where}: the tokenizer's timestamps end at id {last}, the model has "
            f"{config.vocabulary_size} tokens",
            REMEDY,
        )
    said = settings.get("no_timestamps_token_id", names["notimestamps"])
    if said != names["notimestamps"]:
        raise ModelFileError(
            f"{where}: <|notimestamps|> is {names['notimestamps']} in tokenizer.json "
            f"and {said!r:.40} in generation_config.json",
            REMEDY,
        )


def _is_multilingual(settings: Mapping[str, Any], config: WhisperConfig) -> bool:
    said = settings.get("is_multilingual")
    return config.vocabulary_size >= MULTILINGUAL_SIZE if said is None else bool(said)


def _tokens(fields: Fields, config: WhisperConfig, *names: str) -> tuple[int, ...]:
    """A list of tokens under the first of the names that says something; empty where none does."""
    for name in names:
        if fields.values.get(name):
            found = fields.integers(name, 0, config.vocabulary_size - 1, MAX_SUPPRESSED)
            return tuple(sorted(set(found)))
    return ()


def _alignment_heads(fields: Fields, config: WhisperConfig) -> tuple[Head, ...]:
    """The model's own; where it does not say, all heads of the upper half, as OpenAI's does."""
    name = "alignment_heads"
    pairs = fields.values.get(name)
    if not pairs:
        upper = range(config.decoder_layers // 2, config.decoder_layers)
        return tuple(product(upper, range(config.num_heads)))
    if not isinstance(pairs, list) or len(pairs) > MAX_HEADS:
        raise fields.wrong(name, pairs, f"a list of up to {MAX_HEADS} pairs")
    return tuple(_head(pair, fields, config) for pair in pairs)


def _head(pair: object, fields: Fields, config: WhisperConfig) -> Head:
    layers, heads = range(config.decoder_layers), range(config.num_heads)
    if isinstance(pair, list) and len(pair) == 2 and pair[0] in layers and pair[1] in heads:
        return int(pair[0]), int(pair[1])
    raise fields.wrong(
        "alignment_heads", pair, f"layers and heads of {layers.stop} by {heads.stop}"
    )
