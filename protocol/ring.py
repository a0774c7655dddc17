"""The audio arena: one ring of 16-bit samples per session slot, over any memoryview.

One worker writes, services read, in different processes. There is no shared cursor: the writer
announces positions in SAMPLES records and the reader trusts them, so the socket between the two
orders the memory. Positions count ring samples from the start of the stream and never wrap; the
ring index is `position % ring_samples`.

Services write one thing: how many recognition steps began and ended with a slot's stream. The
count is odd while one runs, so that a dead service leaves behind what it was at when it died.

Behind each ring there may be the slot's journal (journal.py), which is the worker's alone: what
its successor has to know if it dies.

    byte    0        8        12       16       20       24       28       32
          +--------+--------+--------+--------+--------+--------+--------+--------+----------
        0 | magic "EWARENA1"| version| slots  | ring_samples    | journal_bytes   | zero ...
          +--------+--------+--------+--------+--------+--------+--------+--------+----------
     4096 | step counts: a u32 a slot, padded to a page
          +-----------------------------------------------------------------
          | slot 0: ring_samples x s16le, padded to a page
          |         journal_bytes, whole pages
          +-----------------------------------------------------------------
          | slot 1 ...
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .audio import RING_SAMPLE_BYTES

ARENA_MAGIC = b"EWARENA1"
ARENA_VERSION = 3
PAGE_BYTES = 4096
MAX_SLOTS = 65_536
MAX_RING_SAMPLES = 600 * 16_000
MAX_JOURNAL_BYTES = 16 * 1024 * 1024
STEP_COUNT_BYTES = 4
MAX_STEP_COUNT = 2**32 - 1  # then it begins at 0 again
_HEADER = struct.Struct("<8sIIQQ")


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Where each slot's ring and journal lie. Raises ValueError for sizes outside the limits."""

    num_slots: int
    ring_samples: int
    journal_bytes: int = 0  # of each slot; 0: none has one

    def __post_init__(self) -> None:
        if not 1 <= self.num_slots <= MAX_SLOTS:
            raise ValueError(f"{self.num_slots} slots; 1 to {MAX_SLOTS} are possible")
        if not 1 <= self.ring_samples <= MAX_RING_SAMPLES:
            raise ValueError(f"ring of {self.ring_samples} samples; at most {MAX_RING_SAMPLES}")
        if self.journal_bytes % PAGE_BYTES or not 0 <= self.journal_bytes <= MAX_JOURNAL_BYTES:
            raise ValueError(
                f"journal of {self.journal_bytes} bytes; whole pages, at most {MAX_JOURNAL_BYTES}"
            )

    @property
    def slot_bytes(self) -> int:
        """Distance between two slots: the ring, rounded up to whole pages, and the journal."""
        return self._ring_bytes + self.journal_bytes

    @property
    def _ring_bytes(self) -> int:
        return -(-self.ring_samples * RING_SAMPLE_BYTES // PAGE_BYTES) * PAGE_BYTES

    @property
    def rings_offset(self) -> int:
        """Where the first slot's ring begins: behind the header and the step counts."""
        return PAGE_BYTES - (-self.num_slots * STEP_COUNT_BYTES // PAGE_BYTES) * PAGE_BYTES

    @property
    def size_bytes(self) -> int:
        """The whole arena."""
        return self.rings_offset + self.num_slots * self.slot_bytes

    def write_header(self, view: memoryview) -> None:
        """Describe this layout in the arena's first page."""
        fields = self.num_slots, self.ring_samples, self.journal_bytes
        _HEADER.pack_into(view, 0, ARENA_MAGIC, ARENA_VERSION, *fields)

    @classmethod
    def from_header(cls, view: memoryview) -> ArenaLayout:
        """The layout an arena declares; raises ValueError when it does not fit the view."""
        if len(view) < PAGE_BYTES:
            raise ValueError(f"a view of {len(view)} bytes holds no arena header")
        magic, version, *fields = _HEADER.unpack_from(view, 0)
        if magic != ARENA_MAGIC or version != ARENA_VERSION:
            raise ValueError(f"not an arena of version {ARENA_VERSION}: {magic!r} {version}")
        layout = cls(*fields)
        if layout.size_bytes > len(view):
            raise ValueError(f"arena of {layout.size_bytes} bytes in a view of {len(view)}")
        return layout

    def step_counts(self, view: memoryview) -> memoryview:
        """The count of each slot, in place."""
        end = PAGE_BYTES + self.num_slots * STEP_COUNT_BYTES
        return view.cast("B")[PAGE_BYTES:end].cast("I")

    def ring(self, view: memoryview, slot: int) -> Ring:
        """The ring of one slot."""
        start = self._slot_offset(slot)
        return Ring(view[start : start + self.ring_samples * RING_SAMPLE_BYTES])

    def journal(self, view: memoryview, slot: int) -> memoryview:
        """The journal of one slot, in place; empty when slots have none."""
        start = self._slot_offset(slot) + self._ring_bytes
        return view[start : start + self.journal_bytes]

    def _slot_offset(self, slot: int) -> int:
        if not 0 <= slot < self.num_slots:
            raise IndexError(f"slot {slot} of {self.num_slots}")
        return self.rings_offset + slot * self.slot_bytes


class Ring:
    """One slot's samples. Neither side checks the other: the credit protocol keeps the writer
    behind what the reader still needs, and (slot, generation) keeps streams apart."""

    __slots__ = ("num_samples", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view.cast("B")
        self.num_samples = len(self.view) // RING_SAMPLE_BYTES

    def write(self, first_sample: int, pcm: bytes | bytearray | memoryview) -> None:
        """Put whole s16le samples at `first_sample`; wraps at most once.

        Raises ValueError when they are more than the ring holds.
        """
        num_bytes = len(pcm)
        size = self.num_samples * RING_SAMPLE_BYTES
        if num_bytes > size:
            raise ValueError(f"{num_bytes} bytes into a ring of {size}")
        start = first_sample % self.num_samples * RING_SAMPLE_BYTES
        end = start + num_bytes
        if end <= size:
            self.view[start:end] = pcm
            return
        head = size - start
        source = memoryview(pcm)
        self.view[start:size] = source[:head]
        self.view[: num_bytes - head] = source[head:]

    def segments(self, first_sample: int, count: int) -> tuple[memoryview, memoryview]:
        """The bytes of [first, first + count) in place: one view, and a second where it wraps.

        Raises ValueError when the range is longer than the ring.
        """
        if not 0 <= count <= self.num_samples:
            raise ValueError(f"{count} samples from a ring of {self.num_samples}")
        start = first_sample % self.num_samples * RING_SAMPLE_BYTES
        end = start + count * RING_SAMPLE_BYTES
        size = self.num_samples * RING_SAMPLE_BYTES
        return self.view[start : min(end, size)], self.view[: max(0, end - size)]

    def read(self, first_sample: int, count: int) -> bytes:
        """A copy of [first, first + count)."""
        head, tail = self.segments(first_sample, count)
        return bytes(head) + bytes(tail)
