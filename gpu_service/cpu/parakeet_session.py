"""One stream's open utterance, as the Parakeet recognizer keeps it: features, not audio.

The mel stream gives the same bits for the same samples in any pieces, and a session's samples are
those of one utterance: the context before it where it goes on behind a cut, itself, and at a cut
the context behind it. It knows where those begin and end in encoder frames, and no model.

Shapes: T mel rows of 10 ms, F mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..decoding.hotwords import HotwordTrie
from ..decoding.tokens import FRAME_SAMPLES
from ..parakeet_rules import SHORTEST_SAMPLES, check_context
from ..recognizer import StepInput, check_length
from ..words import Hypothesis
from .parakeet_drafts import IncrementalDraft, WindowDraft
from .parakeet_features import MelStream, log_mel_features

Samples = NDArray[np.int16]


@dataclass(slots=True)
class ParakeetSession:
    """See the module text. `max_samples`: context included."""

    max_samples: int
    hotwords: HotwordTrie | None = None
    mel: MelStream = field(default_factory=MelStream)
    beginning: Samples = field(default_factory=lambda: np.zeros(0, np.int16))
    left_samples: int = 0  # context before the utterance
    carry: bytes = b""  # the decoder's state at the cut where it begins
    candidate: Hypothesis | None = None  # of exactly the samples taken
    draft: IncrementalDraft | WindowDraft | None = None

    @property
    def num_samples(self) -> int:
        """Of the utterance so far, without its context before."""
        return max(0, self.mel.num_samples - self.left_samples)

    @property
    def skip_frames(self) -> int:
        """Encoder frames of the context before the utterance."""
        return self.left_samples // FRAME_SAMPLES

    def take(self, item: StepInput) -> None:
        """Take the samples of a step. Raises RecognizerError beyond the longest utterance."""
        if self.mel.num_samples == 0:
            check_context(item.left_samples)
            self.left_samples, self.carry = item.left_samples, item.carry
        if len(item.samples) == 0:
            return
        total = self.mel.num_samples + len(item.samples)
        check_length(total, self.max_samples)
        if len(self.beginning) < SHORTEST_SAMPLES:
            missing = SHORTEST_SAMPLES - len(self.beginning)
            self.beginning = np.concatenate([self.beginning, item.samples[:missing]])
        self.mel.append(item.samples)
        self.candidate = None

    def features(self) -> NDArray[np.float32]:
        """(T, F) of everything taken, as if the audio ended here."""
        if self.mel.num_samples >= SHORTEST_SAMPLES:
            return self.mel.features()
        padded = np.zeros(SHORTEST_SAMPLES, np.int16)
        padded[: len(self.beginning)] = self.beginning
        return log_mel_features(padded)

    def reset(self) -> None:
        """Forget the utterance."""
        self.mel = MelStream()
        self.beginning = np.zeros(0, np.int16)
        self.left_samples, self.carry = 0, b""
        self.candidate = self.draft = None
