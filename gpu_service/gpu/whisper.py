"""GpuWhisperRecognizer: Whisper on a GPU, for all sessions of a step side by side.

begin() brings the new audio and enqueues the first windows that answers are wanted of; wait() sees
all of them through (whisper_runs.py), a batch after the other; finish() makes words of the tokens.
Finals have batches of one size, so that the same audio always gives the same words. Drafts go on
from the words that are stable; which of theirs are settled says a policy (draft_policy.py), what
is believed whisper_guards.py, as on the CPU.

Where a final's timestamps stop before its end, what is behind them is a window of its own, so that
the last words are never lost. It knows no ring, no VAD and no clock; the service's engine calls it
from one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..decoding.whisper_carry import believed, restored
from ..decoding.whisper_rules import LANGUAGE_SURE_SAMPLES
from ..draft_policy import AGREEMENT, DraftPolicy, Verdict
from ..errors import RecognizerError
from ..recognizer import (
    Progress,
    SessionOptions,
    StepInput,
    Want,
    check_length,
    no_progress,
)
from ..speech_events import NO_CUT_RULE
from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..whisper_guards import FinalWindow, guarded_draft, guarded_final
from ..whisper_text import timed_words, verdict_of, words_by_attention
from ..words import SAMPLE_RATE_HZ, Hypothesis, Word
from .device import Device, Event
from .encoder_weights import Precision
from .gemm import Gemms
from .parakeet_audio import HostAudio
from .whisper_encoder import Trunk
from .whisper_parts import (
    WhisperSizes,
    load_whisper_parts,
    prepare_whisper_parts,
)
from .whisper_runs import WindowJob, WindowRun

DEFAULT_SIZES = WhisperSizes()
MIN_DRAFT_SAMPLES = SAMPLE_RATE_HZ // 10  # less says nothing
WARM_UP_SAMPLES = SAMPLE_RATE_HZ
NO_SAMPLES: NDArray[np.int16] = np.zeros(0, np.int16)


@dataclass(slots=True, eq=False)
class _Session:
    """One stream's open utterance; its audio is on the device."""

    slot: int
    options: SessionOptions
    prompt: tuple[int, ...]  # of the options, as tokens
    hotwords: tuple[int, ...]
    language: str | None = None  # given, or heard by a draft of enough of this utterance
    num_samples: int = 0
    candidate: Hypothesis | None = None  # of exactly the samples so far
    carry: bytes = b""  # of the final before the cut at which it begins
    draft_tokens: tuple[int, ...] = ()  # of its last draft
    draft_logs: tuple[float, ...] = ()  # their log probabilities

    def reset(self) -> None:
        """Forget the utterance."""
        self.num_samples, self.candidate, self.carry = 0, None, b""
        self.language = self.options.language
        self.draft_tokens, self.draft_logs = (), ()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a step owes one session, apart from what the device finds out."""

    session: _Session
    want: Want
    known: Hypothesis | None = None  # nothing needs to be computed
    job: WindowJob | None = None
    in_context: WindowJob | None = None  # the same behind hotwords and the text before a cut


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that was begun."""

    answers: list[_Answer]
    runs: list[WindowRun]  # the first is under way
    audio_taken: Event


class GpuWhisperRecognizer:
    """The DeviceRecognizer (recognizer.py) of Whisper models."""

    def __init__(
        self,
        checkpoint: WhisperCheckpoint,
        device: Device,
        gemms: Gemms,
        precision: Precision = "fp16",
        sizes: WhisperSizes = DEFAULT_SIZES,
        trunk: Trunk | None = None,
        policy: DraftPolicy = AGREEMENT,
    ) -> None:
        """Upload a model and make room for all sessions; see load_whisper_parts(). Raises as it
        does.
        """
        self.model_id = checkpoint.model_id
        self.languages: tuple[str, ...] = tuple(checkpoint.vocabulary.languages) or ("en",)
        self.max_utterance_samples = sizes.max_samples
        self.cut_rule = NO_CUT_RULE
        self.max_step_ms = sizes.max_step_ms
        self.parts = load_whisper_parts(checkpoint, device, gemms, precision, sizes, trunk)
        self.max_parallel, self.max_draft_batch = sizes.max_finals, self.parts.sizes.max_batch
        self._policy = policy
        self._audio = HostAudio(device, self.parts.store, sizes.staging_samples)
        self._sessions: dict[int, _Session] = {}
        self._free_slots = list(range(sizes.num_slots - 1, -1, -1))
        self._next_handle = 1

    # -- sessions --------------------------------------------------------------------------

    def open(self, options: SessionOptions) -> int:
        """See Recognizer.open. Raises RecognizerError for a language the model does not have."""
        if options.language is not None and options.language not in self.languages:
            raise RecognizerError(f"{self.model_id} does not know the language {options.language}")
        if options.translate and not self.parts.vocabulary.is_multilingual:
            raise RecognizerError(f"{self.model_id} does not translate")
        if not self._free_slots:
            raise RecognizerError("all sessions of the GPU are taken")
        slot = self._free_slots.pop()
        self.parts.store.reset(slot)
        handle = self._next_handle
        self._next_handle += 1
        self._sessions[handle] = _Session(
            slot,
            options,
            self._encode(options.prompt),
            self._encode(", ".join(options.hotwords)),
            options.language,
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
        prepare_whisper_parts(self.parts)
        handle = self.open(SessionOptions())
        num_samples = min(WARM_UP_SAMPLES, self.max_utterance_samples)
        ramp = (np.arange(num_samples) % 160 * 100).astype(np.int16)  # a 100 Hz sawtooth
        self.step([StepInput(handle, ramp, Want.DRAFT)])
        self.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
        self.close(handle)

    # -- steps -----------------------------------------------------------------------------

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        """See Recognizer.step. A batch of any size: as many windows at a time as there is room."""
        running = self.begin(batch)
        self.wait(running, progress)
        return self.finish(running)

    def begin(self, batch: Sequence[StepInput]) -> RunningStep:
        """See DeviceRecognizer.begin. Raises RecognizerError before anything has changed."""
        for item in batch:
            session = self._session(item.handle)
            check_length(session.num_samples + len(item.samples), self.max_utterance_samples)
        self._audio.begin()
        for item in batch:
            session = self._session(item.handle)
            if session.num_samples == 0:
                session.carry = item.carry
            if len(item.samples):
                self._audio.add(session.slot, item.samples)
                session.num_samples += len(item.samples)
                session.candidate = None
        self._audio.send()
        answers = [self._answer(self._session(item.handle), item) for item in batch]
        owed = [job for answer in answers for job in (answer.job, answer.in_context)]
        jobs = [job for job in owed if job is not None]
        finals = [job for job in jobs if not job.is_draft]
        drafts = [job for job in jobs if job.is_draft]
        runs = [
            *self._runs(finals, self.parts.final_batch, self.parts.final_batch),
            *self._runs(drafts, self.parts.sizes.max_batch, None),
        ]
        if runs:
            runs[0].begin()
        self._forget(answers)
        return RunningStep(answers, runs, self.parts.device.record())

    def wait(self, running: RunningStep, progress: Progress = no_progress) -> None:
        """See DeviceRecognizer.wait."""
        self.parts.device.wait(running.audio_taken)
        runs = deque(running.runs)
        while runs:
            run = runs.popleft()
            if run is not running.runs[0]:
                run.begin()
            run.complete(progress)
            runs.extend(self._runs(run.rests(), self.parts.final_batch, self.parts.final_batch))

    def finish(self, running: RunningStep) -> list[Hypothesis | None]:
        """See DeviceRecognizer.finish."""
        hypotheses: list[Hypothesis | None] = []
        for answer in running.answers:
            hypothesis = answer.known
            if answer.job is not None:
                hypothesis = self._hypothesis(answer.job)
                if answer.in_context is not None:
                    hypothesis = believed(hypothesis, self._hypothesis(answer.in_context))
                if answer.job.is_draft:
                    self._remember(answer.session, answer.job, hypothesis)
            if answer.want is Want.CANDIDATE:
                answer.session.candidate = hypothesis
            hypotheses.append(hypothesis)
        return hypotheses

    # -- what a step does for one session ---------------------------------------------------

    def _answer(self, session: _Session, item: StepInput) -> _Answer:
        """What is owed: nothing, what is known already, or a job."""
        if item.want is Want.NOTHING:
            return _Answer(session, item.want)
        is_draft = item.want is Want.DRAFT
        if not is_draft and session.candidate is not None:
            return _Answer(session, item.want, session.candidate)
        if session.num_samples < (MIN_DRAFT_SAMPLES if is_draft else 1):
            language = session.options.language
            empty = Hypothesis((), "", session.num_samples, not is_draft, language=language)
            return _Answer(session, item.want, empty)
        if is_draft:
            return _Answer(session, item.want, job=self._draft(session, item.stable_words))
        is_watched = session.options.word_times
        job = self._job(session, is_draft=False, is_watched=is_watched)
        carry = restored(session.carry, self.parts.vocabulary.end)
        if not carry and not session.hotwords:
            return _Answer(session, item.want, job=job)
        behind = self._job(session, is_draft=False, is_watched=is_watched)
        behind.is_tried_once = True  # it is taken only where it is as good as the other
        behind.prompt, behind.hotwords = behind.prompt + carry, session.hotwords
        return _Answer(session, item.want, job=job, in_context=behind)

    def _draft(self, session: _Session, stable_words: tuple[str, ...]) -> WindowJob:
        """It goes on from the stable words."""
        job = self._job(session, is_draft=True, is_watched=self._policy.listens)
        forced, _ = self.parts.tokens.split_behind(session.draft_tokens, stable_words)
        is_known = tuple(forced) == session.draft_tokens[: len(forced)]
        job.forced = tuple(forced)
        # The probabilities of what this draft does not choose are those of the draft that did.
        job.forced_logs = session.draft_logs[: len(forced)] if is_known else (0.0,) * len(forced)
        return job

    def _job(self, session: _Session, *, is_draft: bool, is_watched: bool) -> WindowJob:
        # A final listens for the language again: it depends on all of its audio.
        language = session.language if is_draft else session.options.language
        return WindowJob(
            self.parts.window(session.slot),
            session.num_samples,
            is_draft,
            language,
            hears_language=language is None,
            prompt=session.prompt,
            translates=session.options.translate,
            is_watched=is_watched,
        )

    def _runs(self, jobs: Sequence[WindowJob], most: int, batch: int | None) -> list[WindowRun]:
        """In groups of `most` at most, each in a batch of its own."""
        groups = [jobs[start : start + most] for start in range(0, len(jobs), most)]
        return [WindowRun(self.parts, group, batch) for group in groups]

    def _forget(self, answers: Sequence[_Answer]) -> None:
        """Empty what ends. Its rows stay where they are until the next step brings new ones."""
        for answer in answers:
            if answer.want is Want.FINAL:
                answer.session.reset()
                self.parts.store.reset(answer.session.slot)

    def _remember(self, session: _Session, job: WindowJob, hypothesis: Hypothesis) -> None:
        """What the next draft of the utterance begins with."""
        if job.num_samples >= LANGUAGE_SURE_SAMPLES:
            session.language = job.language
        if hypothesis.looped:
            session.draft_tokens, session.draft_logs = (), ()
            return
        session.draft_tokens = job.tokens
        session.draft_logs = job.log_probabilities[: len(job.tokens)]

    def _hypothesis(self, job: WindowJob) -> Hypothesis:
        if job.is_draft:
            drafted = self._words(job, job.tokens)
            return guarded_draft(drafted, job.num_samples, job.language, self._verdict(job))
        windows = [self._final_window(window) for window in job.windows()]
        return guarded_final(windows, job.num_samples, job.language)

    def _final_window(self, job: WindowJob) -> FinalWindow:
        ids = () if job.decoding.is_silence else job.tokens
        tokens = self.parts.tokens
        text, text_tokens = tokens.decode(ids).strip(), tuple(tokens.text_only(ids))
        words = self._words(job, ids)
        return FinalWindow(words, text, text_tokens, job.decoding, job.temperature)

    def _words(self, job: WindowJob, ids: Sequence[int]) -> tuple[Word, ...]:
        """Of one window, in samples of the utterance."""
        tokens, logs = self.parts.tokens, job.log_probabilities
        if job.attention is None or not ids:
            words = timed_words(
                tokens, ids, logs, job.heard_samples, job.spelled, is_final=not job.is_draft
            )
        else:
            words = words_by_attention(
                tokens, ids, logs, job.attention, job.heard_samples, job.spelled,
                len(job.forced), is_final=not job.is_draft,
            )  # fmt: skip
        start = job.start_sample
        return tuple(
            replace(w, start_sample=start + w.start_sample, end_sample=start + w.end_sample)
            for w in words
        )

    def _verdict(self, job: WindowJob) -> Verdict:
        """Of the policy, about a draft's words."""
        if job.attention is None:
            return self._policy.judge((), (), 0)
        said = job.attention[: len(job.said.tokens)]
        return verdict_of(
            self._policy, self.parts.tokens, job.tokens, said, job.num_samples, job.spelled
        )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.parts.tokens.encode(" " + text.strip())) if text.strip() else ()

    def _session(self, handle: int) -> _Session:
        try:
            return self._sessions[handle]
        except KeyError:
            raise RecognizerError(f"no session {handle}") from None
