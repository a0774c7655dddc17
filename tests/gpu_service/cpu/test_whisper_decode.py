"""WhisperDecoder: what one window makes of the next, for answers that are written down here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from gpu_service.cpu.model_files import ModelFiles
from gpu_service.cpu.whisper_decode import ATTEMPTS, Hearing, Task, WhisperDecoder, Window
from gpu_service.cpu.whisper_encoder import WhisperEncoder
from gpu_service.cpu.whisper_tokens import WhisperTokens

SAMPLES = np.zeros(16_000, np.int16)
GOOD, BAD = -0.1, -3.0  # mean logarithms of probabilities


@dataclass(frozen=True, slots=True)
class _Result:
    """As CTranslate2's."""

    sequences_ids: list[list[int]]
    scores: list[float]
    no_speech_prob: float = 0.0


@dataclass(slots=True)
class _Script:
    """A model that gives these answers, one after the other, and remembers the prompts."""

    answers: list[tuple[Sequence[int], float]]
    prompts: list[list[int]] = field(default_factory=list)

    def generate(self, states: object, prompts: list[list[int]], **options: Any) -> list[_Result]:
        self.prompts.append(prompts[0])
        ids, score = self.answers.pop(0)
        return [_Result([list(ids)], [score])]


@pytest.fixture(scope="module")
def tokens(model_files: ModelFiles) -> WhisperTokens:
    return WhisperTokens(model_files.tokenizer, model_files.config)


def two_segments(tokens: WhisperTokens, text: str, end_s: float) -> list[int]:
    """The text ends at `end_s`, and another segment begins there."""
    end = tokens.first_timestamp + round(end_s / 0.02)
    return [tokens.first_timestamp, *tokens.encode(text), end, end, *tokens.encode(" more")]


def windows_of(script: _Script, encoder: WhisperEncoder, tokens: WhisperTokens) -> list[Window]:
    decoder = WhisperDecoder(script, encoder, tokens)
    return list(decoder.windows(SAMPLES, Task(tokens.start(None)), (), Hearing()))


@pytest.mark.parametrize("score", [GOOD, BAD])
def test_text_is_context_of_the_next_window_where_it_is_believed(
    encoder: WhisperEncoder, tokens: WhisperTokens, score: float
) -> None:
    first = two_segments(tokens, " one", 0.5)
    num_first = 1 if score == GOOD else len(ATTEMPTS)
    script = _Script([(first, score)] * num_first + [(tokens.encode(" two"), GOOD)])
    windows = windows_of(script, encoder, tokens)
    assert [tokens.decode(window.decoding.tokens) for window in windows] == [" one", " two"]
    context = [tokens.sot_prev, *tokens.encode(" one")] if score == GOOD else []
    assert script.prompts[-1] == [*context, tokens.sot]


def test_nothing_is_heard_behind_the_audio(encoder: WhisperEncoder, tokens: WhisperTokens) -> None:
    """A time may lie there, words may not."""
    script = _Script([(two_segments(tokens, " one", 3.0), GOOD)])
    (window,) = windows_of(script, encoder, tokens)
    assert window.heard_samples == window.num_samples == len(SAMPLES)


def test_each_decoding_is_told_of_and_as_many_are_made_as_are_wanted(
    encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    """A watchdog takes a long silence for a hang."""
    script = _Script([(tokens.encode(" one"), BAD)] * 5)
    decoder, told = WhisperDecoder(script, encoder, tokens), []
    hearing = Hearing(lambda: told.append(len(script.prompts)))
    task = Task(tokens.start(None))
    list(decoder.windows(SAMPLES, task, (), hearing))
    assert told == [0, 1, 2, 3]
    assert set(hearing.encoded) == {(0, False), (0, True)}, "encoded once each"
    list(decoder.windows(SAMPLES, replace(task, num_attempts=1), (), hearing))
    assert told == [0, 1, 2, 3, 4]


def test_hotwords_come_first_and_leave_room_for_context(
    encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    script = _Script([(tokens.encode(" one"), GOOD)])
    task = Task(tokens.start(None), hotwords=range(1_000, 1_300))
    list(WhisperDecoder(script, encoder, tokens).windows(SAMPLES, task, range(500), Hearing()))
    words, rest = list(range(1_000, 1_111)), list(range(500 - 112, 500))
    assert script.prompts == [[tokens.sot_prev, *words, *rest, tokens.sot]]
