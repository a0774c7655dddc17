"""Whisper's tokens as words with times and confidences.

Times come from what the tokens listened to, where that is known; else timestamps say where segments
begin and end, and the words between are spread over them by length. A final's word is as sure as
its tokens are on average (openai/whisper, timing.py), a draft's as the least probable of them. For
the GPU's engine (gpu/whisper.py) and drafts of the CPU's that listen (cpu/whisper.py); words of the
CPU's finals are cpu/whisper_words.py's. Knows tokens, scores and samples, no device. Shapes: S
steps, A aligned heads, N positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from .cpu.whisper_tokens import WhisperTokens
from .decoding.whisper_alignment import (
    SAMPLES_PER_POSITION,
    aligned_begins,
    attended_positions,
    num_positions_of,
)
from .decoding.whisper_rules import SAMPLES_PER_TIMESTAMP
from .draft_policy import DraftPolicy, Verdict
from .words import Word, spread_words

Segment = tuple[int, int, list[int], list[float]]  # begin and end in samples; tokens, their logs


def words_by_attention(
    tokens: WhisperTokens,
    ids: Sequence[int],
    logs: Sequence[float],
    scores: NDArray[np.float32],
    num_samples: int,
    language: str | None,
    num_forced: int = 0,
    *,
    is_final: bool = False,
) -> tuple[Word, ...]:
    """Words of one window by what was listened to at each step.

    Args:
        ids: tokens, timestamps among them.
        logs: log probabilities of `ids`, and may have one more.
        scores: (S, A, N) of the steps that chose the tokens behind the forced ones; one more where
            the end was chosen.
        num_forced: so many of the first tokens no step chose: a draft's stable ones, which are
            spread over the audio before the others.
    """
    chosen = [step for step, token in enumerate(ids[num_forced:]) if token < tokens.eot]
    steps = [*chosen, chosen[-1] + 1] if chosen else []
    num_positions = num_positions_of(num_samples, scores.shape[-1])
    begins = aligned_begins(
        scores[[step for step in steps if step < len(scores)]], len(chosen), num_positions
    )
    forced = np.linspace(0, begins[0], num_forced, endpoint=False).astype(np.int64)
    text = [(t, log) for t, log in zip(ids, logs, strict=False) if t < tokens.eot]
    at = np.minimum(np.concatenate([forced, begins]) * SAMPLES_PER_POSITION, num_samples)
    words, first = [], 0
    for part in tokens.words([token for token, _ in text], language):
        end = first + part.num_tokens
        begin_sample, end_sample = int(at[first]), int(at[end])
        confidence = _confidence([log for _, log in text[first:end]], is_final=is_final)
        if part.text:
            words.append(Word(part.text, begin_sample, max(begin_sample, end_sample), confidence))
        first = end
    return tuple(words)


def verdict_of(
    policy: DraftPolicy,
    tokens: WhisperTokens,
    ids: Sequence[int],
    scores: NDArray[np.float32],
    num_samples: int,
    language: str | None,
) -> Verdict:
    """What a policy says about the words of a draft; `scores` as for words_by_attention()."""
    split = tokens.words(ids, language)
    lengths = [word.num_tokens for word in split if word.text]
    num_positions = num_positions_of(num_samples, scores.shape[-1])
    heard = attended_positions(scores, num_positions)[: len(ids)]
    without_text = max(0, len(heard) - sum(lengths))  # tokens before the first word
    return policy.judge(lengths, heard[without_text:], num_positions)


def timed_words(
    tokens: WhisperTokens,
    ids: Sequence[int],
    logs: Sequence[float],
    num_samples: int,
    language: str | None,
    *,
    is_final: bool = False,
) -> tuple[Word, ...]:
    """Words of one window by its timestamps; `logs` are those of `ids`, and may have one more."""
    words: list[Word] = []
    for begin, end, own, own_logs in _segments(tokens, ids, logs, num_samples):
        split = tokens.words(own, language)
        spread = spread_words([word.text for word in split], end - begin, 0.0)
        first = 0
        for part, word in zip(split, spread, strict=True):
            confidence = _confidence(own_logs[first : first + part.num_tokens], is_final=is_final)
            first += part.num_tokens
            if part.text:
                words.append(
                    replace(
                        word,
                        start_sample=begin + word.start_sample,
                        end_sample=begin + word.end_sample,
                        confidence=confidence,
                    )
                )
    return tuple(words)


def _confidence(logs: Sequence[float], *, is_final: bool) -> float:
    if not logs:
        return 1.0
    probabilities = [math.exp(min(0.0, log)) for log in logs]
    mean = math.fsum(probabilities) / len(probabilities)
    return round(mean if is_final else min(probabilities), 4)


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
