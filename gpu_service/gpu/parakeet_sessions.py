"""Sessions of the GPU recognizer: which slot of the device is whose, and what the host knows of it.

A slot is a place in everything that lies on the device: audio, mel rows and their statistics, the
encoder's caches, two decoder states, hotwords. It is given again when its session is closed; the
device forgets by being told a length of zero. All of this changes when a step is begun, in the
order of the device's stream, and not when its results come.

Knows counts of samples, no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..cpu.parakeet_features import HOP_SAMPLES
from ..decoding.tokens import FRAME_SAMPLES
from ..parakeet_rules import SHORTEST_SAMPLES, check_context
from ..recognizer import StepInput, check_length
from ..words import Hypothesis
from .features import FeatureStore
from .parakeet_audio import HostAudio
from .parakeet_drafts import Draft
from .slot_audio import UNCERTAIN_SAMPLES
from .tdt import NO_HOTWORDS

Samples = NDArray[np.int16]
NO_SAMPLES: Samples = np.zeros(0, np.int16)


@dataclass(slots=True, eq=False)
class GpuSession:
    """One stream's open utterance."""

    slot: int
    max_samples: int  # of an utterance, context included
    hotwords: int = NO_HOTWORDS  # the place of its trie
    num_nodes: int = 1  # of that trie
    num_taken: int = 0  # samples of the utterance and of the context around it
    held: Samples = field(default_factory=lambda: NO_SAMPLES)  # too few for the device yet
    left_samples: int = 0  # context before the utterance
    carry: bytes = b""  # the decoder's state at the cut where it begins
    candidate: Hypothesis | None = None  # of exactly the samples taken
    draft: Draft | None = None

    @property
    def num_samples(self) -> int:
        """Of the utterance so far, without its context before."""
        return max(0, self.num_taken - self.left_samples)

    @property
    def skip_frames(self) -> int:
        """Encoder frames of the context before the utterance."""
        return self.left_samples // FRAME_SAMPLES

    @property
    def num_rows(self) -> int:
        """Mel rows up to now, the last one as if the audio ended here."""
        return self.num_taken // HOP_SAMPLES

    @property
    def num_certain(self) -> int:
        """Mel rows that no later sample can change."""
        return max(0, self.num_taken - UNCERTAIN_SAMPLES) // HOP_SAMPLES

    @property
    def is_short(self) -> bool:
        """Too short for statistics: nothing of it is on the device."""
        return self.num_taken < SHORTEST_SAMPLES

    def check(self, item: StepInput) -> None:
        """Raises RecognizerError for a step that take() must not see."""
        if self.num_taken == 0:
            check_context(item.left_samples)
        check_length(self.num_taken + len(item.samples), self.max_samples)

    def take(self, item: StepInput, audio: HostAudio) -> None:
        """Take the samples of a step that was checked."""
        if self.num_taken == 0:
            self.left_samples, self.carry = item.left_samples, item.carry
        if len(item.samples) == 0:
            return
        self.num_taken += len(item.samples)
        self.candidate = None
        if self.is_short:
            self.held = np.concatenate([self.held, item.samples])
            return
        if len(self.held):
            audio.add(self.slot, self.held)
            self.held = NO_SAMPLES
        audio.add(self.slot, item.samples)

    def padded(self) -> Samples:
        """(SHORTEST_SAMPLES,) what is held, with silence behind it."""
        padded = np.zeros(SHORTEST_SAMPLES, np.int16)
        padded[: len(self.held)] = self.held
        return padded

    def reset(self, store: FeatureStore) -> None:
        """Forget the utterance."""
        store.reset(self.slot)
        self.num_taken = 0
        self.held = NO_SAMPLES
        self.left_samples, self.carry = 0, b""
        self.candidate = self.draft = None
