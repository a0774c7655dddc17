"""WhisperRecognizer: Whisper on the CPU, for one utterance or a batch of drafts at a time.

The encoder is ours (whisper_encoder.py, ONNX Runtime: it does not compute the silence), decoder
and alignment are CTranslate2's. Finals and candidates take the careful pass of whisper_decode.py,
drafts a greedy one that goes on from the stable words. It knows no ring, no VAD and no clock; the
service's engine calls it from one thread.

Measured on two cores (bench/engine.py): the encoder gains from a second thread, the decoder
loses, so the encoder gets `num_threads` and the decoder one. `max_parallel` sessions of a batch
are worked on side by side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..decoding.whisper_carry import believed, restored
from ..decoding.whisper_lengths import most_tokens
from ..decoding.whisper_rules import LANGUAGE_SURE_SAMPLES, NO_SPEECH
from ..draft_policy import AGREEMENT, DraftPolicy
from ..errors import RecognizerError
from ..recognizer import Progress, SessionOptions, StepInput, Want, check_length, no_progress
from ..speech_events import NO_CUT_RULE
from ..whisper_guards import FinalWindow, guarded_draft, guarded_final
from ..whisper_text import verdict_of, words_by_attention
from ..words import SAMPLE_RATE_HZ, Hypothesis, Word, spread_words
from .draft_decoder import DraftDecoder, DraftTokens
from .free_memory import return_free_memory
from .log_mel import WINDOW_SAMPLES, log_mel
from .model_files import EMBEDDED_MODEL_ID, ModelFiles, find_model
from .whisper_decode import (
    Hearing,
    Task,
    WhisperDecoder,
    Window,
    storage,
)
from .whisper_encoder import WhisperEncoder
from .whisper_tokens import MAX_LENGTH, WhisperTokens
from .whisper_words import aligned_words

MIN_DRAFT_SAMPLES = SAMPLE_RATE_HZ // 10  # less says nothing
FIRST_CAPACITY = 4 * SAMPLE_RATE_HZ
STEPS_A_TRIM = 64  # a trim takes 5 to 9 ms, the steps between two of them many seconds
WARM_UP_SAMPLES = 2 * SAMPLE_RATE_HZ
NO_SAMPLES: NDArray[np.int16] = np.zeros(0, np.int16)


@dataclass(slots=True)
class _Session:
    """One stream's open utterance: at most 30 s, 960 KB."""

    options: SessionOptions
    buffer: NDArray[np.int16] = field(default_factory=lambda: np.zeros(FIRST_CAPACITY, np.int16))
    num_samples: int = 0
    candidate: Hypothesis | None = None  # of exactly the samples in the buffer
    carry: bytes = b""  # of the final before the cut at which it begins
    draft_language: str | None = None  # detected in enough of this utterance
    draft_tokens: tuple[int, ...] = ()  # of its last draft

    @property
    def samples(self) -> NDArray[np.int16]:
        """(num_samples,) of the utterance."""
        return self.buffer[: self.num_samples]

    def append(self, samples: NDArray[np.int16]) -> None:
        """Take samples, for which there is room."""
        if len(samples) == 0:
            return
        total = self.num_samples + len(samples)
        if total > len(self.buffer):
            grown = np.zeros(min(WINDOW_SAMPLES, max(total, 2 * len(self.buffer))), np.int16)
            grown[: self.num_samples] = self.samples
            self.buffer = grown
        self.buffer[self.num_samples : total] = samples
        self.num_samples = total
        self.candidate = None

    def reset(self) -> None:
        """Forget the utterance, and memory beyond that of a short one."""
        if len(self.buffer) > FIRST_CAPACITY:
            self.buffer = np.zeros(FIRST_CAPACITY, np.int16)
        self.num_samples = 0
        self.candidate = None
        self.carry = b""
        self.draft_language = None
        self.draft_tokens = ()


class WhisperRecognizer:
    """The Recognizer (recognizer.py) of CTranslate2 Whisper models."""

    def __init__(
        self,
        model: str | ModelFiles = EMBEDDED_MODEL_ID,
        *,
        num_threads: int = 2,
        num_decoder_threads: int = 1,
        max_parallel: int = 2,
        compute_type: str = "int8",
        policy: DraftPolicy = AGREEMENT,
    ) -> None:
        """Load a model by name or folder. Raises ModelError."""
        import ctranslate2

        files = model if isinstance(model, ModelFiles) else find_model(model)
        self.model_id = files.model_id
        self.max_utterance_samples = WINDOW_SAMPLES
        self._tokens = WhisperTokens(files.tokenizer, files.config)
        self._encoder = WhisperEncoder(
            files.weights, num_threads, is_int8=compute_type.startswith("int8")
        )
        self._model: Any = ctranslate2.models.Whisper(
            str(files.folder),
            device="cpu",
            compute_type=compute_type,
            intra_threads=num_decoder_threads,
            inter_threads=max_parallel,
        )
        self._decoder = WhisperDecoder(self._model, self._encoder, self._tokens)
        self._draft_decoder = DraftDecoder(
            files.weights,
            self._encoder.shape,
            end=self._tokens.eot,
            suppressed=self._tokens.suppressed,
            suppressed_first=self._tokens.suppressed_first,
            num_threads=num_decoder_threads,
            aligned=self._tokens.alignment_heads if policy.listens else (),
        )
        self._policy = policy
        self.languages: tuple[str, ...] = tuple(self._tokens.language_ids) or ("en",)
        self.cut_rule = NO_CUT_RULE
        self.max_parallel = self.max_draft_batch = max_parallel
        self._pool = ThreadPoolExecutor(max_parallel, "whisper")
        self._sessions: dict[int, _Session] = {}
        self._next_handle = 1
        self._num_steps = 0

    def open(self, options: SessionOptions) -> int:
        """See Recognizer.open. Raises RecognizerError for a language the model does not have."""
        if options.language is not None and options.language not in self.languages:
            raise RecognizerError(f"{self.model_id} does not know the language {options.language}")
        if options.translate and not self._tokens.language_ids:
            raise RecognizerError(f"{self.model_id} does not translate")
        handle = self._next_handle
        self._next_handle += 1
        self._sessions[handle] = _Session(options)
        return handle

    def close(self, handle: int) -> None:
        """See Recognizer.close."""
        if self._sessions.pop(handle, None) is None:
            raise RecognizerError(f"no session {handle}")

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        """See Recognizer.step. Raises RecognizerError before anything has changed.

        Free memory goes back to the system now and then.
        """
        for item in batch:
            session = self._session(item.handle)
            check_length(session.num_samples + len(item.samples), WINDOW_SAMPLES)
        answers = self._answers(batch, progress)
        self._num_steps += 1
        if self._num_steps % STEPS_A_TRIM == 0:
            return_free_memory()
        return answers

    def _answers(self, batch: Sequence[StepInput], progress: Progress) -> list[Hypothesis | None]:
        if len(batch) == 1:
            return [self._answer(batch[0], progress)]
        # Each session by itself, side by side: results cannot depend on the batch, and the
        # engines under us release the interpreter's lock while they compute.
        return list(self._pool.map(lambda item: self._answer(item, progress), batch))

    def _answer(self, item: StepInput, progress: Progress) -> Hypothesis | None:
        session = self._session(item.handle)
        if session.num_samples == 0:
            session.carry = item.carry
        session.append(item.samples)
        if item.want in (Want.CANDIDATE, Want.FINAL):
            return self._final(session, progress, ends=item.want is Want.FINAL)
        if item.want is Want.DRAFT and session.num_samples < MIN_DRAFT_SAMPLES:
            return Hypothesis((), "", session.num_samples, is_final=False)
        if item.want is Want.DRAFT:
            return self._draft(session, item.stable_words)
        return None

    def warm_up(self) -> None:
        """See Recognizer.warm_up. Also encodes the padding of common levels."""
        for padding in self._encoder.prepare():
            self._draft_decoder.prepare(padding)
        handle = self.open(SessionOptions())
        ramp = (np.arange(WARM_UP_SAMPLES) % 160 * 100).astype(np.int16)  # a 100 Hz sawtooth
        self.step([StepInput(handle, ramp, Want.DRAFT)])
        self.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
        self.close(handle)
        return_free_memory()  # of loading

    def _session(self, handle: int) -> _Session:
        try:
            return self._sessions[handle]
        except KeyError:
            raise RecognizerError(f"no session {handle}") from None

    # -- finals ----------------------------------------------------------------------------

    def _final(self, session: _Session, progress: Progress, *, ends: bool) -> Hypothesis:
        hypothesis = session.candidate or self._transcribe(session, progress)
        session.candidate = hypothesis
        if ends:
            session.reset()
        return hypothesis

    def _transcribe(self, session: _Session, progress: Progress) -> Hypothesis:
        """The careful pass: a function of samples, options and carry alone."""
        samples, options = session.samples, session.options
        if len(samples) == 0:
            return Hypothesis((), "", 0, is_final=True, language=options.language)
        language, hearing = options.language, Hearing(progress)
        if language is None and self._tokens.language_ids:
            language = self._detect(self._decoder.states(samples, 0, hearing, exact=False))
        start = self._tokens.start(language, translate=options.translate)
        task = Task(start, language, options.spelled(language), options.word_times)
        prompt = self._encode(options.prompt)
        alone = self._decoded(samples, task, prompt, hearing)
        carry = restored(session.carry, self._tokens.eot)
        is_doubtful = not alone.carry  # context would not help, and hard speech takes long enough
        if is_doubtful or not (carry or options.hotwords):
            return alone
        hotwords = self._encode(", ".join(options.hotwords))
        task = dataclasses.replace(task, num_attempts=1, hotwords=hotwords)
        return believed(alone, self._decoded(samples, task, [*prompt, *carry], hearing))

    def _decoded(
        self,
        samples: NDArray[np.int16],
        task: Task,
        context: list[int],
        hearing: Hearing,
    ) -> Hypothesis:
        """A whole utterance, behind text that came before it."""
        windows = [
            FinalWindow(
                self._words(window, task),
                self._tokens.decode(window.decoding.tokens).strip(),
                tuple(self._tokens.text_only(window.decoding.tokens)),
                window.decoding,
            )
            for window in self._decoder.windows(samples, task, context, hearing)
        ]
        return guarded_final(windows, len(samples), task.language)

    def _words(self, window: Window, task: Task) -> tuple[Word, ...]:
        # What may not be speech is aligned all the same: its confidences decide (MIN_CONFIDENCE).
        if task.word_times or window.decoding.no_speech > NO_SPEECH:
            return aligned_words(self._model, self._tokens, window, task.start, task.spelled)
        texts = self._texts(window.decoding.tokens, task.spelled)
        return spread_words(
            texts, window.num_samples, math.exp(min(0.0, window.decoding.log_probability))
        )

    # -- drafts ----------------------------------------------------------------------------

    def _draft(self, session: _Session, stable_words: tuple[str, ...]) -> Hypothesis:
        """Greedy, without timestamps, behind the stable words."""
        encoded = self._encoder.encode(log_mel(session.samples, self._encoder.shape.num_mels))
        language = session.options.language or session.draft_language
        if language is None and self._tokens.language_ids:
            language = self._detect(encoded.states)
            if session.num_samples >= LANGUAGE_SURE_SAMPLES:
                session.draft_language = language
        forced, guess = self._tokens.split_behind(session.draft_tokens, stable_words)
        options = session.options
        start = self._tokens.start(language, translate=options.translate)
        prompt = self._tokens.behind(self._encode(options.prompt), (), start)
        prompt.append(self._tokens.no_timestamps)
        spelled = options.spelled(language)
        cap = len(forced) + most_tokens(session.num_samples, spelled, is_draft=True)
        cap = min(cap, MAX_LENGTH - len(prompt) - 1)
        draft = self._draft_decoder.decode(encoded, prompt, forced[:cap], guess[:cap], cap)
        hypothesis = self._draft_hypothesis(draft, session, language)
        session.draft_tokens = () if hypothesis.looped else draft.tokens
        return hypothesis

    def _draft_hypothesis(
        self, draft: DraftTokens, session: _Session, language: str | None
    ) -> Hypothesis:
        """Timed by what was listened to where that is known, and judged by the policy."""
        num_samples = session.num_samples
        spelled = session.options.spelled(language)
        if draft.scores is None:
            spread = self._draft_words(draft, num_samples, spelled)
            return guarded_draft(spread, num_samples, language, self._policy.judge((), (), 0))
        logs = [math.log(max(probability, 1e-9)) for probability in draft.probabilities]
        words = words_by_attention(
            self._tokens, draft.tokens, logs, draft.scores, num_samples, spelled
        )
        verdict = verdict_of(
            self._policy, self._tokens, draft.tokens, draft.scores, num_samples, spelled
        )
        return guarded_draft(words, num_samples, language, verdict)

    def _draft_words(
        self, draft: DraftTokens, num_samples: int, language: str | None
    ) -> tuple[Word, ...]:
        split = self._tokens.words(draft.tokens, language)
        spread = spread_words([word.text for word in split], num_samples, 0.0)
        words, token = [], 0
        for part, word in zip(split, spread, strict=True):
            chosen = draft.probabilities[token : token + part.num_tokens]
            token += part.num_tokens
            confidence = round(min(chosen), 4)
            if part.text:
                words.append(replace(word, confidence=confidence))
        return tuple(words)

    # -- both ------------------------------------------------------------------------------

    def _texts(self, tokens: Sequence[int], language: str | None) -> list[str]:
        words = self._tokens.words(self._tokens.text_only(tokens), language)
        return [word.text for word in words if word.text]

    def _encode(self, text: str) -> list[int]:
        """A client's text, as tokens."""
        return self._tokens.encode(" " + text.strip()) if text.strip() else []

    def _detect(self, states: NDArray[np.float32]) -> str:
        """The most probable language, an ISO 639-1 code."""
        token: str = self._model.detect_language(storage(states))[0][0][0]
        return token.strip("<|>")
