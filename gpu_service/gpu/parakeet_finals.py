"""Finals and candidates on the device: one offline pass over each whole utterance.

Utterances are encoded in batches of one size, whose missing rows stay empty, over a number of
frames that goes by each one's length alone: so no company can change a bit. Where a step has
several batches their frames are gathered, and all of them are decoded together.

Knows slots and frames, no audio and no words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..decoding.tokens import Token
from .device import DeviceArray
from .encoder import Utterance
from .encoder_layers import Bucket
from .parakeet_parts import Parts
from .parakeet_settings import GpuParakeetSettings
from .tdt import DecodeRow
from .tdt_results import Said, Ticket


class FinalJob(NamedTuple):
    """What to decode of a slot."""

    slot: int
    num_rows: int  # mel rows of all its audio
    skip_frames: int  # context before the utterance
    num_frames: int | None  # of the utterance, where it ends at a cut; None: all behind the context
    state: int  # of the decoder at its start
    hotwords: int

    @property
    def utterance(self) -> Utterance:
        """All of it, context included."""
        return Utterance(self.slot, self.num_rows)

    def row(self, index: int, final_state: int) -> DecodeRow:
        """How the decoder passes its frames, which are those of row `index` of a batch."""
        most = max(0, self.utterance.num_frames - self.skip_frames)
        count = most if self.num_frames is None else min(most, self.num_frames)
        first = self.skip_frames if count else 0
        return DecodeRow(index, first, count, self.state, final_state, self.hotwords)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What came of a job."""

    tokens: list[Token]
    carry: bytes  # the decoder's state behind an utterance that ends at a cut


@dataclass(slots=True)
class FinalRun:
    """The finals of one step."""

    parts: Parts
    settings: GpuParakeetSettings
    _jobs: list[FinalJob] = field(default_factory=list)  # in the order they are decoded in
    _ticket: Ticket | None = None
    _said: Said | None = None
    _carries: dict[int, bytes] = field(default_factory=dict)  # by slot

    def enqueue(self, jobs: Sequence[FinalJob]) -> None:
        """Enqueue at most max_finals jobs, of different slots."""
        groups: dict[Bucket, list[FinalJob]] = defaultdict(list)
        for job in jobs:
            groups[self.settings.final_bucket(job.utterance.num_frames)].append(job)
        size = self.settings.final_batch
        batches = [
            (bucket, group[start : start + size])
            for bucket, group in groups.items()
            for start in range(0, len(group), size)
        ]
        self._jobs = [job for _, batch in batches for job in batch]
        if self._jobs:
            frames = self._encode(batches)
            rows = [
                job.row(index, self.parts.final_state(index))
                for index, job in enumerate(self._jobs)
            ]
            self._ticket = self.parts.decoder.enqueue(frames, rows)

    def collect(self) -> None:
        """Read everything: the device has come past what was enqueued, and may go on."""
        if self._ticket is None:
            return
        self._said = self.parts.decoder.read(self._ticket)
        for index, job in enumerate(self._jobs):
            if job.num_frames is not None:
                state = self.parts.decoder.get_state(self.parts.final_state(index))
                self._carries[job.slot] = state.to_bytes()

    def results(self) -> dict[int, FinalAnswer]:
        """What came of each slot's job, behind collect()."""
        if self._said is None:
            return {}
        rows = self._said.tokens([0] * len(self._jobs))
        return {
            job.slot: FinalAnswer(tokens, self._carries.get(job.slot, b""))
            for job, tokens in zip(self._jobs, rows, strict=True)
        }

    def _encode(self, batches: Sequence[tuple[Bucket, list[FinalJob]]]) -> DeviceArray:
        """Frames (jobs, N, J), row i of which is job i's."""
        encode, gathered = self.parts.encoder.encode, self.parts.gathered
        if len(batches) == 1:
            ((bucket, jobs),) = batches
            return encode(bucket, [job.utterance for job in jobs])
        place = 0
        for bucket, jobs in batches:
            frames = encode(bucket, [job.utterance for job in jobs])
            for index, job in enumerate(jobs):
                count = job.utterance.num_frames
                source = frames.at(index).rows(0, count)
                self.parts.device.copy(gathered.at(place).rows(0, count), source)
                place += 1
        return gathered
