"""Word times and confidences for Whisper's tokens.

Finals are aligned: CTranslate2 runs dynamic time warping over the cross-attention of the model's
alignment heads (openai/whisper, timing.py). Drafts only get their words spread over the audio by
length: an alignment costs as much as a third of a draft, and a draft's times only have to say
which words are near the end. How sure a word is: whisper_text.py. Knows no audio; whisper.py calls
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.whisper_alignment import (
    MEDIAN_WIDTH,
    SAMPLES_PER_POSITION,
    num_positions_of,
    token_begins,
)
from ..words import Word
from .whisper_decode import Window, storage
from .whisper_graph import WINDOW_POSITIONS
from .whisper_tokens import TokenWord, WhisperTokens


def aligned_words(
    model: Any, tokens: WhisperTokens, window: Window, start: Sequence[int], language: str | None
) -> tuple[Word, ...]:
    """The words of a window with times in samples of the utterance, by alignment."""
    text_tokens = tokens.text_only(window.decoding.tokens)
    if not text_tokens:
        return ()
    num_positions = num_positions_of(window.num_samples, WINDOW_POSITIONS)
    result = model.align(
        storage(window.states),
        list(start),
        [text_tokens],
        2 * num_positions,
        median_filter_width=MEDIAN_WIDTH,
    )[0]
    begins = token_begins(np.array(result.alignments, np.int64), len(text_tokens), num_positions)
    words = tokens.words(text_tokens, language)
    return _timed(words, begins, np.array(result.text_token_probs, np.float64), window)


def _timed(
    words: list[TokenWord],
    begins: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    window: Window,
) -> tuple[Word, ...]:
    timed, token = [], 0
    for word in words:
        end = token + word.num_tokens
        first, last = (
            window.start_sample + min(int(begins[i]) * SAMPLES_PER_POSITION, window.heard_samples)
            for i in (token, end)
        )
        confidence = float(np.clip(probabilities[token:end].mean(), 0.0, 1.0))
        if word.text:
            timed.append(Word(word.text, first, max(first, last), round(confidence, 4)))
        token = end
    return tuple(timed)
