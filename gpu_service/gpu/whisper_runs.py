"""WindowRun: the windows of one batch, from mel rows to what Whisper says of them.

A run encodes its windows, hears their languages where nobody said them, decodes them side by side,
and decodes finals again at rising temperatures as long as whisper_rules.py is not content.
begin() enqueues what needs no answer, complete() waits and does the rest. A batch's keys and values
are the device's only ones: the next run begins when this one is complete. The random numbers of a
retry are counted from a constant: the same audio always gives the same tokens.

Knows windows and tokens, no session. Called by whisper.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..decoding.whisper_lengths import most_tokens
from ..decoding.whisper_oracle import Decoded
from ..decoding.whisper_rules import (
    MAX_CONTEXT_TEMPERATURE,
    MAX_WINDOWS,
    MIN_REST_SAMPLES,
    TEMPERATURES,
    Decoding,
    TokenRules,
    compression_ratio,
    mean_log_probability,
    prompt_tokens,
    seek,
    start_tokens,
)
from ..recognizer import Progress, no_progress
from .device import Event
from .slot_audio import HOP_SAMPLES
from .whisper_decoder import Request
from .whisper_encoder import WindowRows
from .whisper_parts import WhisperParts

Scores = NDArray[np.float32]


@dataclass(slots=True)
class WindowJob:
    """One window that an answer is wanted of, and later what it says."""

    window: WindowRows
    num_samples: int
    is_draft: bool
    language: str | None = None  # given, or heard
    hears_language: bool = False  # it has to be heard, whatever was heard before
    prompt: tuple[int, ...] = ()  # text that came before, as tokens
    hotwords: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()  # of a draft: text tokens that it begins with
    forced_logs: tuple[float, ...] = ()  # their log probabilities
    translates: bool = False
    is_watched: bool = False  # it has to be known what its tokens listened to
    is_tried_once: bool = False  # no other temperature, whatever comes of it
    temperature: float = 0.0  # of what it says
    start_sample: int = 0  # of the window, in the utterance
    number: int = 0  # of windows before it
    cut_samples: int = 0  # of the window, where its timestamps stop; 0: they do not
    rest: WindowJob | None = None  # what is behind that
    attention: Scores | None = None  # (steps behind the prompt, A, N) of a watched job
    said: Decoded = field(default_factory=lambda: Decoded((), (), 0.0, False))
    decoding: Decoding = field(default_factory=lambda: Decoding((), 0.0, 0.0, 0.0))

    @property
    def spelled(self) -> str | None:
        """The language of the text."""
        return "en" if self.translates else self.language

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that it says, without the end."""
        return self.forced + self.said.tokens

    @property
    def log_probabilities(self) -> tuple[float, ...]:
        """Of the tokens, and of the end where it came."""
        return self.forced_logs + self.said.log_probabilities

    @property
    def heard_samples(self) -> int:
        """Of the window, that its tokens are about."""
        return self.cut_samples or self.num_samples

    def windows(self) -> list[WindowJob]:
        """It, and those that follow it."""
        return [self, *(self.rest.windows() if self.rest is not None else ())]


class WindowRun:
    """See the module text."""

    def __init__(self, parts: WhisperParts, jobs: Sequence[WindowJob], batch: int | None) -> None:
        """Windows in a batch of this size, or of the smallest that they fit in."""
        self._parts = parts
        self._jobs = jobs
        self._wanted_batch = batch
        self._batch = 0
        self._requests: list[Request] = []
        self._is_detecting = False
        self._done: Event | None = None

    def begin(self) -> None:
        """Enqueue the encoder, and the first that the decoder is asked."""
        windows = [job.window for job in self._jobs]
        self._batch = self._parts.encoder.encode(windows, self._wanted_batch)
        self._is_detecting = self._parts.vocabulary.is_multilingual and any(
            job.hears_language for job in self._jobs
        )
        if self._is_detecting:
            self._enqueue(self._questions())
        else:
            self._ask()

    def complete(self, progress: Progress = no_progress) -> None:
        """Wait, and go on until every job has its answer; progress() behind each decoding."""
        if self._is_detecting:
            self._take_languages()
            progress()
            self._ask()
        for row, said in enumerate(self._answers()):
            self._take(row, said, self._judge(said), 0.0)
        progress()
        for seed, temperature in enumerate(TEMPERATURES[1:], 1):
            again = [
                None
                if job.is_draft or job.is_tried_once or job.decoding.is_settled
                else replace(request, temperature=temperature, seed=seed)
                for job, request in zip(self._jobs, self._requests, strict=True)
            ]
            if not any(again):
                return
            self._enqueue(again)
            self._take_better(again, temperature)
            progress()

    def rests(self) -> list[WindowJob]:
        """Windows behind finals whose timestamps stop before their end: nothing is left unheard.

        Such a final keeps what lies before, and has its rest.
        """
        for job in self._jobs:
            if not job.is_draft:
                self._cut(job)
        return [job.rest for job in self._jobs if job.rest is not None]

    def _cut(self, job: WindowJob) -> None:
        kept, num_heard = seek(job.said.tokens, self._parts.vocabulary.first_timestamp)
        if num_heard == 0 or job.decoding.is_silence:
            return
        logs = job.said.log_probabilities[: len(kept)]
        job.said = replace(job.said, tokens=kept, log_probabilities=logs, ended=False)
        num_heard = min(num_heard, job.num_samples)  # times may lie behind the audio
        job.cut_samples = num_heard
        num_samples, num_rows = job.num_samples - num_heard, num_heard // HOP_SAMPLES
        if num_samples < MIN_REST_SAMPLES or job.number + 1 >= MAX_WINDOWS:
            return
        text = tuple(token for token in kept if token < self._parts.vocabulary.end)
        is_context = job.decoding.is_good and job.temperature <= MAX_CONTEXT_TEMPERATURE
        job.rest = replace(
            job,
            window=WindowRows(
                job.window.slot, job.window.num_rows - num_rows, job.window.first_row + num_rows
            ),
            num_samples=num_samples,
            cut_samples=0,
            hears_language=False,
            prompt=job.prompt + text if is_context else job.prompt,
            start_sample=job.start_sample + num_heard,
            number=job.number + 1,
        )

    def _ask(self) -> None:
        self._requests = [self._request(job) for job in self._jobs]
        self._enqueue(self._requests)

    def _enqueue(self, requests: Sequence[Request | None]) -> None:
        self._parts.decoder.decode(self._batch, requests)
        self._done = self._parts.device.record()

    def _answers(self) -> list[Decoded]:
        assert self._done is not None
        self._parts.device.wait(self._done)
        return self._parts.decoder.read(len(self._jobs))

    def _take_better(self, asked: Sequence[Request | None], temperature: float) -> None:
        for row, said in enumerate(self._answers()):
            if asked[row] is None:
                continue
            new = self._judge(said)
            if new.is_settled or new.rank > self._jobs[row].decoding.rank:
                self._take(row, said, new, temperature)

    def _take(self, row: int, said: Decoded, decoding: Decoding, temperature: float) -> None:
        """It is the job's answer, unless a later one is better."""
        job = self._jobs[row]
        job.said, job.decoding, job.temperature = said, decoding, temperature
        if job.is_watched:
            num_steps = len(said.log_probabilities)  # one more than tokens where it ended
            job.attention = self._parts.decoder.attention(row, num_steps)

    # -- languages -------------------------------------------------------------------------

    def _questions(self) -> list[Request | None]:
        vocabulary = self._parts.vocabulary
        rules = TokenRules(vocabulary, timestamps=False)
        question = Request((vocabulary.start,), rules, 1, detects=True)
        return [question if job.hears_language else None for job in self._jobs]

    def _take_languages(self) -> None:
        codes = {token: code for code, token in self._parts.vocabulary.languages.items()}
        for job, said in zip(self._jobs, self._answers(), strict=True):
            if said.tokens:
                job.language = codes[said.tokens[0]]

    # -- one decoding ----------------------------------------------------------------------

    def _request(self, job: WindowJob) -> Request:
        vocabulary, timestamps = self._parts.vocabulary, not job.is_draft
        prompt = prompt_tokens(
            vocabulary,
            start_tokens(vocabulary, job.language, translate=job.translates),
            timestamps=timestamps,
            text_positions=self._parts.config.text_positions,
            previous=job.prompt,
            hotwords=job.hotwords,
        )
        room = max(0, self._parts.config.text_positions - len(prompt) - 1)
        job.forced, job.forced_logs = job.forced[:room], job.forced_logs[:room]
        most = most_tokens(job.num_samples, job.spelled, is_draft=job.is_draft)
        rules = TokenRules(vocabulary, timestamps, continues=bool(job.forced))
        max_tokens = max(1, most - len(job.forced))
        return Request(prompt + job.forced, rules, max_tokens, watched=job.is_watched)

    def _judge(self, said: Decoded) -> Decoding:
        mean = mean_log_probability(said.total, len(said.tokens))
        text = self._parts.tokens.decode(said.tokens).strip()
        return Decoding(said.tokens, mean, said.no_speech, compression_ratio(text))
