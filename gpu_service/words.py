"""Words and hypotheses: what a recognizer says about the open utterance.

Pure data, as structs: thousands a second are made, and nothing in them can point back at them.
Positions count 16 kHz samples from the start of the utterance; this module does not know where the
utterance lies in its stream, and knows no model. Every recognizer makes these, transcript.py
compares them, the service adds the utterance's start and sends them on.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .decoding.tokens import Token

SAMPLE_RATE_HZ = 16_000  # of every position in this package


class Word(msgspec.Struct, frozen=True, gc=False):
    """One word as it is written, punctuation included, without the space around it."""

    text: str
    start_sample: int  # 16 kHz, from the start of the utterance
    end_sample: int  # exclusive
    confidence: float  # 0..1, how probable its tokens were; 1.0 where unknown


class Hypothesis(msgspec.Struct, frozen=True, gc=False):
    """What the first `num_samples` samples of one utterance say."""

    words: tuple[Word, ...]
    text: str  # the words with the model's own spacing
    num_samples: int  # of the utterance, that this covers
    is_final: bool  # made by the final-quality pass (a candidate is too)
    no_speech: float = 0.0  # 0..1, the model's belief that nobody speaks
    language: str | None = None  # ISO 639-1
    looped: bool = False  # the model repeated itself and the repetition was cut off
    open_words: int = 0  # so many of the last words may still become longer ones
    settled_words: int = 0  # so many of the first ones need no second draft to agree
    tokens: tuple[Token, ...] = ()  # of a transducer; frame 0 is the start of the utterance
    carry: bytes = b""  # a final at a cut: the decoder's state there, for what goes on behind it


def spread_words(texts: Sequence[str], num_samples: int, confidence: float) -> tuple[Word, ...]:
    """Words over [0, num_samples) by the number of their letters."""
    total = sum(len(text) + 1 for text in texts)
    words, letters = [], 0
    for text in texts:
        start = letters * num_samples // total
        letters += len(text) + 1
        words.append(Word(text, start, letters * num_samples // total, confidence))
    return tuple(words)
