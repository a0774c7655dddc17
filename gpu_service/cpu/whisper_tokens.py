"""Whisper's vocabulary: special tokens by their names, and tokens to words.

Ids differ between the .en models, the multilingual ones and large-v3, so each is looked up in
tokenizer.json and none is written down here. Splitting into words follows openai/whisper,
whisper/tokenizer.py: a word begins where a token begins with a space, except in languages that are
written without. Knows no audio and no decoding; whisper_decode.py and whisper.py call it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.joined_text import gap, joined

from ..decoding.whisper_rules import context_tokens
from ..errors import ModelFileError

LANGUAGES_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
SECONDS_PER_TIMESTAMP = 0.02
REPLACEMENT = "\ufffd"  # what half a character decodes to
MAX_LENGTH = 448  # of the decoder's positions
MAX_TOKENIZER_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class TokenWord:
    """A word and the tokens that spell it."""

    text: str  # without the space before it
    num_tokens: int


class WhisperTokens:
    """Encodes prompts, decodes text, splits words."""

    def __init__(self, path: Path, config_path: Path) -> None:
        """Read tokenizer.json and config.json. Raises ModelFileError."""
        import tokenizers

        try:
            if path.stat().st_size > MAX_TOKENIZER_BYTES:
                raise ModelFileError(f"{path} is too large for a tokenizer")
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
            self._tokenizer.encode_special_tokens = True  # as text, where text spells one
            config = json.loads(config_path.read_text())
        except ModelFileError:
            raise
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelFileError(f"{path.parent}: {error}") from error
        self.sot = self._special("<|startoftranscript|>")
        self.eot = self._special("<|endoftext|>")
        self.sot_prev = self._special("<|startofprev|>")
        self.transcribe = self._special("<|transcribe|>")
        self.translate = self._special("<|translate|>")
        self.no_timestamps = self._special("<|notimestamps|>")
        self.first_timestamp = self.no_timestamps + 1
        self.language_ids = self._languages(config)
        # Symbols that nobody speaks: the model's own list.
        self.suppressed: tuple[int, ...] = tuple(config.get("suppress_ids", ()))
        self.alignment_heads: tuple[tuple[int, int], ...] = tuple(
            (int(layer), int(head)) for layer, head in config.get("alignment_heads", ())
        )
        self.suppressed_first = (*config.get("suppress_ids_begin", []), self.eot)

    def start(self, language: str | None, *, translate: bool = False) -> list[int]:
        """The tokens that every decoding begins with; `language` None for English-only models."""
        if language is None or not self.language_ids:
            return [self.sot]
        task = self.translate if translate else self.transcribe
        return [self.sot, self.language_ids[language], task]

    def behind(
        self, context: Sequence[int], hotwords: Sequence[int], start: Sequence[int]
    ) -> list[int]:
        """A prompt: what there is room for of hotwords and context, and `start`."""
        before = context_tokens(context, hotwords, MAX_LENGTH)
        return [self.sot_prev, *before, *start] if before else list(start)

    def encode(self, text: str) -> list[int]:
        """Tokens of text, none of them special whatever the text spells: clients write it."""
        # The times of multilingual tokenizers are not called special, and would be found.
        return self.text_only(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; special ones and timestamps say nothing."""
        text: str = self._tokenizer.decode(self.text_only(tokens))
        return text

    def text_only(self, tokens: Sequence[int]) -> list[int]:
        """The tokens that are text."""
        return [token for token in tokens if token < self.eot]

    def seconds(self, token: int) -> float | None:
        """What a timestamp token says, None for any other token."""
        steps = token - self.first_timestamp
        return steps * SECONDS_PER_TIMESTAMP if steps >= 0 else None

    def words(self, tokens: Sequence[int], language: str | None) -> list[TokenWord]:
        """Split text tokens into words; their num_tokens add up to len(tokens)."""
        by_space = language not in LANGUAGES_WITHOUT_SPACES
        words: list[TokenWord] = []
        for piece, num_tokens in self._pieces(tokens):
            # Text in Latin letters has spaces in every language.
            goes_on = by_space or (words and gap(words[-1].text, piece) == " ")
            begins = piece.startswith(" ") or not goes_on or not words
            if begins and piece.strip():
                words.append(TokenWord(piece.strip(), num_tokens))
            elif words:
                last = words[-1]
                words[-1] = TokenWord(last.text + piece.strip(), last.num_tokens + num_tokens)
            else:
                words.append(TokenWord("", num_tokens))
        return words

    def split_behind(
        self, tokens: Sequence[int], words: Sequence[str]
    ) -> tuple[list[int], list[int]]:
        """The tokens that spell these words, and those behind: of the tokens where they begin so,
        else new ones and none.
        """
        text = joined(words)
        for end in range(len(tokens) + 1):
            if self.decode(tokens[:end]).strip() == text:
                return list(tokens[:end]), list(tokens[end:])
        return self.encode(" " + text), []

    def _pieces(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """The shortest runs of tokens that are whole characters."""
        pieces: list[tuple[str, int]] = []
        run: list[int] = []
        for token in tokens:
            run.append(token)
            text: str = self._tokenizer.decode(run)
            if REPLACEMENT not in text:
                pieces.append((text, len(run)))
                run = []
        if run:
            pieces.append((self._tokenizer.decode(run), len(run)))
        return pieces

    def _special(self, name: str) -> int:
        token: int | None = self._tokenizer.token_to_id(name)
        if token is None:
            raise ModelFileError(f"the tokenizer has no {name}", "use a Whisper tokenizer.json")
        return token

    def _languages(self, config: dict[str, Any]) -> dict[str, int]:
        """Code to id, in the order of the ids; empty for a model of English only.

        The .en models keep the language tokens, but their <|startoftranscript|> is the token
        after <|endoftext|> 50256; multilingual vocabularies have one text token more.
        """
        if self.eot == 50256:
            return {}
        ids = config.get("lang_ids", [])
        names = {token: self._tokenizer.id_to_token(token) for token in ids}
        return {name.strip("<|>"): token for token, name in names.items() if name}
