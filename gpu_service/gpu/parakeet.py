"""GpuParakeetRecognizer: Parakeet-TDT on a GPU, for a thousand streams at once.

A step is enqueued in one go and waited for once: new audio to the device, finals and candidates
(parakeet_finals.py), drafts (parakeet_drafts.py). begin() does all that and returns while the
device computes; wait() takes the tokens when it has, finish() makes hypotheses of them. A final is
what cpu/parakeet.py says it is: one offline pass over the utterance, decoded with the audio on both
sides of a cut.

It knows no ring, no VAD and no clock; the service's engine calls it from one thread. What lies on
the device is in parakeet_parts.py, what the host knows of a session in parakeet_sessions.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..decoding.tdt_state import TdtStateError, restored
from ..decoding.token_words import GrowingWords
from ..decoding.tokens import FRAME_SAMPLES, Token
from ..errors import RecognizerError
from ..parakeet_rules import CUT_RULE
from ..parakeet_text import ParakeetText, draft_hypothesis
from ..recognizer import Progress, SessionOptions, StepInput, Want, no_progress
from ..weights.parakeet_weights import ParakeetWeights
from ..words import SAMPLE_RATE_HZ, Hypothesis
from .device import Device, Event
from .gemm import Gemms
from .parakeet_audio import HostAudio
from .parakeet_drafts import Draft, DraftRun
from .parakeet_finals import FinalJob, FinalRun
from .parakeet_parts import EncoderOpener, load_parts, prepare_parts
from .parakeet_sessions import NO_SAMPLES, GpuSession
from .parakeet_settings import GpuParakeetSettings
from .tdt_search import GraphMode

log = logging.getLogger("earwire.service")

WARM_UP_SAMPLES = 2 * SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step owes one session, apart from what the device finds out."""

    session: GpuSession
    want: Want
    num_samples: int  # of the utterance, that it covers
    known: Hypothesis | None = None  # nothing needs to be computed
    draft: Draft | None = None  # None: too short for one


@dataclass(frozen=True, slots=True)
class RunningStep:
    """A step that was enqueued."""

    answers: list[Answer]
    finals: FinalRun
    drafts: DraftRun
    done: Event


class GpuParakeetRecognizer:
    """The DeviceRecognizer (recognizer.py) of Parakeet-TDT models."""

    def __init__(
        self,
        model_id: str,
        weights: ParakeetWeights,
        device: Device,
        gemms: Gemms,
        settings: GpuParakeetSettings,
        mode: GraphMode = GraphMode.PERSISTENT,
        open_encoder: EncoderOpener | None = None,
    ) -> None:
        """Upload a model and make room for all sessions; see load_parts(). Raises as it does."""
        self.settings = settings
        self.model_id = model_id
        self.languages: tuple[str, ...] = ()  # it hears which one is spoken and can not be told
        self.max_utterance_samples = settings.max_samples
        self.cut_rule = CUT_RULE
        self.max_parallel = settings.max_finals
        self.max_draft_batch = settings.max_drafts
        self.max_step_ms = settings.max_step_ms
        if weights.vocabulary is None:
            log.warning("%s has no tokenizer: its text is token ids", model_id)
        self._text = ParakeetText(model_id, weights.vocabulary, settings.hotword_weight)
        self._config = weights.config
        self.parts = load_parts(device, gemms, weights, settings, mode, open_encoder)
        self._audio = HostAudio(device, self.parts.store, settings.staging_samples)
        self._sessions: dict[int, GpuSession] = {}
        self._free_slots = list(range(settings.num_slots - 1, -1, -1))
        self._next_handle = 1

    # -- sessions --------------------------------------------------------------------------

    def open(self, options: SessionOptions) -> int:
        """See Recognizer.open. Raises RecognizerError for hotwords that it can not spell."""
        self._text.check_task(options)
        trie = self._text.hotwords(options.hotwords)
        if not self._free_slots:
            raise RecognizerError(f"all {self.settings.num_slots} sessions of the GPU are taken")
        slot = self._free_slots.pop()
        session = GpuSession(slot, self.max_utterance_samples)
        self.parts.store.reset(slot)
        if trie is not None:
            self.parts.decoder.load_hotwords(slot, trie)
            session.hotwords, session.num_nodes = slot, trie.num_nodes
        handle = self._next_handle
        self._next_handle += 1
        self._sessions[handle] = session
        return handle

    def close(self, handle: int) -> None:
        """See Recognizer.close."""
        session = self._session(handle)
        if session.hotwords == session.slot:
            self.parts.decoder.free_hotwords(session.slot)
        del self._sessions[handle]
        self._free_slots.append(session.slot)

    def register(self, buffer: memoryview) -> None:
        """See DeviceRecognizer.register."""
        self._audio.register(buffer)

    def unregister(self, buffer: memoryview) -> None:
        """See DeviceRecognizer.unregister."""
        self._audio.unregister(buffer)

    # -- steps -----------------------------------------------------------------------------

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        """See Recognizer.step. A batch of any size: as many at a time as a step may have."""
        answers: list[Hypothesis | None] = []
        size = min(self.settings.max_finals, self.settings.max_drafts)
        for start in range(0, len(batch), size):
            running = self.begin(batch[start : start + size])
            self.wait(running, progress)
            answers += self.finish(running)
        return answers

    def begin(self, batch: Sequence[StepInput]) -> RunningStep:
        """See DeviceRecognizer.begin: at most max_parallel finals, and max_draft_batch drafts."""
        sessions = [self._session(item.handle) for item in batch]
        for session, item in zip(sessions, batch, strict=True):
            session.check(item)  # before anything has changed
        self._audio.begin()
        for session, item in zip(sessions, batch, strict=True):
            session.take(item, self._audio)
        answers = [self._answer(s, item) for s, item in zip(sessions, batch, strict=True)]
        jobs = [
            self._final_job(answer.session, item)
            for answer, item in zip(answers, batch, strict=True)
            if item.want in (Want.FINAL, Want.CANDIDATE) and answer.known is None
        ]
        self._audio.send()
        parts = self.parts
        finals, drafts = FinalRun(parts, self.settings), DraftRun(parts, self.settings)
        finals.enqueue(jobs)
        drafts.enqueue([answer.session for answer in answers if answer.draft is not None])
        self._forget(answers)
        return RunningStep(answers, finals, drafts, parts.device.record())

    def wait(self, running: RunningStep, progress: Progress = no_progress) -> None:
        """See DeviceRecognizer.wait. The next step may overwrite results: they are read here.

        A step is one part.
        """
        self.parts.device.wait(running.done)
        running.finals.collect()
        running.drafts.collect()

    def finish(self, running: RunningStep) -> list[Hypothesis | None]:
        """See DeviceRecognizer.finish."""
        finals, shown = running.finals.results(), running.drafts.results()
        hypotheses: list[Hypothesis | None] = []
        for answer in running.answers:
            hypothesis = answer.known
            if answer.want is Want.DRAFT:
                tokens = shown.get(answer.draft, []) if answer.draft else []
                hypothesis = self._draft(answer, tokens)
            elif answer.want is not Want.NOTHING and hypothesis is None:
                final = finals[answer.session.slot]
                hypothesis = self._text.final(final.tokens, answer.num_samples, final.carry)
            if answer.want is Want.CANDIDATE:
                answer.session.candidate = hypothesis
            hypotheses.append(hypothesis)
        return hypotheses

    def warm_up(self) -> None:
        """See Recognizer.warm_up: record every graph, and run a draft and a final."""
        prepare_parts(self.parts, self.settings)
        handle = self.open(SessionOptions())
        ramp = (np.arange(WARM_UP_SAMPLES) % 160 * 100).astype(np.int16)  # a 100 Hz sawtooth
        self.step([StepInput(handle, ramp, Want.DRAFT)])
        self.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
        self.close(handle)

    # -- what a step does for one session ----------------------------------------------------

    def _answer(self, session: GpuSession, item: StepInput) -> Answer:
        """What is owed, as far as the host knows; a draft is made where there will be one."""
        num_samples = session.num_samples - item.right_samples
        if item.want is Want.DRAFT:
            draft = None if session.is_short else session.draft or self._begin_draft(session)
            session.draft = draft
            return Answer(session, item.want, session.num_samples, draft=draft)
        known: Hypothesis | None = None
        if item.want is not Want.NOTHING:
            # A candidate is of all samples: at a cut those behind it would be in it, and no carry.
            known = None if item.right_samples else session.candidate
            if known is None and num_samples <= 0:
                known = Hypothesis((), "", max(0, num_samples), is_final=True)
        return Answer(session, item.want, num_samples, known)

    def _final_job(self, session: GpuSession, item: StepInput) -> FinalJob:
        num_rows = session.num_rows
        if session.is_short:
            padded = session.padded()
            self._audio.add(session.slot, padded)
            num_rows = len(padded) // (SAMPLE_RATE_HZ // 100)
        num_frames = None
        if item.right_samples:
            num_frames = (session.num_samples - item.right_samples) // FRAME_SAMPLES
        return FinalJob(
            session.slot, num_rows, session.skip_frames, num_frames,
            self._first_state(session), session.hotwords,
        )  # fmt: skip

    def _begin_draft(self, session: GpuSession) -> Draft:
        words = GrowingWords(self._text.vocabulary)
        state = self._first_state(session)
        return Draft(words, session.slot, session.skip_frames, state, session.hotwords)

    def _first_state(self, session: GpuSession) -> int:
        """The decoder's state at the start of the utterance."""
        start: int = self.parts.decoder.START
        if not session.carry:
            return start
        config = self._config
        # One of another model, which a server was restarted with, is none: begin anew.
        with contextlib.suppress(TdtStateError):
            state = restored(
                session.carry, config.decoder_layers, config.decoder_width, config.blank_id,
                session.num_nodes,
            )  # fmt: skip
            start = self.parts.carried_state(session.slot)
            self.parts.decoder.set_state(start, state)
        return start

    def _draft(self, answer: Answer, shown: list[Token]) -> Hypothesis:
        if answer.draft is None:
            return draft_hypothesis((), "", answer.num_samples, ())
        words = answer.draft.words
        return draft_hypothesis(
            words.words(shown, answer.num_samples),
            words.text(shown),
            answer.num_samples,
            (*words.tokens, *shown),
        )

    def _forget(self, answers: Sequence[Answer]) -> None:
        """Empty what has ended, and what was padded, behind all that was enqueued for it."""
        for answer in answers:
            if answer.want is Want.FINAL:
                answer.session.reset(self.parts.store)
            elif answer.session.is_short:
                self.parts.store.reset(answer.session.slot)

    def _session(self, handle: int) -> GpuSession:
        try:
            return self._sessions[handle]
        except KeyError:
            raise RecognizerError(f"no session {handle}") from None
