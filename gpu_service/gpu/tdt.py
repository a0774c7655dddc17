"""GpuTdtDecoder: the search of decoding/tdt.py on the device, for many utterances side by side.

States live on the device by index; a launch takes rows of frames, each from one state to another,
so that drafts go to scratch states and leave their utterance's alone. Tokens come back in memory of
the host, which is read once the device has come past the launch. They are those of TdtDecoder with
rounded() weights; a row's are the same bits in any batch and in any split.

Knows frames that went through the joint's encoder projection, no audio and no text. One thread.
Shapes: B rows, N frames, J width, L layers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoding.hotwords import HotwordTrie
from ..decoding.tdt import TdtDecoder
from ..decoding.tdt_state import TdtState
from ..decoding.tdt_weights import DecoderWeights
from .device import Device, DeviceArray
from .encoder_weights import Precision
from .tdt_buffers import REQUEST_INTS, THREADS, make_buffers
from .tdt_hotwords import HotwordTries
from .tdt_results import Decoded, ResultRing, Said, Ticket
from .tdt_search import GraphMode, TdtSearch
from .tdt_steps import TdtSteps
from .tdt_weights import rounded
from .upload_ring import UploadRing

MAX_ROWS = THREADS  # one thread speaks for a row
NO_HOTWORDS = -1
# What a row in kernels/tdt.cuh has bits for.
MAX_HOTWORDS = 2**15 - 1
MAX_SYMBOLS = 2**8 - 1
SHARED_BYTES = 227 * 1024  # of a block, compute capability 9.0
NUM_FIELDS = 6  # of a DecodeRow
HEADER = struct.Struct("<3q2i")  # of a request: addresses, rows, whether any has hotwords

Integers = NDArray[np.int64]


class DecodeRow(NamedTuple):
    """What to decode: frames [first, first + count) of one row of a batch; count may be 0.

    A tuple, because hundreds of them are made and read for one launch.
    """

    row: int
    first: int
    count: int  # type: ignore[assignment]  # the method of tuples is not missed
    state_in: int
    state_out: int  # may be state_in
    hotwords: int = NO_HOTWORDS  # place of a trie that was loaded


class GpuTdtDecoder:
    """One model's decoder and its states: 0 .. num_states - 1, START, and scratch() ones."""

    def __init__(
        self,
        device: Device,
        weights: DecoderWeights,
        precision: Precision,
        *,
        num_states: int,
        max_batch: int,
        max_outstanding_frames: int,
        num_hotwords: int = 0,
        max_tickets: int = 64,
        mode: GraphMode = GraphMode.PERSISTENT,
        num_blocks: int = 0,
        shared_bytes: int = SHARED_BYTES,
    ) -> None:
        """Upload, compile and capture. Raises DeviceError, ValueError.

        Args:
            max_batch: rows of one launch.
            max_outstanding_frames: of all rows of all tickets that are outstanding together; the
                host's memory for tokens goes by it, 160 bytes a frame at 10 symbols.
            num_hotwords: places for tries, 160 KB each.
            max_tickets: that may be outstanding.
            num_blocks: of the kernels that multiply; 0 is one for each multiprocessor.
            shared_bytes: that the device allows a block.
        """
        if not 0 < max_batch <= MAX_ROWS:
            raise ValueError(f"a batch of {max_batch} rows, not 1..{MAX_ROWS}")
        if num_hotwords > MAX_HOTWORDS or weights.max_symbols > MAX_SYMBOLS:
            raise ValueError(f"{num_hotwords} tries, {weights.max_symbols} symbols a frame")
        weights = rounded(weights, precision)
        self.mode = mode
        self.START = num_states  # where every utterance begins; never a state_out
        self._num_states = num_states + 1 + max_batch
        self._device = device
        self._width, self._num_layers = weights.width, weights.num_layers
        self._max_symbols = weights.max_symbols
        self._max_batch = max_batch
        num_tokens = max_outstanding_frames * weights.max_symbols
        self._buffers = make_buffers(
            device, weights, precision, self._num_states, max_batch, num_tokens,
            has_hotwords=num_hotwords > 0,
        )  # fmt: skip
        self._tries = HotwordTries(device, num_hotwords, weights.blank_id)
        self._requests = UploadRing(device, (1 + max_batch, REQUEST_INTS), np.int32)
        self._ring = ResultRing(device, max_batch, max_tickets, num_tokens)
        self._state_values = device.pinned(self._buffers.values.shape[1:], np.float32)
        self._state_marks = device.pinned(self._buffers.marks.shape[1:], np.int32)
        steps = TdtSteps(
            device,
            self._buffers,
            self._requests.array,
            self._tries.array,
            weights.max_symbols,
            min(num_blocks or device.num_sms, self._buffers.num_tiles),
            shared_bytes,
        )
        self._search = TdtSearch(device, steps, self._buffers.flags.array)
        self._search.prepare(mode)
        self._write_state(self.START, TdtDecoder(weights).start())

    # -- decoding --------------------------------------------------------------------------

    def prepare(self, mode: GraphMode) -> None:
        """Make ready for enqueue() in another mode. Raises DeviceError."""
        self._search.prepare(mode)

    def scratch(self, index: int) -> int:
        """A state to throw away, one of max_batch."""
        if not 0 <= index < self._max_batch:
            raise IndexError(f"scratch state {index} of {self._max_batch}")
        return self.START + 1 + index

    def enqueue(
        self, frames: DeviceArray, rows: Sequence[DecodeRow], mode: GraphMode | None = None
    ) -> Ticket:
        """Decode rows of (B, N, J) float32. In PERSISTENT and FULL_GRAPH the host never waits.

        No state may be the state_out of two rows, or of one and the state_in of another.
        At most max_tickets launches and max_outstanding_frames may be outstanding: of more, the
        oldest are given up, and read() of their tickets raises. Raises ValueError, DeviceError.
        """
        num_rows = len(rows)
        fields = np.fromiter(chain.from_iterable(rows), np.int64, NUM_FIELDS * num_rows)
        columns = fields.reshape(num_rows, NUM_FIELDS).T.copy()
        has_hotwords = self._check(frames, columns)
        row, first, count, *_ = columns
        ticket = self._ring.reserve(count * self._max_symbols)
        block = self._requests.block()
        addresses = frames.address, self._ring.tokens.address, ticket.address
        HEADER.pack_into(block.data, 0, *addresses, num_rows, has_hotwords)
        first += row * frames.shape[1]
        row[:] = ticket.starts
        block[1 : 1 + num_rows, :NUM_FIELDS] = columns.T
        self._requests.publish()
        self._search.run(mode or self.mode)
        return ticket

    def read(self, ticket: Ticket) -> Said:
        """What a launch said, once, when the device has come past it.

        Raises ValueError for a ticket that was read before or was given up.
        """
        return self._ring.read(ticket)

    def results(self, ticket: Ticket) -> list[Decoded]:
        """read(), and of that the rows."""
        return self.read(ticket).rows()

    def _check(self, frames: DeviceArray, columns: Integers) -> bool:
        """Raises ValueError for what kernels must not be given. Whether any row has hotwords."""
        if frames.dtype != np.float32 or frames.shape[2:] != (self._width,):
            raise ValueError(f"frames of shape {frames.shape} {frames.dtype}")
        _, first, count, state_in, state_out, hotwords = columns
        if len(first) > self._max_batch:
            raise ValueError(f"{len(first)} rows in a batch of {self._max_batch}")
        if not len(first):
            return False
        lowest, highest = columns.min(axis=1).tolist(), columns.max(axis=1).tolist()
        end = int((first + count).max())
        if min(lowest[:3]) < 0 or highest[0] >= frames.shape[0] or end > frames.shape[1]:
            raise ValueError(f"rows outside of frames of shape {frames.shape}")
        if min(lowest[3:5]) < 0 or max(highest[3:5]) >= self._num_states:
            raise ValueError("a state that is not there")
        self._check_states(state_in, state_out)
        if lowest[5] == highest[5] == NO_HOTWORDS:
            return False
        if not all(map(self._tries.has, set(hotwords.tolist()) - {NO_HOTWORDS})):
            raise ValueError("hotwords that were not loaded")
        return True

    def _check_states(self, state_in: Integers, state_out: Integers) -> None:
        """Raises ValueError for the result of two rows, or of one that another one reads."""
        is_written = np.zeros(self._num_states, np.bool_)
        is_written[state_out] = True
        if is_written[self.START]:
            raise ValueError("the start state as a result")
        elsewhere = state_in[state_in != state_out]
        if np.count_nonzero(is_written) < len(state_out) or is_written[elsewhere].any():
            raise ValueError("a state that one row writes and another one uses")

    # -- states and hotwords -----------------------------------------------------------------

    def get_state(self, index: int) -> TdtState:
        """A state's value; waits for the device."""
        self._device.copy(self._state_values, self._buffers.values.at(index))
        self._device.copy(self._state_marks, self._buffers.marks.at(index))
        self._device.synchronize()
        values = self._state_values.array.copy()
        label, overshoot, node, _ = self._state_marks.array.tolist()
        layers = self._num_layers
        return TdtState(label, values[:layers], values[layers:-1], values[-1], overshoot, node)

    def set_state(self, index: int, state: TdtState) -> None:
        """Restore a value, of this model (TdtDecoder.restore() checks); waits for the device.

        Raises ValueError for the start.
        """
        if index == self.START:
            raise ValueError("the start is no state to set")
        self._write_state(index, state)

    def load_hotwords(self, index: int, trie: HotwordTrie) -> None:
        """Put a trie into a place; launches before this still see what was there.

        Raises ValueError for a token that the model does not have.
        """
        self._tries.load(index, trie)

    def free_hotwords(self, index: int) -> None:
        """Forget a trie."""
        self._tries.free(index)

    def _write_state(self, index: int, state: TdtState) -> None:
        values = self._state_values.array
        layers = self._num_layers
        values[:layers], values[layers:-1], values[-1] = state.hidden, state.cell, state.predicted
        self._state_marks.array[:] = state.label, state.overshoot, state.hotword_node, 0
        self._device.copy(self._buffers.values.at(index), self._state_values)
        self._device.copy(self._buffers.marks.at(index), self._state_marks)
        self._device.synchronize()
