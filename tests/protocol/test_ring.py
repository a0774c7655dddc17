"""ring.py: a ring behaves as a stream of which the last `num_samples` can be read, slots never
touch, and a hostile header is refused before anything is sliced with it.

The last test is the claim that the whole audio path rests on: one process writes, another reads
what was announced to it over a pipe, and every sample is the right one.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ring import (
    ARENA_MAGIC,
    ARENA_VERSION,
    MAX_JOURNAL_BYTES,
    MAX_RING_SAMPLES,
    MAX_SLOTS,
    PAGE_BYTES,
    ArenaLayout,
    Ring,
)

HEADER = struct.Struct("<8sIIQQ")


def ring_of(num_samples: int) -> Ring:
    return Ring(memoryview(bytearray(2 * num_samples)))


def s16(first: int, count: int) -> bytes:
    return b"".join((i & 0xFFFF).to_bytes(2, "little") for i in range(first, first + count))


def arena(layout: ArenaLayout) -> memoryview:
    view = memoryview(bytearray(layout.size_bytes))
    layout.write_header(view)
    return view


@pytest.mark.parametrize("num_slots", [0, -1, MAX_SLOTS + 1])
def test_a_slot_count_outside_the_limits_is_refused(num_slots: int) -> None:
    with pytest.raises(ValueError, match=f"{num_slots} slots"):
        ArenaLayout(num_slots, 100)


@pytest.mark.parametrize("ring_samples", [0, -1, MAX_RING_SAMPLES + 1])
def test_a_ring_outside_the_limits_is_refused(ring_samples: int) -> None:
    with pytest.raises(ValueError, match=f"ring of {ring_samples} samples"):
        ArenaLayout(1, ring_samples)


@pytest.mark.parametrize("journal_bytes", [-PAGE_BYTES, 1, MAX_JOURNAL_BYTES + PAGE_BYTES])
def test_a_journal_outside_the_limits_is_refused(journal_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"journal of {journal_bytes} bytes"):
        ArenaLayout(1, 100, journal_bytes)


@given(st.integers(1, MAX_SLOTS), st.integers(1, MAX_RING_SAMPLES), st.integers(0, 64))
def test_slots_are_whole_pages_behind_header_and_step_counts(
    num_slots: int, ring_samples: int, journal_pages: int
) -> None:
    layout = ArenaLayout(num_slots, ring_samples, journal_pages * PAGE_BYTES)
    assert layout.slot_bytes % PAGE_BYTES == 0
    assert 0 <= layout.slot_bytes - layout.journal_bytes - 2 * ring_samples < PAGE_BYTES
    assert layout.rings_offset % PAGE_BYTES == 0
    assert 0 <= layout.rings_offset - PAGE_BYTES - 4 * num_slots < PAGE_BYTES
    assert layout.size_bytes == layout.rings_offset + num_slots * layout.slot_bytes


@given(st.integers(1, 6), st.integers(1, 5_000), st.integers(0, 2))
def test_slots_never_overlap(num_slots: int, ring_samples: int, journal_pages: int) -> None:
    layout = ArenaLayout(num_slots, ring_samples, journal_pages * PAGE_BYTES)
    view = arena(layout)
    for slot in range(num_slots):
        layout.ring(view, slot).write(0, bytes([slot + 1]) * (2 * ring_samples))
        journal = layout.journal(view, slot)
        journal[:] = bytes([slot + 101]) * layout.journal_bytes
    for slot in range(num_slots):
        assert set(layout.journal(view, slot)) <= {slot + 101}
        assert len(layout.journal(view, slot)) == journal_pages * PAGE_BYTES
        assert layout.ring(view, slot).read(0, ring_samples) == bytes([slot + 1]) * (
            2 * ring_samples
        )
    assert ArenaLayout.from_header(view) == layout, "and none reaches into the header"


@pytest.mark.parametrize("num_slots", [1, 1_023, 1_024, 1_025])
def test_every_slot_has_a_step_count_of_its_own(num_slots: int) -> None:
    layout = ArenaLayout(num_slots, 1)
    view = arena(layout)
    counts = layout.step_counts(view)
    assert len(counts) == num_slots
    for slot in range(num_slots):
        counts[slot] = 2**32 - 1 - slot
    assert ArenaLayout.from_header(view) == layout
    assert not any(view[layout.rings_offset :])
    assert list(layout.step_counts(view)) == [2**32 - 1 - slot for slot in range(num_slots)]


@pytest.mark.parametrize("slot", [-1, 3, 1_000])
def test_a_slot_outside_the_arena_is_refused(slot: int) -> None:
    layout = ArenaLayout(3, 100)
    with pytest.raises(IndexError, match=f"slot {slot} of 3"):
        layout.ring(arena(layout), slot)
    with pytest.raises(IndexError, match=f"slot {slot} of 3"):
        layout.journal(arena(layout), slot)


def test_the_header_is_the_one_of_the_diagram() -> None:
    view = arena(ArenaLayout(3, 0x0102, 0x3000))
    assert bytes(view[:32]).hex(" ") == (
        "45 57 41 52 45 4e 41 31 03 00 00 00 03 00 00 00 02 01 00 00 00 00 00 00 "
        "00 30 00 00 00 00 00 00"
    )
    assert not any(view[32:PAGE_BYTES])


def hostile(
    magic: bytes, version: int, slots: int, ring_samples: int, size: int, journal_bytes: int = 0
) -> memoryview:
    view = memoryview(bytearray(size))
    HEADER.pack_into(view, 0, magic, version, slots, ring_samples, journal_bytes)
    return view


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (memoryview(b""), "a view of 0 bytes"),
        (memoryview(bytes(PAGE_BYTES - 1)), "a view of 4095 bytes"),
        (memoryview(bytes(2 * PAGE_BYTES)), "not an arena of version 3"),
        (hostile(b"EWARENA2", ARENA_VERSION, 1, 1, 2 * PAGE_BYTES), "not an arena"),
        (hostile(ARENA_MAGIC, 2, 1, 1, 2 * PAGE_BYTES), "not an arena"),
        (hostile(ARENA_MAGIC, 3, 0, 1, 2 * PAGE_BYTES), "0 slots"),
        (hostile(ARENA_MAGIC, 3, 2**32 - 1, 1, 2 * PAGE_BYTES), "4294967295 slots"),
        (hostile(ARENA_MAGIC, 3, 1, 0, 2 * PAGE_BYTES), "ring of 0 samples"),
        (hostile(ARENA_MAGIC, 3, 1, 2**64 - 1, 2 * PAGE_BYTES), "ring of 1844"),
        (hostile(ARENA_MAGIC, 3, 2, 1, 2 * PAGE_BYTES), "arena of 16384 bytes in a view of 8192"),
        (hostile(ARENA_MAGIC, 3, 1, 2_049, 2 * PAGE_BYTES), "arena of 16384 bytes"),
        (hostile(ARENA_MAGIC, 3, 1, 1, 2 * PAGE_BYTES, 7), "journal of 7 bytes"),
        (hostile(ARENA_MAGIC, 3, 1, 1, 2 * PAGE_BYTES, 2**64 - PAGE_BYTES), "journal of 1844"),
        (hostile(ARENA_MAGIC, 3, 1, 1, 3 * PAGE_BYTES, PAGE_BYTES), "arena of 16384 bytes"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_hostile_header_is_refused(view: memoryview, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ArenaLayout.from_header(view)


@given(st.binary(max_size=40), st.sampled_from([0, PAGE_BYTES, 3 * PAGE_BYTES]))
def test_a_random_header_is_refused(data: bytes, padding: int) -> None:
    with pytest.raises(ValueError, match="arena"):
        ArenaLayout.from_header(memoryview(data + bytes(padding)))


def test_a_write_at_the_edge_wraps() -> None:
    ring = ring_of(4)
    ring.write(3, b"aabbcc")
    assert bytes(ring.view) == b"bbcc\0\0aa"
    assert ring.read(3, 3) == b"aabbcc"
    head, tail = ring.segments(3, 3)
    assert (bytes(head), bytes(tail)) == (b"aa", b"bbcc")


def test_a_write_up_to_the_edge_does_not_wrap() -> None:
    ring = ring_of(4)
    ring.write(2, b"aabb")
    head, tail = ring.segments(2, 2)
    assert (bytes(head), bytes(tail)) == (b"aabb", b"")


def test_segments_are_the_ring_itself_and_not_a_copy() -> None:
    ring = ring_of(4)
    head, _ = ring.segments(0, 1)
    ring.write(4, b"zz")
    assert bytes(head) == b"zz"


def test_more_than_the_ring_is_refused() -> None:
    ring = ring_of(4)
    ring.write(0, bytes(8))
    with pytest.raises(ValueError, match="10 bytes into a ring of 8"):
        ring.write(0, bytes(10))
    with pytest.raises(ValueError, match="5 samples from a ring of 4"):
        ring.segments(0, 5)
    with pytest.raises(ValueError, match="-1 samples"):
        ring.segments(0, -1)


@given(
    st.integers(1, 50),
    st.integers(0, 2**62),
    st.lists(st.integers(0, 50), max_size=30),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_the_last_ring_full_reads_as_the_stream_does(
    num_samples: int, first: int, sizes: list[int], kind: type[bytes]
) -> None:
    ring, model, position = ring_of(num_samples), bytearray(), first
    for size in sizes:
        count = min(size, num_samples)
        pcm = s16(position, count)
        ring.write(position, kind(pcm))
        model += pcm
        position += count
        kept = min(num_samples, position - first)
        assert ring.read(position - kept, kept) == bytes(model[len(model) - 2 * kept :])


# Two processes. Sample i of the stream is i * 7919 mod 65536, which repeats after 65536 samples.

TOTAL_SAMPLES = 400_000
PATTERN = b"".join((i * 7_919 & 0xFFFF).to_bytes(2, "little") for i in range(65_536)) * 2
ANNOUNCEMENT = struct.Struct("<QI")
CREDIT = struct.Struct("<Q")


def pattern(first: int, count: int) -> bytes:
    start = first % 65_536
    return PATTERN[2 * start : 2 * (start + count)]


@dataclass
class WriterProcess:
    """Fills a ring, announces each piece on a pipe, and waits for credit when it is full."""

    ring: Ring
    announce_fd: int
    credit_fd: int

    def run(self) -> None:
        position = released = 0
        while position < TOTAL_SAMPLES:
            count = min(1 + position % 700, TOTAL_SAMPLES - position)
            while position + count - released > self.ring.num_samples:
                released = self.next_credit()
            self.ring.write(position, pattern(position, count))
            os.write(self.announce_fd, ANNOUNCEMENT.pack(position, count))
            position += count
        while released < TOTAL_SAMPLES:
            released = self.next_credit()

    def next_credit(self) -> int:
        data = os.read(self.credit_fd, CREDIT.size)
        if not data:
            raise BrokenPipeError("the reader is gone")
        return int.from_bytes(data, "little")


def fork_writer(ring: Ring) -> tuple[int, int, int]:
    """Child's pid, the descriptor of its announcements, the one for our credit."""
    announced, announce = os.pipe()
    credited, credit = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(announced)
        os.close(credit)
        try:
            WriterProcess(ring, announce, credited).run()
        finally:
            os._exit(0)
    os.close(announce)
    os.close(credited)
    return pid, announced, credit


def announcements(fd: int) -> Iterator[tuple[int, int]]:
    while data := os.read(fd, ANNOUNCEMENT.size):
        yield ANNOUNCEMENT.unpack(data)


def test_another_process_reads_what_was_announced() -> None:
    layout = ArenaLayout(2, 5_000)
    shared = memoryview(mmap.mmap(-1, layout.size_bytes))
    ring = layout.ring(shared, 1)
    pid, announced, credit = fork_writer(ring)
    position = 0
    try:
        for first, count in announcements(announced):
            assert first == position, "announced in order, without a gap"
            assert ring.read(first, count) == pattern(first, count)
            position += count
            os.write(credit, CREDIT.pack(position))
    finally:
        os.close(announced)
        os.close(credit)
        os.waitpid(pid, 0)
    assert position == TOTAL_SAMPLES
