"""The quota table: one process, two views of one table, and two real processes that race."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pytest

from gateway.gatekeeper import Excess
from gateway.quota import (
    BUCKET_NS,
    CELL_WORDS,
    MAX_TRIES,
    NUM_BUCKETS,
    QuotaTable,
    create_table,
    map_table,
    table_bytes,
)
from gateway.tokens import MAX_COLUMNS

S = 1_000_000_000
NOW_NS = 1_000 * S


def tables(num: int = 2) -> list[QuotaTable]:
    view = memoryview(bytearray(table_bytes(num)))
    return [QuotaTable(view, num, row) for row in range(num)]


def test_sessions_are_counted_over_all_rows() -> None:
    one, two = tables()
    assert one.claim(4, 3, None, NOW_NS) is None
    assert two.claim(4, 3, None, NOW_NS) is None
    assert two.claim(4, 3, None, NOW_NS) is None
    assert one.claim(4, 3, None, NOW_NS) is Excess.SESSIONS
    assert (one.num_sessions(4), two.num_sessions(4)) == (3, 3)
    assert one.claim(5, 3, None, NOW_NS) is None  # another token
    two.release(4)
    assert one.claim(4, 3, None, NOW_NS) is None


def test_a_refused_claim_leaves_no_trace() -> None:
    one, two = tables()
    assert one.claim(0, 1, 100, NOW_NS) is None
    for _ in range(5):
        assert two.claim(0, 1, 100, NOW_NS) is Excess.SESSIONS
    assert one.num_sessions(0) == 1
    assert one.num_starts(0, NOW_NS) == 1


def test_without_limits_it_still_counts() -> None:
    (table,) = tables(1)
    for _ in range(1_000):
        assert table.claim(0, None, None, NOW_NS) is None
    assert table.num_sessions(0) == 1_000


def test_a_session_is_released_once() -> None:
    one, two = tables()
    assert one.claim(0, None, None, NOW_NS) is None
    with pytest.raises(AssertionError):
        two.release(0)  # not its own
    one.release(0)
    with pytest.raises(AssertionError):
        one.release(0)


def test_never_more_starts_in_any_minute_than_allowed() -> None:
    one, two = tables()
    draw = random.Random(1)
    starts: list[int] = []
    now_ns = NOW_NS
    for _ in range(5_000):
        now_ns += draw.randrange(3 * S)
        table = draw.choice((one, two))
        if table.claim(0, None, 7, now_ns) is None:
            starts.append(now_ns)
            table.release(0)
    assert all(b - a > 60 * S for a, b in zip(starts, starts[7:], strict=False))
    # and hardly fewer: what is begun is forgotten after 70 s at the latest
    assert len(starts) >= 7 * (now_ns - NOW_NS) // (75 * S)


def test_starts_are_forgotten_after_seventy_seconds() -> None:
    (table,) = tables(1)
    assert table.claim(0, None, 1, NOW_NS) is None
    table.release(0)
    for later_s in (1, 59, 69):
        assert table.claim(0, None, 1, NOW_NS + later_s * S) is Excess.RATE
    assert table.claim(0, None, 1, NOW_NS + 70 * S) is None
    # the same bucket again, seven later: the old count is not added to
    assert table.num_starts(0, NOW_NS + 70 * S) == 1


def test_a_start_that_came_to_nothing_is_taken_back_where_it_was_counted() -> None:
    one, two = tables()
    edge_ns = NOW_NS // BUCKET_NS * BUCKET_NS + BUCKET_NS
    for at_ns in (edge_ns - 1, edge_ns, edge_ns):
        assert one.claim(0, None, 3, at_ns) is None
    two.take_back_start(0, edge_ns)  # not its own
    one.take_back_start(1, edge_ns)  # another token's
    assert one.num_starts(0, edge_ns) == 3
    one.take_back_start(0, edge_ns - 1)
    assert one.num_starts(0, edge_ns) == 2
    one.take_back_start(0, edge_ns - 1)  # there is no more of it
    assert one.num_starts(0, edge_ns) == 2
    one.take_back_start(0, edge_ns - NUM_BUCKETS * BUCKET_NS)  # long forgotten
    assert one.num_starts(0, edge_ns) == 2
    assert one.num_sessions(0) == 3, "their end is told by `release`"


def test_when_a_token_may_begin_again() -> None:
    one, two = tables()
    assert one.until_start_ns(0, 3, NOW_NS) == 0
    for table, at_s in ((one, 1), (two, 1), (one, 15)):
        assert table.claim(0, None, 3, NOW_NS + at_s * S) is None
    now_ns = NOW_NS + 20 * S
    assert one.claim(0, None, 3, now_ns) is Excess.RATE
    assert one.until_start_ns(0, 4, now_ns) == 0
    assert one.until_start_ns(0, 1, now_ns) == 60 * S  # not before the last one is forgotten
    until_ns = one.until_start_ns(0, 3, now_ns)
    assert until_ns == 50 * S
    assert one.claim(0, None, 3, now_ns + until_ns - 1) is Excess.RATE
    assert one.claim(0, None, 3, now_ns + until_ns) is None


def test_who_found_no_place_is_remembered_for_a_moment() -> None:
    one, two = tables()
    for table in (one, two, two):
        table.note_refused(3, NOW_NS)
    one.note_refused(3, NOW_NS + BUCKET_NS)
    assert one.num_refused(3, NOW_NS + BUCKET_NS) == 4
    assert one.num_refused(4, NOW_NS) == 0
    assert two.num_refused(3, NOW_NS + 2 * BUCKET_NS) == 1
    assert two.num_refused(3, NOW_NS + 3 * BUCKET_NS) == 0
    one.note_refused(3, NOW_NS + 2 * BUCKET_NS)  # where the first one was
    assert one.num_refused(3, NOW_NS + 2 * BUCKET_NS) == 2


def test_a_worker_whose_turn_began_earlier_counts_the_newest_starts_too() -> None:
    one, two = tables()
    edge_ns = NOW_NS // BUCKET_NS * BUCKET_NS + BUCKET_NS
    assert one.claim(0, None, 1, edge_ns) is None
    assert two.claim(0, None, 1, edge_ns - 1) is Excess.RATE


def test_a_dead_workers_sessions_are_cleared_and_its_starts_are_not() -> None:
    parent, worker, other = tables(3)
    for table in (worker, other):
        for column in (0, MAX_COLUMNS - 1):
            assert table.claim(column, None, None, NOW_NS) is None
    parent.clear_row(1)
    assert parent.num_sessions(0) == parent.num_sessions(MAX_COLUMNS - 1) == 1
    assert parent.num_starts(0, NOW_NS) == 2
    worker.reclaim(0)  # the next worker goes on with a session of it
    assert parent.num_sessions(0) == 2
    assert parent.num_starts(0, NOW_NS) == 2
    worker.release(0)
    assert parent.num_sessions(0) == 1


def test_rows_and_columns_that_are_not_there() -> None:
    view = memoryview(bytearray(table_bytes(1)))
    with pytest.raises(ValueError, match="row 1 of 1"):
        QuotaTable(view, 1, 1)
    with pytest.raises(ValueError, match="row 0 of 2"):
        QuotaTable(view, 2, 0)
    table = QuotaTable(view, 1, 0)
    with pytest.raises(IndexError):
        table.claim(MAX_COLUMNS, None, None, NOW_NS)
    assert table_bytes(2) == 2 * MAX_COLUMNS * CELL_WORDS * 8


class Colliding(QuotaTable):
    """Another worker has a claim there, too, at the first looks."""

    num_collisions = 0

    def num_sessions(self, column: int) -> int:
        self.num_collisions -= 1
        return super().num_sessions(column) + (self.num_collisions >= 0)


def test_claims_that_collide_are_tried_again_but_not_for_ever() -> None:
    table = Colliding(memoryview(bytearray(table_bytes(1))), 1, 0)
    table.num_collisions = MAX_TRIES - 1
    assert table.claim(0, 1, None, NOW_NS) is None
    table.release(0)
    table.num_collisions = MAX_TRIES
    assert table.claim(0, 1, None, NOW_NS) is Excess.SESSIONS
    assert table.num_sessions(0) == 0


# Two processes. Column 0 has a limit; column HELD counts what they really have, after the claim
# and until before the release, so its sum must never be above the limit.

LIMIT = 3
HELD = 1
ROUNDS = 20_000
NUM_COLUMNS = 400


def _race(fd: int, row: int, begin: Connection, done: Connection) -> None:
    table = map_table(fd, 2, row)
    draw = random.Random(row)
    begin.recv()
    claimed = most = held = 0
    for _ in range(ROUNDS):
        if held and draw.random() < 0.5:
            table.release(HELD)
            table.release(0)
            held -= 1
        elif table.claim(0, LIMIT, None, NOW_NS) is None:
            table.claim(HELD, None, None, NOW_NS)
            most = max(most, table.num_sessions(HELD))
            held += 1
            claimed += 1
    for _ in range(held):
        table.release(HELD)
        table.release(0)
    done.send((claimed, most))


def _take_all(fd: int, row: int, begin: Connection, done: Connection) -> None:
    """Claim each column until refused, at the same time as the other process."""
    table = map_table(fd, 2, row)
    for column in range(NUM_COLUMNS):
        begin.recv()
        taken = 0
        while table.claim(column, LIMIT, LIMIT, NOW_NS) is None:
            taken += 1
        done.send(taken)


Job = Callable[[int, int, Connection, Connection], None]


@pytest.fixture
def fd() -> Iterator[int]:
    fd = create_table(2)
    yield fd
    os.close(fd)


Racer = tuple[multiprocessing.process.BaseProcess, Connection, Connection]


def start(job: Job, fd: int) -> list[Racer]:
    context = multiprocessing.get_context("fork")  # the descriptor is inherited
    racers = []
    for row in range(2):
        begin_ours, begin = context.Pipe()
        done_ours, done = context.Pipe()
        process = context.Process(target=job, args=(fd, row, begin, done))
        process.start()
        racers.append((process, begin_ours, done_ours))
    return racers


def test_two_processes_never_have_more_than_the_limit_together(fd: int) -> None:
    racers = start(_race, fd)
    for _, begin, _ in racers:
        begin.send(None)
    results = [done.recv() for _, _, done in racers]
    for process, _, _ in racers:
        process.join()
        assert process.exitcode == 0
    for claimed, most in results:
        assert claimed > 0
        assert 1 <= most <= LIMIT
    table = map_table(fd, 2, 0)
    assert table.num_sessions(0) == table.num_sessions(HELD) == 0


def test_two_processes_that_race_for_the_last_session_share_what_there_is(fd: int) -> None:
    racers = start(_take_all, fd)
    together = []
    for _ in range(NUM_COLUMNS):
        for _, begin, _ in racers:
            begin.send(None)
        together.append(sum(done.recv() for _, _, done in racers))
    for process, _, _ in racers:
        process.join()
    assert max(together) == LIMIT
    # Both may give up where they meet at every try, which is rare.
    assert sum(together) > 0.9 * LIMIT * NUM_COLUMNS
