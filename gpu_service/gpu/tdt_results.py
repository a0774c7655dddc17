"""ResultRing: memory of the host that the kernels write tokens to, for several launches under way.

Each launch gets room for all tokens that it could say; only what it does say crosses the bus. The
memory goes round: a ticket that nobody read is given up when its room is needed again. Knows tokens
as four integers, of which Said makes Tokens, and no device work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..decoding.tokens import Token
from .device import Device

TOKEN_INTS = 4  # id, frame, duration, bits of the confidence

Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A launch whose results will come."""

    entry: int  # of the results
    address: int  # of its results: turns of the loop, then tokens of each row
    starts: NDArray[np.int64]  # the first token of each row
    start: int  # all of the launch's tokens
    end: int


@dataclass(slots=True, eq=False)  # not frozen: that would take twice as long to make
class Decoded:
    """The tokens of one row, K of them. Never changed."""

    ids: Integers  # (K,)
    frames: Integers  # (K,) counted from the row's first
    durations: Integers  # (K,) frames
    confidences: NDArray[np.float32]  # (K,) 0..1


@dataclass(slots=True, eq=False)
class Said:
    """What a launch said: all rows' tokens one behind the other, T of them. Never changed.

    One object, so that reading it, for which the device waits, costs no more than a copy.
    """

    num_turns: int  # of the loop
    ends: NDArray[np.int64]  # of each row, in tokens
    fields: Integers  # (4, T): of each token what the kernels write, TOKEN_INTS

    def rows(self) -> list[Decoded]:
        """Each row's arrays: of tests and measurements."""
        ids, frames, durations, bits = self.fields
        confidences = bits.view(np.float32)
        return [
            Decoded(ids[own], frames[own], durations[own], confidences[own]) for own in self._own()
        ]

    def tokens(self, first_frames: Sequence[int]) -> list[list[Token]]:
        """Each row's tokens, in frames from its own of `first_frames` on, of which there are as
        many as rows (else ValueError).
        """
        ids, frames, durations, bits = self.fields
        lengths = np.diff(self.ends, prepend=0)
        frames = frames + np.repeat(np.asarray(first_frames, np.int32), lengths)
        # All at once: a step may have hundreds of rows, of a token or two each.
        columns = ids.tolist(), frames.tolist(), durations.tolist(), bits.view(np.float32).tolist()
        tokens = list(map(Token, *columns))
        return [tokens[own] for own in self._own()]

    def _own(self) -> Iterator[slice]:
        return (slice(start, end) for start, end in pairwise([0, *self.ends.tolist()]))


class ResultRing:
    """Room for a number of tickets and of tokens."""

    def __init__(self, device: Device, max_rows: int, max_tickets: int, num_tokens: int) -> None:
        """`num_tokens` of all tickets that are outstanding at a time. Raises DeviceError."""
        self.tokens = device.pinned((num_tokens, TOKEN_INTS), np.int32)
        self.counts = device.pinned((max_tickets, 1 + max_rows), np.int32)
        self._entry_bytes = self.counts.itemsize * (1 + max_rows)
        self._device = device
        self._outstanding: deque[Ticket] = deque()
        self._next_entry = 0
        self._next_token = 0

    def reserve(self, max_tokens: Sequence[int] | NDArray[np.int64]) -> Ticket:
        """Room for so many tokens of each row. Raises ValueError for more than there is."""
        sizes = np.asarray(max_tokens, np.int64)
        ends = sizes.cumsum()
        size = int(ends[-1]) if len(ends) else 0
        if size > len(self.tokens.array):
            raise ValueError(f"{size} tokens in a ring of {len(self.tokens.array)}")
        if self._next_token + size > len(self.tokens.array):
            self._next_token = 0
        start, entry = self._next_token, self._next_entry
        self._next_token += size
        self._next_entry = (entry + 1) % len(self.counts.array)
        address = self.counts.address + entry * self._entry_bytes
        ticket = Ticket(entry, address, ends - sizes + start, start, start + size)
        self._give_up_what_is_in_the_way_of(ticket)
        self._outstanding.append(ticket)
        return ticket

    def read(self, ticket: Ticket) -> Said:
        """What the launch said, once. The device has come past it.

        Raises ValueError for a ticket that was read, or given up.
        """
        if ticket not in self._outstanding:
            raise ValueError("the ticket was read before, or too many others were drawn since")
        self._outstanding.remove(ticket)
        counts = self.counts.array[ticket.entry, : 1 + len(ticket.starts)].astype(np.int64)
        lengths = counts[1:]
        ends = np.cumsum(lengths)
        skipped = np.repeat(ticket.starts - ends + lengths, lengths)
        tokens = self.tokens.array[skipped + np.arange(len(skipped))]
        return Said(int(counts[0]), ends, tokens.T.copy())

    def _give_up_what_is_in_the_way_of(self, ticket: Ticket) -> None:
        in_the_way = [
            other
            for other in self._outstanding
            if other.entry == ticket.entry
            or (other.start < ticket.end and ticket.start < other.end)
        ]
        if in_the_way:
            self._device.synchronize()  # its kernels may still write there
        for other in in_the_way:
            self._outstanding.remove(other)
