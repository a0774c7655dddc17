"""The final-quality pass of Whisper over one utterance: encoder output to tokens.

What faster-whisper's transcribe() does with one segment at its defaults: beam 5, timestamp rules,
seeking on where the timestamps end, the no-speech gate, retries for loops and low probability.
One thing differs: retries never sample at random. They take the exact window, then no timestamps,
then a ban on repetition, so that the same audio always gives the same words.

The rules are those of decoding/whisper_rules.py. One job at a time (B = 1): a final must not depend
on what else is decoded. Knows no sessions and no words; whisper.py calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.whisper_lengths import most_tokens
from ..decoding.whisper_rules import (
    MAX_INITIAL_TIMESTAMP,
    MAX_WINDOWS,
    MIN_REST_SAMPLES,
    Decoding,
    compression_ratio,
    mean_log_probability,
    seek,
)
from ..recognizer import Progress, no_progress
from .log_mel import log_mel
from .whisper_encoder import WhisperEncoder
from .whisper_tokens import MAX_LENGTH, WhisperTokens

BEAM_SIZE = 5


@dataclass(frozen=True, slots=True)
class Hearing:
    """What all decodings of one utterance share."""

    progress: Progress = no_progress  # called before each
    # What was encoded, by where a window begins and whether it is exact.
    encoded: dict[tuple[int, bool], NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an utterance that was decoded in one go."""

    start_sample: int
    num_samples: int  # that the decoder was shown
    heard_samples: int  # of these, the ones its tokens are about; the next window has the rest
    states: NDArray[np.float32]  # (1, 1500, D)
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class _Attempt:
    exact: bool
    timestamps: bool = True
    options: tuple[tuple[str, float], ...] = ()


ATTEMPTS = (
    _Attempt(exact=False),
    _Attempt(exact=True),
    _Attempt(exact=True, timestamps=False),
    _Attempt(
        exact=True,
        timestamps=False,
        options=(("repetition_penalty", 1.1), ("no_repeat_ngram_size", 3)),
    ),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What is wanted of an utterance, beside its audio."""

    start: Sequence[int]  # WhisperTokens.start()
    language: str | None = None  # that is spoken; None: the model knows English only
    spelled: str | None = None  # the language of the text
    word_times: bool = True
    num_attempts: int = len(ATTEMPTS)  # at most, until one is settled
    hotwords: Sequence[int] = ()  # as tokens; at most a quarter of the decoder's positions of them


def storage(states: NDArray[np.float32]) -> Any:
    """Encoder output as CTranslate2 takes it; the array has to outlive the call."""
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(states))


class WhisperDecoder:
    """Decodes utterances with a ctranslate2.models.Whisper."""

    def __init__(self, model: Any, encoder: WhisperEncoder, tokens: WhisperTokens) -> None:
        self._model = model
        self._encoder = encoder
        self._tokens = tokens

    def windows(
        self,
        samples: NDArray[np.int16],
        task: Task,
        prompt: Sequence[int],
        hearing: Hearing,
    ) -> Iterator[Window]:
        """Decode an utterance of (n,) samples, one window after the other.

        The first window nearly always reaches the end. Where its timestamps stop before, the next
        one begins there, so that the last words are never lost.

        Args:
            prompt: tokens that came before, as context.
            hearing: of these samples; what is encoded is put there, for another decoding of them.
        """
        position, context = 0, list(prompt)
        for _ in range(MAX_WINDOWS):
            rest = samples[position:]
            if position and len(rest) < MIN_REST_SAMPLES:
                return
            window = self._decode_window(rest, position, task, context, hearing)
            kept, num_heard = seek(window.decoding.tokens, self._tokens.first_timestamp)
            if window.decoding.is_good:  # what follows is not conditioned on what may be nonsense
                context += self._tokens.text_only(kept)
            num_heard = min(num_heard, len(rest))  # times may lie behind the audio
            decoding = replace(window.decoding, tokens=kept)
            yield replace(window, heard_samples=num_heard or len(rest), decoding=decoding)
            if num_heard == 0:
                return
            position += num_heard

    def states(
        self, samples: NDArray[np.int16], position: int, hearing: Hearing, *, exact: bool
    ) -> NDArray[np.float32]:
        """(1, 1500, D) of the (n,) samples from `position` on, encoded once for all decodings."""
        if (position, exact) not in hearing.encoded:
            mel = log_mel(samples, self._encoder.shape.num_mels)
            hearing.encoded[position, exact] = self._encoder.encode(mel, exact=exact).states
        return hearing.encoded[position, exact]

    def _decode_window(
        self,
        samples: NDArray[np.int16],
        position: int,
        task: Task,
        context: Sequence[int],
        hearing: Hearing,
    ) -> Window:
        best: tuple[Decoding, NDArray[np.float32]] | None = None
        for attempt in ATTEMPTS[: task.num_attempts]:
            hearing.progress()
            states = self.states(samples, position, hearing, exact=attempt.exact)
            decoding = self._attempt(attempt, states, len(samples), task, context)
            if best is None or decoding.rank > best[0].rank:
                best = (decoding, states)
            if decoding.is_settled:
                best = (decoding, states)
                break
        assert best is not None
        decoding, states = best
        if decoding.is_silence:
            decoding = replace(decoding, tokens=())
        return Window(position, len(samples), len(samples), states, decoding)

    def _attempt(
        self,
        attempt: _Attempt,
        states: NDArray[np.float32],
        num_samples: int,
        task: Task,
        context: Sequence[int],
    ) -> Decoding:
        prompt = self._tokens.behind(context, task.hotwords, task.start)
        if not attempt.timestamps:
            prompt.append(self._tokens.no_timestamps)
        max_tokens = most_tokens(num_samples, task.spelled, is_draft=False)
        result = self._model.generate(
            storage(states),
            [prompt],
            beam_size=BEAM_SIZE,
            # CTranslate2 generates up to half of it.
            max_length=min(MAX_LENGTH, max(2 * max_tokens, len(prompt) + max_tokens)),
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP,
            return_scores=True,
            return_no_speech_prob=True,
            **dict(attempt.options),
        )[0]
        ids = tuple(result.sequences_ids[0])
        # The score is the mean over the tokens without the end token, which is part of the sum.
        log_probability = mean_log_probability(result.scores[0] * len(ids), len(ids))
        text = self._tokens.decode(ids).strip()
        return Decoding(ids, log_probability, result.no_speech_prob, compression_ratio(text))
