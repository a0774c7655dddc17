"""Whisper's tokens as words with times and confidences, without an alignment.

Timestamps say where segments begin and end; the words between are spread over them by length. A
word is as sure as the least probable of its tokens. Knows tokens and samples, no device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..cpu.whisper_tokens import WhisperTokens
from ..decoding.whisper_rules import SAMPLES_PER_TIMESTAMP
from ..words import Word, spread_words

Segment = tuple[int, int, list[int], list[float]]  # begin and end in samples; tokens, their logs


def timed_words(
    tokens: WhisperTokens,
    ids: Sequence[int],
    logs: Sequence[float],
    num_samples: int,
    language: str | None,
) -> tuple[Word, ...]:
    """Words of one window; `logs` are the log probabilities of `ids`, and may have one more."""
    words: list[Word] = []
    for begin, end, own, own_logs in _segments(tokens, ids, logs, num_samples):
        split = tokens.words(own, language)
        spread = spread_words([word.text for word in split], end - begin, 0.0)
        first = 0
        for part, word in zip(split, spread, strict=True):
            confidence = math.exp(min(0.0, *own_logs[first : first + part.num_tokens]))
            first += part.num_tokens
            if part.text:
                words.append(
                    replace(
                        word,
                        start_sample=begin + word.start_sample,
                        end_sample=begin + word.end_sample,
                        confidence=round(confidence, 4),
                    )
                )
    return tuple(words)


def _segments(
    tokens: WhisperTokens, ids: Sequence[int], logs: Sequence[float], num_samples: int
) -> Iterator[Segment]:
    """Runs of text between times. What has no end of its own ends with the window."""
    begin, own, own_logs = 0, list[int](), list[float]()
    for token, log in zip(ids, logs, strict=False):
        steps = token - tokens.first_timestamp
        if token < tokens.eot:
            own.append(token)
            own_logs.append(log)
        elif steps >= 0:
            at = min(num_samples, steps * SAMPLES_PER_TIMESTAMP)
            if own:
                yield begin, max(begin, at), own, own_logs
            begin, own, own_logs = at, [], []
    if own:
        yield begin, num_samples, own, own_logs
