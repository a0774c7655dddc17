"""BulkBudget: bursts, the share over time, and how long to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.bulk_budget import BURST_NS, MAX_DEBT_NS, SHARE, BulkBudget


def test_a_burst_then_a_wait_that_is_just_long_enough() -> None:
    budget = BulkBudget(0)
    assert budget.wait_ns(0) == 0
    budget.spend(BURST_NS + 1_000)
    wait_ns = budget.wait_ns(0)
    assert wait_ns == 1_000 / SHARE + 1
    assert budget.wait_ns(wait_ns - 3) > 0
    assert budget.wait_ns(wait_ns) == 0


def test_no_work_makes_others_wait_for_long() -> None:
    budget = BulkBudget(0)
    budget.spend(10**12)
    assert budget.wait_ns(0) == MAX_DEBT_NS / SHARE + 1


def test_idle_time_is_saved_up_to_one_burst() -> None:
    budget = BulkBudget(0)
    assert budget.wait_ns(10**12) == 0
    budget.spend(BURST_NS)
    assert budget.wait_ns(10**12) > 0


@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=300))
def test_the_share_holds_over_any_pieces_of_work(pieces: list[int]) -> None:
    """Work as soon as it is allowed: it never has more than its share, a burst and one piece."""
    budget = BulkBudget(0)
    now_ns = done_ns = 0
    for piece in pieces:
        now_ns += budget.wait_ns(now_ns)
        assert budget.wait_ns(now_ns) == 0
        budget.spend(piece)
        now_ns += piece
        done_ns += piece
        assert done_ns <= now_ns * SHARE + BURST_NS + piece
