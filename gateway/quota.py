"""The quota table: how many sessions each token has, over all workers, in shared memory.

One row a worker, one column a token (tokens.place_tokens), one cell of 80 bytes for both. A worker
writes its own row only and reads all of them, so nobody waits for anybody and nothing is locked:

    byte  0          8          16             64          72          80
        +----------+----------+-----   ------+-----------+-----------+
        | sessions | starts 0 | ...  starts 6| refused 0 | refused 1 |   u64 each, little-endian
        +----------+----------+-----   ------+-----------+-----------+

`sessions` counts open ones. `starts i` counts sessions begun in the newest ten seconds whose number
modulo 7 is i: `number << 24 | count`, in one store, so that no reader sees one without the other.
Seven of them cover every instant of the last 60 s, so a token never begins more than its
`per_minute` in any minute; the price is that a start is remembered for up to 70 s. `refused i`
counts likewise, in ten seconds of even and odd number, who found no place (fair_share.py).

To claim is to count oneself first and to look afterwards. Of two workers that take the last session
at once, both may find one too many; neither may find one too few. Who finds too many takes its
claim back and tries again, because the other one may have done so too.

The parent makes the table, without a name, and clears the row of a dead worker.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator

from .gatekeeper import Excess
from .tokens import MAX_COLUMNS

NUM_BUCKETS = 7
NUM_REFUSED = 2
CELL_WORDS = 1 + NUM_BUCKETS + NUM_REFUSED
BUCKET_NS = 10_000_000_000
MAX_TRIES = 4  # of one claim that may have met another worker's; then the token counts as full
_COUNT_BITS = 24
_COUNT_MASK = (1 << _COUNT_BITS) - 1
_WORD_BYTES = 8

# SYNC POINT (claim): the store of a claim must be visible to the other workers before this worker
# loads their cells, but x86 lets a load pass an earlier store. CPython's lock is made of a
# compare-exchange, which no load passes. Without it two workers could both get the last session.
_fence = threading.Lock()


class QuotaTable:
    """One process's view: `row` is the one it writes. See gatekeeper.Quota."""

    def __init__(self, view: memoryview, num_rows: int, row: int) -> None:
        self._words = view.cast("B").cast("Q")
        self._row_words = MAX_COLUMNS * CELL_WORDS
        if len(self._words) < num_rows * self._row_words or not 0 <= row < num_rows:
            raise ValueError(f"row {row} of {num_rows} in a table of {view.nbytes} bytes")
        self._num_rows = num_rows
        self._row = row

    def claim(
        self, column: int, max_sessions: int | None, per_minute: int | None, now_ns: int
    ) -> Excess | None:
        """Count one session of a token, unless it has too many."""
        for _ in range(MAX_TRIES):
            excess = self._try_claim(column, max_sessions, per_minute, now_ns)
            if excess is None:
                break
        return excess

    def _try_claim(
        self, column: int, max_sessions: int | None, per_minute: int | None, now_ns: int
    ) -> Excess | None:
        sessions = self._cell(self._row, column)
        number = now_ns // BUCKET_NS
        bucket = sessions + 1 + number % NUM_BUCKETS
        started = self._words[bucket]
        self._words[sessions] += 1
        self._words[bucket] = _one_more(started, number)
        with _fence:
            pass
        excess = self._excess(column, max_sessions, per_minute, now_ns)
        if excess is not None:
            self._words[sessions] -= 1
            self._words[bucket] = started
        return excess

    def _excess(
        self, column: int, max_sessions: int | None, per_minute: int | None, now_ns: int
    ) -> Excess | None:
        """Which limit is passed."""
        if max_sessions is not None and self.num_sessions(column) > max_sessions:
            return Excess.SESSIONS
        if per_minute is not None and self.num_starts(column, now_ns) > per_minute:
            return Excess.RATE
        return None

    def reclaim(self, column: int) -> None:
        """A session of the dead worker that had this row goes on; it is no new start."""
        self._words[self._cell(self._row, column)] += 1

    def release(self, column: int) -> None:
        """A claimed session has ended."""
        cell = self._cell(self._row, column)
        if not self._words[cell]:
            raise AssertionError(f"a session of column {column} was released twice")
        self._words[cell] -= 1

    def take_back_start(self, column: int, began_ns: int) -> None:
        """A session that was claimed then never began; it is still to be released."""
        number = began_ns // BUCKET_NS
        bucket = self._cell(self._row, column) + 1 + number % NUM_BUCKETS
        word = self._words[bucket]
        if _number(word) == number and _count(word):
            self._words[bucket] = word - 1

    def num_sessions(self, column: int) -> int:
        """Open sessions of all workers."""
        return sum(self._words[self._cell(row, column)] for row in range(self._num_rows))

    def num_starts(self, column: int, now_ns: int) -> int:
        """Sessions begun by all workers in the last 60 s, and in up to 10 s before."""
        newest = now_ns // BUCKET_NS
        # A worker whose loop turn began later may be one bucket ahead: that counts too.
        words = self._words_of(column, 1, NUM_BUCKETS)
        return sum(_count(word) for word in words if _number(word) > newest - NUM_BUCKETS)

    def until_start_ns(self, column: int, per_minute: int, now_ns: int) -> int:
        """When a token that has begun too many sessions may begin one more, from now on."""
        left = self.num_starts(column, now_ns)
        until_ns = 0
        for word in sorted(self._words_of(column, 1, NUM_BUCKETS)):  # the oldest bucket first
            if left < per_minute:
                break
            forgotten_ns = (_number(word) + NUM_BUCKETS) * BUCKET_NS - now_ns
            if forgotten_ns > 0:
                left -= _count(word)
                until_ns = forgotten_ns
        return until_ns

    def note_refused(self, column: int, now_ns: int) -> None:
        """A session of this token found no place."""
        number = now_ns // BUCKET_NS
        word = self._cell(self._row, column) + 1 + NUM_BUCKETS + number % NUM_REFUSED
        self._words[word] = _one_more(self._words[word], number)

    def num_refused(self, column: int, now_ns: int) -> int:
        """Such sessions of all workers in the last 10 s, and in up to 10 s before."""
        newest = now_ns // BUCKET_NS
        words = self._words_of(column, 1 + NUM_BUCKETS, NUM_REFUSED)
        return sum(_count(word) for word in words if _number(word) > newest - NUM_REFUSED)

    def clear_row(self, row: int) -> None:
        """Its worker is dead, and its sessions with it; what was begun stays begun."""
        for column in range(MAX_COLUMNS):
            self._words[self._cell(row, column)] = 0

    def _cell(self, row: int, column: int) -> int:
        if not 0 <= column < MAX_COLUMNS:
            raise IndexError(f"column {column} of {MAX_COLUMNS}")
        return row * self._row_words + column * CELL_WORDS

    def _words_of(self, column: int, first: int, count: int) -> Iterator[int]:
        """So many words of a token's cells, in the rows of all workers."""
        for row in range(self._num_rows):
            start = self._cell(row, column) + first
            yield from self._words[start : start + count]


def _number(word: int) -> int:
    return word >> _COUNT_BITS


def _count(word: int) -> int:
    return word & _COUNT_MASK


def _one_more(word: int, number: int) -> int:
    """A count of the ten seconds of this number, and one besides."""
    return (word if _number(word) == number else number << _COUNT_BITS) + 1


def table_bytes(num_rows: int) -> int:
    """Size of a table."""
    return num_rows * MAX_COLUMNS * CELL_WORDS * _WORD_BYTES


def create_table(num_rows: int) -> int:
    """A descriptor of a new, zeroed table without a name; the caller owns it."""
    fd = os.memfd_create("earwire-quota", os.MFD_CLOEXEC)
    os.posix_fallocate(fd, 0, table_bytes(num_rows))  # no room is an error now, not a SIGBUS later
    return fd


def map_table(fd: int, num_rows: int, row: int) -> QuotaTable:
    """This process's view of a table; the descriptor may be closed afterwards."""
    return QuotaTable(memoryview(mmap.mmap(fd, table_bytes(num_rows))), num_rows, row)
