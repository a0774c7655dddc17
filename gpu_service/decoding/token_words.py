"""Words with times and confidences from a transducer's tokens.

Pure. A word lasts from the frame of its first token to where its last one goes on from. Punctuation
is not heard but inferred, mostly in the pause after the word, so it does not move the word's end:
NeMo and Hugging Face snap it to the token before too. A word is as doubtful as its most doubtful
token. Positions count from frame 0 of the utterance. Knows no model; recognizers call it.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

from ..words import Word
from .pieces import PieceWord, Vocabulary
from .tokens import FRAME_SAMPLES, Token

SPOKEN_PUNCTUATION = frozenset("%\u2030&@#*/\\\u00a7")  # punctuation to Unicode, words to a speaker


def token_words(
    tokens: Sequence[Token], vocabulary: Vocabulary, num_samples: int, *, is_end: bool = True
) -> tuple[Word, ...]:
    """The words of an utterance, starts and ends in order and within [0, num_samples].

    A word is at least one frame long where the utterance is, even if the next one starts in it.

    Args:
        is_end: as of Vocabulary.words().
    """
    spelled = vocabulary.words([token.id for token in tokens], is_end=is_end)
    return _within(_placed(tokens, spelled, vocabulary, 0), num_samples)


class GrowingWords:
    """token_words() of an utterance that grows: committed tokens, and others behind them which are
    said anew each time. What committed tokens spell is worked out once.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens: list[Token] = []  # committed
        self._vocabulary = vocabulary
        self._text = ""  # of those
        self._words: tuple[Word, ...] = ()  # that no further token extends
        self._open: list[Token] = []  # behind these words

    def commit(self, tokens: Sequence[Token]) -> None:
        """Append tokens that stay."""
        if not tokens:
            return
        vocabulary = self._vocabulary
        self.tokens += tokens
        self._text += "".join([vocabulary.surface(token.id) for token in tokens])
        self._open += tokens
        spelled = vocabulary.words([token.id for token in self._open], is_end=False)
        if spelled:
            self._words += _placed(self._open, spelled, vocabulary, self._end_sample)
            self._open = self._open[spelled[-1].indices[-1] + 1 :]

    def words(self, behind: Sequence[Token], num_samples: int) -> tuple[Word, ...]:
        """The words of the committed tokens with others behind them."""
        tokens = [*self._open, *behind]
        spelled = self._vocabulary.words([token.id for token in tokens])
        words = self._words + _placed(tokens, spelled, self._vocabulary, self._end_sample)
        if words and words[-1].end_sample > num_samples:  # ends are in order: mostly none is cut
            return _within(words, num_samples)
        return words

    def text(self, behind: Sequence[Token]) -> str:
        """As Vocabulary.text()."""
        surface = self._vocabulary.surface
        return (self._text + "".join([surface(token.id) for token in behind])).strip(" ")

    @property
    def _end_sample(self) -> int:
        return self._words[-1].end_sample if self._words else 0


@functools.lru_cache(maxsize=1 << 14)  # as many pieces as a model has
def is_punctuation(text: str) -> bool:
    """Whether a piece, without the space before it, is never spoken."""
    return all(unicodedata.category(c)[0] == "P" and c not in SPOKEN_PUNCTUATION for c in text)


def _last_heard(parts: Sequence[Token], vocabulary: Vocabulary) -> Token:
    for part in reversed(parts):
        if not is_punctuation(vocabulary.bare(part.id)):
            return part
    return parts[-1]


def _placed(
    tokens: Sequence[Token], spelled: Sequence[PieceWord], vocabulary: Vocabulary, end_before: int
) -> tuple[Word, ...]:
    """Words with their times; `end_before` is the end of the word before the first."""
    words: list[Word] = []
    for one in spelled:
        last = first = tokens[one.indices[0]]
        confidence = first.confidence
        if len(one.indices) > 1:
            parts = [tokens[index] for index in one.indices]
            last = _last_heard(parts, vocabulary)
            confidence = min([part.confidence for part in parts])
        start = first.frame * FRAME_SAMPLES
        end_frame = max(last.frame + last.duration, first.frame + 1)
        end_before = max(end_frame * FRAME_SAMPLES, end_before)
        words.append(Word(one.text, start, end_before, round(confidence, 4)))
    return tuple(words)


def _within(words: Sequence[Word], num_samples: int) -> tuple[Word, ...]:
    """The words cut short at the end of the audio."""
    return tuple(
        word
        if word.end_sample <= num_samples
        else Word(
            word.text,
            min(word.start_sample, num_samples),
            min(word.end_sample, num_samples),
            word.confidence,
        )
        for word in words
    )
