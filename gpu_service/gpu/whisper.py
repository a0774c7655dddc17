"""GpuWhisperRecognizer: Whisper on a GPU, for all sessions of a step side by side.

A step brings the new audio, encodes the windows that answers are wanted of in batches, and decodes
them together: drafts greedily without timestamps, finals and candidates with them, and again at
rising temperatures as long as whisper_rules.py is not content. Finals have batches of one size, and
the random numbers of a retry are counted from a constant: the same audio always gives the same
words. What successive drafts agree on is the service's business (transcript.py), as on the CPU.

It knows no ring, no VAD and no clock; the service's engine calls it from one thread. Word times are
spread between the timestamps of their segments. An utterance is one window: what the model says
nothing about at its end is not heard again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..cpu.whisper_tokens import WhisperTokens
from ..decoding.whisper_oracle import Decoded
from ..decoding.whisper_rules import (
    NO_SPEECH,
    TEMPERATURES,
    Decoding,
    TokenRules,
    compression_ratio,
    is_doubtful,
    mean_log_probability,
    prompt_tokens,
    start_tokens,
)
from ..errors import RecognizerError
from ..recognizer import SessionOptions, StepInput, Want
from ..speech_events import NO_CUT_RULE
from ..transcript import without_repetition
from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..words import SAMPLE_RATE_HZ, Hypothesis
from .device import Device
from .encoder_weights import Precision
from .gemm import Gemms
from .parakeet_audio import HostAudio
from .slot_audio import HOP_SAMPLES
from .whisper_decoder import GpuWhisperDecoder, Request
from .whisper_encoder import GpuWhisperEncoder, WindowRows
from .whisper_features import WhisperFeatures
from .whisper_text import timed_words
from .whisper_weights import load_whisper_decoder, load_whisper_encoder

FINAL_TOKENS_PER_SECOND, DRAFT_TOKENS_PER_SECOND = 12, 8  # more is a loop
SPARE_TOKENS = 24
MIN_DRAFT_SAMPLES = SAMPLE_RATE_HZ // 10  # less says nothing
WARM_UP_SAMPLES = SAMPLE_RATE_HZ
STAGING_SAMPLES = 1 << 20
NO_SAMPLES: NDArray[np.int16] = np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class WhisperSizes:
    """How much there is room for."""

    max_streams: int = 32
    max_batch: int = 32  # windows of drafts, encoded and decoded at once
    final_batch: int = 4  # of finals: always so many, whoever is in it
    positions: int = 1500  # fewer in tests only


@dataclass(slots=True)
class _Session:
    """One stream's open utterance; its audio is on the device."""

    slot: int
    options: SessionOptions
    prompt: tuple[int, ...]  # of the options, as tokens
    hotwords: tuple[int, ...]
    num_samples: int = 0
    candidate: Hypothesis | None = None  # of exactly the samples so far
    language: str | None = None  # given, or heard in this utterance


@dataclass(frozen=True, slots=True)
class _Job:
    """An answer that has to be computed."""

    index: int  # in the step's batch
    session: _Session
    is_draft: bool


class GpuWhisperRecognizer:
    """The Recognizer (recognizer.py) of Whisper models on a device."""

    def __init__(
        self,
        checkpoint: WhisperCheckpoint,
        device: Device,
        gemms: Gemms,
        precision: Precision = "fp16",
        sizes: WhisperSizes = WhisperSizes(),
    ) -> None:
        """Upload a model and make room for all sessions. Raises ModelError, DeviceError."""
        self.model_id = checkpoint.model_id
        self._vocabulary, self._config = checkpoint.vocabulary, checkpoint.config
        self._tokens = WhisperTokens(checkpoint.tokenizer, checkpoint.source.path / "config.json")
        self.languages: tuple[str, ...] = tuple(self._vocabulary.languages) or ("en",)
        self.max_utterance_samples = 2 * sizes.positions * HOP_SAMPLES
        self.cut_rule = NO_CUT_RULE
        self.max_parallel = self.max_draft_batch = sizes.max_batch
        self._device = device
        self._store = WhisperFeatures(device, sizes.max_streams, self._config.num_mels)
        self._audio = HostAudio(device, self._store, STAGING_SAMPLES)
        weights = load_whisper_encoder(device, checkpoint, precision)
        self._encoder = GpuWhisperEncoder(
            device, gemms, weights, self._store, sizes.max_batch, sizes.positions
        )
        decoder_weights = load_whisper_decoder(device, checkpoint, weights)
        self._decoder = GpuWhisperDecoder(
            device, gemms, self._encoder, decoder_weights, self._vocabulary
        )
        self._final_batch = self._encoder.bucket(min(sizes.final_batch, sizes.max_batch))
        self._sessions: dict[int, _Session] = {}
        self._free_slots = list(range(sizes.max_streams - 1, -1, -1))
        self._next_handle = 1

    # -- sessions --------------------------------------------------------------------------

    def open(self, options: SessionOptions) -> int:
        """See Recognizer.open. Raises RecognizerError for a language the model does not have."""
        if options.language is not None and options.language not in self.languages:
            raise RecognizerError(f"{self.model_id} does not know the language {options.language}")
        if not self._free_slots:
            raise RecognizerError("all sessions of the GPU are taken")
        slot = self._free_slots.pop()
        self._store.reset(slot)
        prompt = self._encode(options.prompt)
        hotwords = self._encode(", ".join(options.hotwords))
        handle = self._next_handle
        self._next_handle += 1
        self._sessions[handle] = _Session(
            slot, options, prompt, hotwords, language=options.language
        )
        return handle

    def close(self, handle: int) -> None:
        """See Recognizer.close."""
        self._free_slots.append(self._session(handle).slot)
        del self._sessions[handle]

    def register(self, buffer: memoryview) -> None:
        """See DeviceRecognizer.register."""
        self._audio.register(buffer)

    def unregister(self, buffer: memoryview) -> None:
        """See DeviceRecognizer.unregister."""
        self._audio.unregister(buffer)

    def warm_up(self) -> None:
        """See Recognizer.warm_up: every batch is recorded."""
        for batch in self._encoder.batches:
            self._encoder.prepare(batch)
            self._decoder.prepare(batch)
        handle = self.open(SessionOptions())
        num_samples = min(WARM_UP_SAMPLES, self.max_utterance_samples)
        ramp = (np.arange(num_samples) % 160 * 100).astype(np.int16)  # a 100 Hz sawtooth
        self.step([StepInput(handle, ramp, Want.DRAFT)])
        self.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
        self.close(handle)

    # -- steps -----------------------------------------------------------------------------

    def step(self, batch: Sequence[StepInput]) -> list[Hypothesis | None]:
        """See Recognizer.step. A batch of any size: as many windows at a time as there is room."""
        self._take(batch)
        answers: list[Hypothesis | None] = [self._known(item) for item in batch]
        jobs = [
            _Job(index, self._session(item.handle), item.want is Want.DRAFT)
            for index, item in enumerate(batch)
            if item.want is not Want.NOTHING and answers[index] is None
        ]
        self._compute_all([job for job in jobs if not job.is_draft], self._final_batch, answers)
        self._compute_all([job for job in jobs if job.is_draft], None, answers)
        for item, answer in zip(batch, answers, strict=True):
            self._end(self._session(item.handle), item.want, answer)
        return answers

    def _take(self, batch: Sequence[StepInput]) -> None:
        """New audio to the device. Raises RecognizerError before anything has changed."""
        for item in batch:
            total = self._session(item.handle).num_samples + len(item.samples)
            if total > self.max_utterance_samples:
                most = self.max_utterance_samples
                raise RecognizerError(f"an utterance of {total} samples, {most} are allowed")
        self._device.synchronize()
        self._audio.begin()
        for item in batch:
            session = self._session(item.handle)
            if len(item.samples):
                self._audio.add(session.slot, item.samples)
                session.num_samples += len(item.samples)
                session.candidate = None
        self._audio.send()

    def _known(self, item: StepInput) -> Hypothesis | None:
        """An answer that needs no computing; None where it does, or nothing is wanted."""
        session = self._session(item.handle)
        is_draft = item.want is Want.DRAFT
        if item.want is Want.NOTHING:
            return None
        if session.num_samples < (MIN_DRAFT_SAMPLES if is_draft else 1):
            language = session.options.language
            return Hypothesis((), "", session.num_samples, not is_draft, language=language)
        return None if is_draft else session.candidate

    def _end(self, session: _Session, want: Want, answer: Hypothesis | None) -> None:
        if want is Want.CANDIDATE:
            session.candidate = answer
        elif want is Want.FINAL:
            session.num_samples, session.candidate = 0, None
            session.language = session.options.language
            self._store.reset(session.slot)

    # -- computing -------------------------------------------------------------------------

    def _compute_all(
        self, jobs: Sequence[_Job], batch: int | None, answers: list[Hypothesis | None]
    ) -> None:
        """In groups of `batch`, or as many as fit."""
        size = batch or self.max_parallel
        for start in range(0, len(jobs), size):
            group = jobs[start : start + size]
            for job, hypothesis in zip(group, self._compute(group, batch), strict=True):
                answers[job.index] = hypothesis

    def _compute(self, jobs: Sequence[_Job], batch: int | None) -> list[Hypothesis]:
        windows = [
            WindowRows(job.session.slot, self._store.num_rows(job.session.slot)) for job in jobs
        ]
        batch = self._encoder.encode(windows, batch)
        self._detect(batch, jobs)
        requests = [self._request(job) for job in jobs]
        decoded = self._say(batch, requests)
        judged = [self._judge(said) for said in decoded]
        for attempt, temperature in enumerate(TEMPERATURES[1:], 1):
            again = [
                None
                if job.is_draft or best.is_settled
                else replace(request, temperature=temperature, seed=attempt)
                for job, best, request in zip(jobs, judged, requests, strict=True)
            ]
            if not any(again):
                break
            for index, said in enumerate(self._say(batch, again)):
                new = self._judge(said)
                if again[index] and (new.is_settled or new.rank > judged[index].rank):
                    decoded[index], judged[index] = said, new
        return [
            self._hypothesis(job, said, decoding)
            for job, said, decoding in zip(jobs, decoded, judged, strict=True)
        ]

    def _detect(self, batch: int, jobs: Sequence[_Job]) -> None:
        """Hear which language it is. A final listens again: it depends on all of its audio."""
        if not self._vocabulary.is_multilingual:
            return
        rules = TokenRules(self._vocabulary, timestamps=False)
        request = Request((self._vocabulary.start,), rules, 1, detects=True)
        asked = [
            request
            if job.session.options.language is None
            and (job.session.language is None or not job.is_draft)
            else None
            for job in jobs
        ]
        if not any(asked):
            return
        codes = {token: code for code, token in self._vocabulary.languages.items()}
        for job, said in zip(jobs, self._say(batch, asked), strict=True):
            if said.tokens:
                job.session.language = codes[said.tokens[0]]

    def _request(self, job: _Job) -> Request:
        session, timestamps = job.session, not job.is_draft
        prompt = prompt_tokens(
            self._vocabulary,
            start_tokens(self._vocabulary, session.language),
            timestamps=timestamps,
            text_positions=self._config.text_positions,
            previous=session.prompt,
            hotwords=session.hotwords,
        )
        rate = DRAFT_TOKENS_PER_SECOND if job.is_draft else FINAL_TOKENS_PER_SECOND
        max_tokens = SPARE_TOKENS + rate * session.num_samples // SAMPLE_RATE_HZ
        return Request(prompt, TokenRules(self._vocabulary, timestamps), max_tokens)

    def _say(self, batch: int, requests: Sequence[Request | None]) -> list[Decoded]:
        self._decoder.decode(batch, requests)
        self._device.wait(self._device.record())
        return self._decoder.read(len(requests))

    def _judge(self, said: Decoded) -> Decoding:
        mean = mean_log_probability(said.total, len(said.tokens))
        text = self._tokens.decode(said.tokens).strip()
        return Decoding(said.tokens, mean, said.no_speech, compression_ratio(text))

    def _hypothesis(self, job: _Job, said: Decoded, decoding: Decoding) -> Hypothesis:
        session = job.session
        language = session.language or "en"
        words = timed_words(
            self._tokens, said.tokens, said.log_probabilities, session.num_samples, language
        )
        is_gated = decoding.is_silence and not job.is_draft
        is_noise = (job.is_draft or decoding.no_speech > NO_SPEECH) and is_doubtful(
            [word.confidence for word in words]
        )
        if is_gated or is_noise:
            words = ()
        kept = without_repetition(words) if job.is_draft or decoding.is_loop else words
        looped = len(kept) < len(words) or (decoding.is_loop and not job.is_draft)
        text = " ".join(word.text for word in kept)
        if kept and not looped and not job.is_draft:
            text = self._tokens.decode(said.tokens).strip()
        return Hypothesis(
            kept, text, session.num_samples, not job.is_draft, decoding.no_speech, language,
            looped=looped,
        )  # fmt: skip

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokens.encode(" " + text.strip())) if text.strip() else ()

    def _session(self, handle: int) -> _Session:
        try:
            return self._sessions[handle]
        except KeyError:
            raise RecognizerError(f"no session {handle}") from None
