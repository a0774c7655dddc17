"""ParakeetRecognizer: Parakeet-TDT on the CPU, by ONNX Runtime and the host decoder.

A final is one offline pass over the utterance: features, encoder, greedy search, all from its first
frame, so it equals what the model says of that audio offline. An utterance that was cut because it
grew too long is decoded with the audio on both sides of the cut, and the next one goes on from the
decoder's state there: the last token, the LSTM, and what the last duration runs over the cut. What
lies between two cuts is decoded once; nothing is decoded twice and merged. Drafts:
parakeet_drafts.py.

Finals run one at a time, so that no batch can change a bit of them; drafts of several sessions
share a run of the encoder, which has 2.4 GB of weights to read at full size. It knows no ring, no
VAD and no clock; the service's engine calls it from one thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..decoding.tdt import TdtDecoder
from ..decoding.tdt_state import TdtState, TdtStateError
from ..decoding.tokens import FRAME_SAMPLES, Token
from ..errors import RecognizerError
from ..parakeet_rules import CUT_RULE as CUT_RULE
from ..parakeet_rules import SHORTEST_SAMPLES, ParakeetRules
from ..parakeet_text import ParakeetText
from ..recognizer import Progress, SessionOptions, StepInput, Want, no_progress
from ..weights.parakeet_checkpoint import ParakeetCheckpoint, load_checkpoint
from ..words import SAMPLE_RATE_HZ, Hypothesis
from .parakeet_drafts import IncrementalDraft, Search, WindowDraft, take_together
from .parakeet_encoder import open_encoder
from .parakeet_features import mel_bank, window
from .parakeet_session import ParakeetSession

log = logging.getLogger("earwire.service")

MAX_DRAFT_BATCH = 8
WARM_UP_SAMPLES = 2 * SAMPLE_RATE_HZ
NO_SAMPLES = np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class ParakeetSettings(ParakeetRules):
    """How a server runs the model on the CPU."""

    num_threads: int = 2


class ParakeetRecognizer:
    """The Recognizer (recognizer.py) of Parakeet-TDT models."""

    def __init__(
        self, model: str | ParakeetCheckpoint, settings: ParakeetSettings | None = None
    ) -> None:
        """Load a folder, a .nemo file or a hub id. Raises ModelError."""
        self.settings = settings or ParakeetSettings()
        checkpoint = load_checkpoint(model) if isinstance(model, str) else model
        self.model_id = checkpoint.model_id
        self.languages: tuple[str, ...] = ()  # it hears which one is spoken and can not be told
        self.max_utterance_samples = self.settings.max_samples
        self.cut_rule = CUT_RULE
        self.max_parallel = 1
        self.max_draft_batch = MAX_DRAFT_BATCH
        checkpoint.check_front_end(window(), mel_bank())
        if checkpoint.vocabulary is None:
            log.warning("%s has no tokenizer: its text is token ids", self.model_id)
        self._text = ParakeetText(
            self.model_id, checkpoint.vocabulary, self.settings.hotword_weight
        )
        self._encoder, decoder = open_encoder(
            checkpoint, self.settings.max_frames, self.settings.num_threads
        )
        self._decoder = TdtDecoder(decoder)
        self._sessions: dict[int, ParakeetSession] = {}
        self._next_handle = 1

    def open(self, options: SessionOptions) -> int:
        """See Recognizer.open. Raises RecognizerError for hotwords that it can not spell."""
        self._text.check_task(options)
        session = ParakeetSession(self.max_utterance_samples, self._text.hotwords(options.hotwords))
        handle = self._next_handle
        self._next_handle += 1
        self._sessions[handle] = session
        return handle

    def close(self, handle: int) -> None:
        """See Recognizer.close."""
        if self._sessions.pop(handle, None) is None:
            raise RecognizerError(f"no session {handle}")

    def step(
        self, batch: Sequence[StepInput], progress: Progress = no_progress
    ) -> list[Hypothesis | None]:
        """See Recognizer.step."""
        sessions = [self._session(item.handle) for item in batch]
        for session, item in zip(sessions, batch, strict=True):
            session.take(item)
        drafts = [
            session
            for session, item in zip(sessions, batch, strict=True)
            if item.want is Want.DRAFT and session.mel.num_samples >= SHORTEST_SAMPLES
        ]
        shown = dict(zip(map(id, drafts), self._drafts(drafts), strict=True))
        answers = []
        for session, item in zip(sessions, batch, strict=True):
            progress()
            answers.append(self._answer(session, item, shown.get(id(session), [])))
        return answers

    def warm_up(self) -> None:
        """See Recognizer.warm_up."""
        handle = self.open(SessionOptions())
        ramp = (np.arange(WARM_UP_SAMPLES) % 160 * 100).astype(np.int16)  # a 100 Hz sawtooth
        self.step([StepInput(handle, ramp, Want.DRAFT)])
        self.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
        self.close(handle)

    def _session(self, handle: int) -> ParakeetSession:
        try:
            return self._sessions[handle]
        except KeyError:
            raise RecognizerError(f"no session {handle}") from None

    def _answer(
        self, session: ParakeetSession, item: StepInput, shown: list[Token]
    ) -> Hypothesis | None:
        if item.want is Want.NOTHING:
            return None
        if item.want is Want.DRAFT:
            return self._text.draft(shown, session.num_samples)
        # A candidate is of all samples: at a cut those behind it would be in it, and no carry.
        known = None if item.right_samples else session.candidate
        hypothesis = session.candidate = known or self._final(session, item.right_samples)
        if item.want is Want.FINAL:
            session.reset()
        return hypothesis

    # -- finals ----------------------------------------------------------------------------

    def _final(self, session: ParakeetSession, right_samples: int) -> Hypothesis:
        """One pass over the utterance: a function of its samples, options and carry alone."""
        num_samples = session.num_samples - right_samples
        if num_samples <= 0:
            return Hypothesis((), "", max(0, num_samples), is_final=True)
        search = self._search(session)
        frames = self._encoder.encode_exact(session.features())
        if not right_samples:
            search.commit(frames, 0)
            return self._text.final(search.tokens, num_samples)
        end = session.skip_frames + num_samples // FRAME_SAMPLES
        search.commit(frames[:end], 0)
        return self._text.final(search.tokens, num_samples, search.state.to_bytes())

    def _search(self, session: ParakeetSession) -> Search:
        state = self._start(session)
        return Search(self._decoder, state, session.skip_frames, session.hotwords)

    def _start(self, session: ParakeetSession) -> TdtState:
        if session.carry:
            # One of another model, which a server was restarted with, is none: begin anew.
            with contextlib.suppress(TdtStateError):
                return self._decoder.restore(session.carry, session.hotwords)
        return self._decoder.start()

    # -- drafts ----------------------------------------------------------------------------

    def _drafts(self, sessions: Sequence[ParakeetSession]) -> list[list[Token]]:
        drafts = [self._draft(session) for session in sessions]
        mels = [session.mel for session in sessions]
        windows = [draft for draft in drafts if isinstance(draft, WindowDraft)]
        if windows:  # the settings make all drafts of one kind
            return [draft.tokens(mel) for draft, mel in zip(windows, mels, strict=True)]
        incremental = [draft for draft in drafts if isinstance(draft, IncrementalDraft)]
        return take_together(self._encoder, incremental, mels)

    def _draft(self, session: ParakeetSession) -> IncrementalDraft | WindowDraft:
        if session.draft is None:
            search, settings = self._search(session), self.settings
            session.draft = (
                IncrementalDraft(
                    self._encoder, search, settings.left_frames, settings.look_ahead_frames
                )
                if settings.draft == "incremental"
                else WindowDraft(self._encoder, search, settings.window_frames)
            )
        return session.draft
