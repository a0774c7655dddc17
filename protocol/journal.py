"""A slot's journal: what a worker's successor has to know of the session there. Pure, over a view.

It lies in the arena, which outlives the worker. It holds one snapshot and the records behind it,
bytes of which this file knows nothing, and two counters that change more often than that. A kill
between any two stores leaves what was committed last: a snapshot goes into the half that is not in
use, a record behind the others, and one aligned store of 8 bytes, the head, makes either count.

One worker writes; who reads, reads what a dead one left. Nothing in it is trusted: `read` checks
everything, and damage is a value.

    byte      0          8            64
          +----------+----------+- ... -+---------------------------------------+
        0 |   head   | attempts | zero  | half 0                                |
          +----------+----------+- ... -+---------------------------------------+
          | half 1                                                              |
          +---------------------------------------------------------------------+

    head: 0: nothing is here; else half << 32 | end, where `end` counts the half's bytes in use.
    attempts: how often somebody tried to go on from here (see `count_attempt`).

    A half:
    byte      0              8                 16
          +--------------+-----------------+-------------------------------------
        0 | ring samples | decoded samples | entries: the snapshot, then records
          +--------------+-----------------+-------------------------------------

    An entry: u32 length, u32 CRC-32 of the payload, the payload, zeros up to the next 8 bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

JOURNAL_BYTES = 256 * 1024  # of a slot, in an arena that has journals
HEADER_BYTES = 64
_WORD_BYTES = 8
_HEAD, _ATTEMPTS = 0, 1  # words of the header
_HOT_BYTES = 16
_ENTRY = struct.Struct("<II")
_END_BITS = 32
_END_MASK = (1 << _END_BITS) - 1
_MAX_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds."""

    ring_samples: int  # written to the ring
    decoded_samples: int  # of these, consumed by recognition, as far as the worker knew
    snapshot: bytes
    records: tuple[bytes, ...]  # behind the snapshot, in order


@dataclass(frozen=True, slots=True)
class Damage:
    """A journal that nobody can go on from."""

    reason: str


class Journal:
    """See the module text. The view's length is a multiple of 8 and holds some bytes of entries."""

    __slots__ = ("_bytes", "_end", "_half", "_half_bytes", "_hot", "_words")

    def __init__(self, view: memoryview) -> None:
        self._bytes = view.cast("B")
        self._words = self._bytes.cast("Q")
        self._half_bytes = (len(self._bytes) - HEADER_BYTES) // (2 * _WORD_BYTES) * _WORD_BYTES
        if self._half_bytes <= _HOT_BYTES + _ENTRY.size:
            raise ValueError(f"a journal of {len(self._bytes)} bytes holds nothing")
        self._half = self._end = 0
        self._enter(self._words[_HEAD])

    def _enter(self, head: int) -> None:
        """Go on in the half that is in use; the first, if there is none or the head is damaged."""
        self._half, self._end = head >> _END_BITS, head & _END_MASK
        if self._half > 1 or not _HOT_BYTES < self._end <= self._half_bytes:
            self._half = self._end = 0
        self._hot = self._start(self._half) // _WORD_BYTES

    def _start(self, half: int) -> int:
        return HEADER_BYTES + half * self._half_bytes

    # Writing

    @property
    def is_empty(self) -> bool:
        """Nothing counts: `append` has no snapshot to go behind."""
        return self._end == 0

    @property
    def capacity_bytes(self) -> int:
        """The longest snapshot that fits."""
        return self._half_bytes - _HOT_BYTES - _ENTRY.size

    def note(self, ring_samples: int, decoded_samples: int) -> None:
        """The two counters, as they are now. Each is one store; neither needs the other."""
        self._words[self._hot] = ring_samples
        self._words[self._hot + 1] = decoded_samples

    def begin(self, snapshot: bytes, ring_samples: int, decoded_samples: int) -> bool:
        """Let this count instead of everything before; False, and nothing is changed, when it
        does not fit.
        """
        entry = _entry(snapshot)
        end = _HOT_BYTES + len(entry)
        if end > self._half_bytes:
            return False
        half = 1 - self._half
        start = self._start(half)
        words = self._words
        words[start // _WORD_BYTES] = ring_samples
        words[start // _WORD_BYTES + 1] = decoded_samples
        self._bytes[start + _HOT_BYTES : start + end] = entry
        self._commit(half, end)
        return True

    def append(self, record: bytes) -> bool:
        """One record more; False, and nothing is changed, when it does not fit."""
        entry = _entry(record)
        end = self._end + len(entry)
        if not self._end or end > self._half_bytes:
            return False
        start = self._start(self._half)
        self._bytes[start + self._end : start + end] = entry
        self._commit(self._half, end)
        return True

    def clear(self) -> None:
        """The session has ended: nobody is to go on from here."""
        self._commit(self._half, 0)

    def _commit(self, half: int, end: int) -> None:
        # SYNC POINT (journal): this store makes count what was stored before it. A process that is
        # killed leaves its stores in the order of the program, so nobody sees it without them.
        head = half << _END_BITS | end if end else 0
        self._words[_HEAD] = head
        self._enter(head)

    # After a death

    def read(self) -> Contents | Damage | None:
        """What the dead worker left; None when that is nothing."""
        head = self._words[_HEAD]
        if not head:
            return None
        half, end = head >> _END_BITS, head & _END_MASK
        if half > 1 or not _HOT_BYTES <= end <= self._half_bytes:
            return Damage(f"head {head:#x}")
        start = self._start(half)
        entries = _entries(bytes(self._bytes[start + _HOT_BYTES : start + end]))
        if isinstance(entries, Damage):
            return entries
        if not entries:
            return Damage("no snapshot")
        hot = start // _WORD_BYTES
        return Contents(self._words[hot], self._words[hot + 1], entries[0], tuple(entries[1:]))

    def count_attempt(self) -> int:
        """Somebody goes on from here; how many tried before it, and died or did not come far."""
        before = self._words[_ATTEMPTS]
        self._words[_ATTEMPTS] = min(before + 1, _MAX_WORD)
        return before

    def forget_attempts(self) -> None:
        """The session came far enough, or another one begins."""
        self._words[_ATTEMPTS] = 0


def _entry(payload: bytes) -> bytes:
    padding = bytes(-(_ENTRY.size + len(payload)) % _WORD_BYTES)
    return _ENTRY.pack(len(payload), zlib.crc32(payload)) + payload + padding


def _entries(data: bytes) -> list[bytes] | Damage:
    """The payloads of whole entries, nothing else between or behind."""
    payloads: list[bytes] = []
    at = 0
    while at < len(data):
        if len(data) - at < _ENTRY.size:
            return Damage(f"{len(data) - at} bytes behind the last entry")
        length, checksum = _ENTRY.unpack_from(data, at)
        payload = data[at + _ENTRY.size : at + _ENTRY.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return Damage(f"entry {len(payloads)} at byte {at}")
        payloads.append(payload)
        at += -(-(_ENTRY.size + length) // _WORD_BYTES) * _WORD_BYTES
    return payloads
