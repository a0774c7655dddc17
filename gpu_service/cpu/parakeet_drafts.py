"""Drafts: what a Parakeet session shows while an utterance is open, by two policies.

IncrementalDraft encodes, each time, the new frames and a look-ahead, with what the encoder keeps of
the frames before them: the cost does not grow with the utterance. WindowDraft encodes the whole
utterance again, up to a bound: dearer, and what an offline pass would say. Both keep the decoder's
state at the last committed frame and decode what lies behind it from a copy, which is thrown away:
no two token lists are ever merged. Neither has a part in finals.

Drafts know features and frames, no session, no words. Frames are encoder frames of 80 ms of the
mel stream's audio; tokens count from the utterance's start, `skip_frames` behind that.

Shapes: N frames, J width for the joint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..decoding.hotwords import HotwordTrie
from ..decoding.tdt import TdtDecoder
from ..decoding.tdt_state import TdtState
from ..decoding.tokens import Token
from ..parakeet_rules import (
    LEFT_FRAMES,
    LOOK_AHEAD_FRAMES,
    Piece,
    next_piece,
    window_commit,
    window_start,
)
from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from .parakeet_cache import EncoderCache
from .parakeet_encoder import ParakeetEncoder
from .parakeet_features import MelStream

Array = NDArray[np.float32]


@dataclass(slots=True)
class Search:
    """One utterance's greedy search: what is committed, and the state behind it."""

    decoder: TdtDecoder
    state: TdtState
    skip_frames: int = 0  # frames of context before the utterance
    hotwords: HotwordTrie | None = None
    tokens: list[Token] = field(default_factory=list)
    frame: int = field(init=False)  # the next one to decode for good

    def __post_init__(self) -> None:
        self.frame = self.skip_frames

    def commit(self, frames: Array, first_frame: int) -> None:
        """Decode for good what of (N, J) frames from `first_frame` on was not decoded yet."""
        new = frames[max(0, self.frame - first_frame) :]
        tokens, self.state = self._decode(new, self.frame)
        self.tokens += tokens
        self.frame += len(new)

    def with_draft(self, frames: Array, first_frame: int) -> list[Token]:
        """The committed tokens and those of the (N, J) frames behind them, to be shown."""
        new = frames[max(0, self.frame - first_frame) :]
        return [*self.tokens, *self._decode(new, max(self.frame, first_frame))[0]]

    def _decode(self, frames: Array, first_frame: int) -> tuple[list[Token], TdtState]:
        first = first_frame - self.skip_frames
        return self.decoder.decode(frames, self.state, first, self.hotwords)


@dataclass(frozen=True, slots=True)
class Increment:
    """What the encoder is given for one draft."""

    features: Array  # (T, F): the mel rows behind the committed frames
    num_commit: int


class IncrementalDraft:
    """Encodes new frames only, and commits those that have their look-ahead behind them.

    next_increment() says what to encode and take() what came of it: take_together() runs both for
    several sessions.
    """

    def __init__(
        self,
        encoder: ParakeetEncoder,
        search: Search,
        left_frames: int = LEFT_FRAMES,
        look_ahead_frames: int = LOOK_AHEAD_FRAMES,
    ) -> None:
        self.cache: EncoderCache = encoder.new_cache(left_frames)
        self._encoder = encoder
        self._search = search
        self._look_ahead_frames = look_ahead_frames

    def next_increment(self, mel: MelStream) -> Increment:
        """The last piece of what is new; pieces before it are encoded on the way."""
        while True:
            features = mel.features(SUBSAMPLING_FACTOR * self.cache.next_frame)
            piece = self._next_piece(mel)
            increment = Increment(features[: piece.num_rows], piece.num_commit)
            if piece.is_last:
                return increment
            frames = self._encoder.encode_chunk(self.cache, increment.features, piece.num_commit)
            self._commit(frames, increment)

    def _next_piece(self, mel: MelStream) -> Piece:
        return next_piece(
            self.cache.next_frame, mel.num_frames, mel.num_certain, self._look_ahead_frames
        )

    def take(self, frames: Array, increment: Increment) -> list[Token]:
        """The (N, J) frames of an increment that is in the cache by now, as tokens up to now."""
        self._commit(frames, increment)
        return self._search.with_draft(frames[increment.num_commit :], self.cache.next_frame)

    def _commit(self, frames: Array, increment: Increment) -> None:
        first = self.cache.next_frame - increment.num_commit
        if increment.num_commit:
            self._search.commit(frames[: increment.num_commit], first)


class WindowDraft:
    """Encodes the utterance again each time, and slides when it is longer than the window."""

    def __init__(self, encoder: ParakeetEncoder, search: Search, window_frames: int) -> None:
        self._encoder = encoder
        self._search = search
        self._window_frames = window_frames
        self._first_frame = 0  # where the window begins

    def tokens(self, mel: MelStream) -> list[Token]:
        """The utterance's tokens up to now."""
        features = mel.features(SUBSAMPLING_FACTOR * self._first_frame)
        frames = self._encoder.encode_exact(features)
        tokens = self._search.with_draft(frames, self._first_frame)
        num_commit = window_commit(len(frames), self._window_frames)
        if num_commit:
            self._search.commit(frames[:num_commit], self._first_frame)
            self._first_frame += window_start(num_commit, self._window_frames)
        return tokens


def take_together(
    encoder: ParakeetEncoder, drafts: Sequence[IncrementalDraft], mels: Sequence[MelStream]
) -> list[list[Token]]:
    """Each utterance's tokens up to now, in one run of the encoder: its weights are read once."""
    increments = [draft.next_increment(mel) for draft, mel in zip(drafts, mels, strict=True)]
    frames = encoder.encode_chunks(
        [draft.cache for draft in drafts],
        [increment.features for increment in increments],
        [increment.num_commit for increment in increments],
    )
    return [
        draft.take(one, increment)
        for draft, one, increment in zip(drafts, frames, increments, strict=True)
    ]
