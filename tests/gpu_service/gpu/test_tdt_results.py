"""ResultRing: room goes round, and what is in the way is given up."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.decoding.tokens import Token
from gpu_service.gpu.device import Device
from gpu_service.gpu.tdt_results import ResultRing, Ticket


def write(ring: ResultRing, ticket: Ticket, *counts: int) -> None:
    """What the kernels do: token n of row r is (10 r + n, n, r, 0.5)."""
    ring.counts.array[ticket.entry, : 1 + len(counts)] = (7, *counts)
    for row, count in enumerate(counts):
        for n in range(count):
            bits = int(np.float32(0.5).view(np.int32))
            ring.tokens.array[ticket.starts[row] + n] = (10 * row + n, n, row, bits)


def test_rows_get_their_own_tokens(device: Device) -> None:
    ring = ResultRing(device, max_rows=3, max_tickets=2, num_tokens=100)
    ticket = ring.reserve([5, 0, 3])
    assert ticket.starts.tolist() == [0, 5, 5]
    assert ticket.address == ring.counts.at(ticket.entry).address
    write(ring, ticket, 2, 0, 3)
    said = ring.read(ticket)
    rows = said.rows()
    assert said.num_turns == 7
    assert [row.ids.tolist() for row in rows] == [[0, 1], [], [20, 21, 22]]
    assert rows[2].frames.tolist() == [0, 1, 2]
    assert rows[2].durations.tolist() == [2, 2, 2]
    assert rows[2].confidences.tolist() == [0.5] * 3
    assert rows[2].confidences.dtype == np.float32


def test_results_are_copies(device: Device) -> None:
    ring = ResultRing(device, 1, 1, 10)
    ticket = ring.reserve([4])
    write(ring, ticket, 1)
    said = ring.read(ticket)
    ring.tokens.array[:] = -1
    assert said.rows()[0].ids.tolist() == [0]


def test_tokens_count_from_where_their_rows_begin(device: Device) -> None:
    ring = ResultRing(device, max_rows=3, max_tickets=1, num_tokens=100)
    ticket = ring.reserve([5, 0, 3])
    write(ring, ticket, 2, 0, 1)
    assert ring.read(ticket).tokens([100, 200, -3]) == [
        [Token(0, 100, 0, 0.5), Token(1, 101, 0, 0.5)],
        [],
        [Token(20, -3, 2, 0.5)],
    ]


def test_a_ticket_is_read_once(device: Device) -> None:
    ring = ResultRing(device, 1, 2, 10)
    ticket = ring.reserve([4])
    ring.read(ticket)
    with pytest.raises(ValueError, match="ticket"):
        ring.read(ticket)


def test_tokens_go_round_behind_those_that_were_read(device: Device) -> None:
    ring = ResultRing(device, 1, 8, 10)
    for _ in range(20):
        ticket = ring.reserve([3])
        assert ticket.end <= 10
        ring.read(ticket)


def test_the_oldest_tickets_are_given_up_for_their_tokens(device: Device) -> None:
    ring = ResultRing(device, 1, 8, 10)
    first, second, third = (ring.reserve([4]) for _ in range(3))
    with pytest.raises(ValueError, match="too many"):
        ring.read(first)
    for ticket in (second, third):
        ring.read(ticket)


def test_the_oldest_ticket_is_given_up_for_its_entry(device: Device) -> None:
    ring = ResultRing(device, 1, 2, 100)
    first, second, third = (ring.reserve([4]) for _ in range(3))
    with pytest.raises(ValueError, match="too many"):
        ring.read(first)
    for ticket in (third, second):
        ring.read(ticket)


def test_more_tokens_than_there_ever_is_room_for_are_refused(device: Device) -> None:
    ring = ResultRing(device, 2, 2, 10)
    with pytest.raises(ValueError, match="11 tokens in a ring of 10"):
        ring.reserve([5, 6])
    assert ring.reserve([5, 5]).end == 10


def test_no_rows_need_no_room(device: Device) -> None:
    ring = ResultRing(device, 1, 1, 1)
    ticket = ring.reserve([])
    write(ring, ticket)
    said = ring.read(ticket)
    assert said.num_turns == 7
    assert said.rows() == said.tokens([]) == []
