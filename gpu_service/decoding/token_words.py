"""Words with times and confidences from a transducer's tokens.

Pure. A word lasts from the frame of its first token to where its last one goes on from. Punctuation
is not heard but inferred, mostly in the pause after the word, so it does not move the word's end:
NeMo and Hugging Face snap it to the token before too. A word is as doubtful as its most doubtful
token. Positions count from frame 0 of the utterance. Knows no model; recognizers call it.
"""

from __future__ import annotations

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
    words: list[Word] = []
    end_before = 0
    for spelled in vocabulary.words([token.id for token in tokens], is_end=is_end):
        parts = [tokens[index] for index in spelled.indices]
        start = parts[0].frame * FRAME_SAMPLES
        end = max(_end_frame(parts, vocabulary) * FRAME_SAMPLES, start + FRAME_SAMPLES, end_before)
        end_before = end
        words.append(_word(spelled, min(start, num_samples), min(end, num_samples), parts))
    return tuple(words)


def is_punctuation(text: str) -> bool:
    """Whether a piece, without the space before it, is never spoken."""
    return all(unicodedata.category(c)[0] == "P" and c not in SPOKEN_PUNCTUATION for c in text)


def _end_frame(parts: Sequence[Token], vocabulary: Vocabulary) -> int:
    spoken = [part for part in parts if not is_punctuation(vocabulary.surface(part.id).strip(" "))]
    last = (spoken or parts)[-1]
    return last.frame + last.duration


def _word(spelled: PieceWord, start: int, end: int, parts: Sequence[Token]) -> Word:
    confidence = min(part.confidence for part in parts)
    return Word(spelled.text, start, end, round(confidence, 4))
