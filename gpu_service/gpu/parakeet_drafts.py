"""Drafts on the device: what sessions show while their utterances are open, many at a time.

The two policies of cpu/parakeet_drafts.py, batched. Each draft encodes new frames behind the
committed ones (or a window), commits what has enough behind it, and decodes the rest into a state
that is thrown away. Encoder, commits and the rest are enqueued one behind the other; the host reads
tokens when all is done. What a draft's counters say is so on the device by the time it matters,
because everything there happens in this order. Neither policy has a part in finals.

Knows frames and tokens, no audio and no words. Frames are encoder frames of 80 ms of what the
session was given; tokens count from the utterance's start, skip_frames behind that.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..decoding.token_words import GrowingWords
from ..decoding.tokens import Token
from ..parakeet_rules import next_piece, window_commit, window_start
from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from .device import DeviceArray
from .encoder import Utterance
from .increments import Increment
from .parakeet_parts import Parts
from .parakeet_settings import GpuParakeetSettings
from .tdt import DecodeRow
from .tdt_results import Said, Ticket


@dataclass(slots=True, eq=False)
class Draft:
    """Where the drafts of one utterance stand."""

    words: GrowingWords
    slot: int
    skip_frames: int  # of context before the utterance
    state: int  # of the decoder behind the committed frames
    hotwords: int
    frame: int = field(init=False)  # the next one to decode for good
    first_frame: int = 0  # of the next increment or window

    def __post_init__(self) -> None:
        self.frame = self.skip_frames


class Drafting(Protocol):
    """A session with a draft (parakeet_sessions.GpuSession)."""

    draft: Draft | None

    @property
    def num_rows(self) -> int: ...

    @property
    def num_certain(self) -> int: ...


class Part(NamedTuple):
    """What one run of the encoder does for a draft."""

    draft: Draft
    first_frame: int  # of what is encoded
    num_rows_end: int  # mel rows up to here
    num_commit: int  # frames
    is_last: bool

    @property
    def num_frames(self) -> int:
        """Encoded."""
        return -(-self.num_rows_end // SUBSAMPLING_FACTOR) - self.first_frame


class _Decoding(NamedTuple):
    """A launch of the decoder: whose rows, and what their first frames are."""

    ticket: Ticket
    drafts: list[Draft]
    frames: list[int]
    is_commit: bool


class DraftRun:
    """The drafts of one step."""

    def __init__(self, parts: Parts, settings: GpuParakeetSettings) -> None:
        self._parts = parts
        self._settings = settings
        self._decodings: list[_Decoding] = []
        self._said: list[Said] = []  # by each of them
        self._is_window = settings.draft == "window"
        self._bucket_frames = functools.cache(settings.draft_frames)

    def enqueue(self, sessions: Iterable[Drafting]) -> None:
        """Enqueue a draft of each. Those with much that is new take several rounds."""
        waiting = list(sessions)
        while waiting:
            behind = []
            groups: dict[int, list[Part]] = defaultdict(list)
            for session in waiting:
                assert session.draft is not None
                part = self._next(session.draft, session)
                groups[self._bucket_frames(part.num_frames)].append(part)
                if not part.is_last:
                    behind.append(session)
            for bucket_frames, parts in groups.items():
                for group in _chunks(parts, self._settings.most_drafts(bucket_frames)):
                    self._decode(self._encode(group, bucket_frames), group)
            waiting = behind

    def collect(self) -> None:
        """Read what was said: the device has come past what was enqueued, and may go on."""
        self._said = [self._parts.decoder.read(decoding.ticket) for decoding in self._decodings]

    def results(self) -> dict[Draft, list[Token]]:
        """The tokens behind the committed ones of each draft, which now has those of this step.

        Once, behind collect().
        """
        shown: dict[Draft, list[Token]] = {}
        for decoding, said in zip(self._decodings, self._said, strict=True):
            skipped = [draft.skip_frames for draft in decoding.drafts]
            rows = said.tokens(list(map(operator.sub, decoding.frames, skipped)))
            if decoding.is_commit:
                for draft, committed in zip(decoding.drafts, rows, strict=True):
                    draft.words.commit(committed)
            else:
                shown.update(zip(decoding.drafts, rows, strict=True))
        return shown

    # -- what is next ----------------------------------------------------------------------

    def _next(self, draft: Draft, session: Drafting) -> Part:
        return (self._next_window if self._is_window else self._next_increment)(draft, session)

    def _next_increment(self, draft: Draft, session: Drafting) -> Part:
        first = draft.first_frame
        piece = next_piece(
            first, session.num_rows, session.num_certain, self._settings.look_ahead_frames
        )
        draft.first_frame += piece.num_commit
        num_rows_end = SUBSAMPLING_FACTOR * first + piece.num_rows
        return Part(draft, first, num_rows_end, piece.num_commit, piece.is_last)

    def _next_window(self, draft: Draft, session: Drafting) -> Part:
        first = draft.first_frame
        part = Part(draft, first, session.num_rows, 0, is_last=True)
        num_commit = window_commit(part.num_frames, self._settings.window_frames)
        if num_commit:
            draft.first_frame += window_start(num_commit, self._settings.window_frames)
        return part._replace(num_commit=num_commit)

    # -- the device's part -----------------------------------------------------------------

    def _encode(self, group: Sequence[Part], bucket_frames: int) -> DeviceArray:
        encode = self._encode_windows if self._is_window else self._encode_increments
        return encode(group, bucket_frames)

    def _encode_increments(self, group: Sequence[Part], bucket_frames: int) -> DeviceArray:
        bucket = self._settings.draft_bucket(bucket_frames, len(group))
        return self._parts.increments.encode(
            bucket,
            [Increment(p.draft.slot, p.first_frame, p.num_rows_end, p.num_commit) for p in group],
        )

    def _encode_windows(self, group: Sequence[Part], bucket_frames: int) -> DeviceArray:
        bucket = self._settings.draft_bucket(bucket_frames, len(group))
        return self._parts.window_encoder.encode(
            bucket,
            [
                Utterance(p.draft.slot, p.num_rows_end, SUBSAMPLING_FACTOR * p.first_frame)
                for p in group
            ],
        )

    def _decode(self, frames: DeviceArray, group: Sequence[Part]) -> None:
        """Commit, then decode what lies behind it to be shown."""
        self._enqueue(frames, list(self._commits(group)), is_commit=True)
        self._enqueue(frames, list(self._looks_ahead(group)), is_commit=False)

    def _commits(self, group: Sequence[Part]) -> Iterator[tuple[Draft, int, DecodeRow]]:
        """Draft, absolute first frame and row of those that commit."""
        for index, (draft, first_frame, _, num_commit, _) in enumerate(group):
            start = draft.frame - first_frame
            count = num_commit - start
            if count <= 0:
                continue  # nothing, or context before the utterance only
            own = self._parts.own_state(draft.slot)
            row = DecodeRow(index, start, count, draft.state, own, draft.hotwords)
            yield draft, draft.frame, row
            draft.state = own
            draft.frame += count

    def _looks_ahead(self, group: Sequence[Part]) -> Iterator[tuple[Draft, int, DecodeRow]]:
        """The same of those that show what lies behind."""
        for index, part in enumerate(group):
            draft = part.draft
            start = draft.frame - part.first_frame
            count = part.num_frames - start
            if not part.is_last or count <= 0:
                continue
            scratch = self._parts.decoder.scratch(index)
            row = DecodeRow(index, start, count, draft.state, scratch, draft.hotwords)
            yield draft, draft.frame, row

    def _enqueue(
        self, frames: DeviceArray, rows: list[tuple[Draft, int, DecodeRow]], *, is_commit: bool
    ) -> None:
        if not rows:
            return
        drafts, firsts, decode_rows = map(list, zip(*rows, strict=True))
        ticket = self._parts.decoder.enqueue(frames, decode_rows)
        self._decodings.append(_Decoding(ticket, drafts, firsts, is_commit))


def _chunks(parts: list[Part], size: int) -> Iterator[list[Part]]:
    for start in range(0, len(parts), size):
        yield parts[start : start + size]
