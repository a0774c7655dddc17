"""What counts in bench.overload, and which runs are good ones."""

from __future__ import annotations

from bench.overload import RECOVERY_S, Outcome
from bench.overload_marks import (
    GRACE_S,
    MAX_FINAL_LAG_MS,
    MAX_GAP_MS,
    MIN_COUNT,
    Notes,
    Refusal,
    Text,
    marks,
)
from protocol.client_messages import LatencyClass

FULL, SLOW, FINALS_ONLY = LatencyClass.FULL, LatencyClass.SLOW, LatencyClass.FINALS_ONLY
CLEAN = Refusal(1.0, "many", "at_capacity", 2_000)


def draft(at_s: float, latency_class: LatencyClass = FULL, gap_ms: float = 320.0) -> Text:
    return Text(at_s, latency_class, False, 100.0, gap_ms)


def final(at_s: float, latency_class: LatencyClass = FULL, lag_ms: float = 500.0) -> Text:
    return Text(at_s, latency_class, True, lag_ms)


def test_texts_count_for_the_class_that_was_told() -> None:
    notes = Notes("many", [draft(1), final(2), draft(20, SLOW, 2_000)], [(0, FULL), (15, SLOW)])
    full, slow = marks([notes])
    assert (full.latency_class, slow.latency_class) == (FULL, SLOW)
    assert full.gaps is not None
    assert full.gaps.max == 320
    assert full.final_lags is not None
    assert slow.final_lags is None
    assert full.problems == slow.problems == []
    assert [mark.latency_class for mark in marks([notes], since_s=10)] == [SLOW]


def test_just_before_worse_news_nothing_counts_and_before_better_news_everything() -> None:
    texts = [draft(10 - GRACE_S - 1, gap_ms=1), draft(9, gap_ms=9_000), draft(19, SLOW, 3_000)]
    notes = Notes("many", texts, [(0, FULL), (10, SLOW), (20, FULL)])
    full, slow = marks([notes])
    assert full.gaps is not None
    assert slow.gaps is not None
    assert (full.gaps.max, slow.gaps.max) == (1, 3_000)
    assert notes.latency_class is FULL


def test_a_class_that_is_not_kept_is_a_problem() -> None:
    late = MAX_FINAL_LAG_MS + 1
    texts = [draft(1, FULL, MAX_GAP_MS[FULL] + 1), final(2, SLOW, late), draft(3, FINALS_ONLY, 1)]
    assert not any(mark.problems for mark in marks([Notes("many", texts)]))  # too few to judge
    full, slow, finals_only = marks([Notes("many", texts * MIN_COUNT)])
    assert "too far apart" in full.problems[0]
    assert "finals are late" in slow.problems[0]
    assert "too far apart" in finals_only.problems[0]  # there should be no drafts at all


def good() -> Outcome:
    return Outcome(
        capacity=4, offered=8, refusals=[CLEAN], few_wanted=2.0, few_talking=1.8,
        recovery_s=3.0, is_newcomer_admitted=True,
    )  # fmt: skip


def test_a_good_run_has_no_problems() -> None:
    assert good().problems == []


def test_every_other_one_says_what_was_wrong() -> None:
    for field, value, words in (
        ("refusals", [], "no overload"),
        ("refusals", [Refusal(1.0, "many", "internal", 1)], "not refused cleanly"),
        ("refusals", [Refusal(1.0, "many", "at_capacity", None)], "not refused cleanly"),
        ("few_talking", 0.5, "the few had 0.5"),
        ("recovery_s", None, f"within {RECOVERY_S:g} s"),
        ("is_newcomer_admitted", False, "newcomer"),
        ("errors", ["connection lost"], "connection lost"),
        ("mismatches", ["Closed(...)"], "Closed"),
        ("notes", [Notes("many", [final(2, SLOW, 9_999)] * MIN_COUNT)], "finals are late"),
    ):
        outcome = good()
        setattr(outcome, field, value)
        assert len(outcome.problems) == 1
        assert words in outcome.problems[0]
