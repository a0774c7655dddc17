"""Drafts between groups: max-min fair; and what is told of it changes slowly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.draft_hops import (
    BETTER_AFTER_NS,
    MAX_HOP_SAMPLES,
    WORSE_AFTER_NS,
    HeldHops,
    latency_class,
    share_drafts,
    told_hop_ms,
)
from protocol.client_messages import LatencyClass

WANTED = 5_120  # 320 ms
S = 1_000_000_000
GROUPS = st.dictionaries(st.integers(0, 9), st.integers(1, 400), max_size=6)
ALONE = st.floats(0.1, 1e6)


def test_one_group_shares_all_the_time_there_is() -> None:
    assert share_drafts({0: 4}, 1_600, 0) == {0: 6_400}
    assert share_drafts({0: 4}, 1_600, WANTED) == {0: 6_400}
    assert share_drafts({0: 2}, 1_600, WANTED) == {0: WANTED}  # there is time for more


def test_the_group_with_most_speakers_feels_the_load_first() -> None:
    hops = share_drafts({1: 2, 2: 30}, 1_000, WANTED)
    assert hops[1] == WANTED
    rate_left = 1 / 1_000 - 2 / WANTED
    assert hops[2] == pytest.approx(30 / rate_left)


def test_what_was_never_measured_costs_nothing() -> None:
    assert share_drafts({1: 2, 2: 900}, 0.0, WANTED) == {1: WANTED, 2: WANTED}


def test_no_time_is_no_drafts() -> None:
    assert share_drafts({1: 2, 2: 3}, math.inf, WANTED) == {1: math.inf, 2: math.inf}
    assert share_drafts({}, math.inf, WANTED) == {}


@given(GROUPS, ALONE, st.sampled_from([0, WANTED]))
def test_the_drafts_are_shared_out_max_min_fair(
    speakers: dict[int, int], alone: float, wanted: int
) -> None:
    hops = share_drafts(speakers, alone, wanted)
    rates = {group: speakers[group] / hop for group, hop in hops.items()}
    total = 1 / alone
    assert sum(rates.values()) <= total * 1.000001
    unsatisfied = {g for g in hops if hops[g] > wanted * 1.000001}
    for group in unsatisfied:  # nobody has more, and nothing is left over
        assert rates[group] == pytest.approx(max(rates.values()))
        assert sum(rates.values()) == pytest.approx(total)


def held(*hops: tuple[float, float]) -> HeldHops:
    """After the group 1 had these hops, in samples, at these times in seconds."""
    hops_held = HeldHops(WANTED)
    for at_s, hop in hops:
        hops_held.update({1}, {1: hop}, WANTED, int(at_s * S))
    return hops_held


def test_a_hop_is_held_until_it_was_worse_for_a_second() -> None:
    worse_s = WORSE_AFTER_NS / S
    assert held((0.1, 20_000)).of(1) == WANTED
    assert held((1, 20_000), (1.5, WANTED), (2, 20_000), (2.5, 20_000)).of(1) == WANTED
    assert held((1, 20_000), (1 + worse_s, 21_000)).of(1) == 21_000
    assert held((1, 6_000), (9, 6_000)).of(1) == WANTED  # nothing to speak of


def test_a_hop_is_held_until_it_was_better_for_some() -> None:
    better_s = BETTER_AFTER_NS / S
    slow = ((1, 20_000), (2, 20_000))
    assert held(*slow, (3, 4_000), (2.5 + better_s, 4_000)).of(1) == 20_000
    assert held(*slow, (3, 4_000), (4, 19_000), (3 + better_s, 4_000)).of(1) == 20_000
    assert held(*slow, (3, 4_000), (3 + better_s, 4_000)).of(1) == WANTED


def test_a_hop_that_is_nearly_the_wanted_one_is_better_than_one_that_is_not() -> None:
    slow = ((1, 7_000), (2, 7_000))
    assert held(*slow, (3, 5_700), (7, 5_700)).of(1) == 7_000
    assert held(*slow, (3, 5_500), (7, 5_400)).of(1) == 5_500


def test_what_is_held_next_is_the_longest_of_the_better_time() -> None:
    slow = ((1, 20_000), (2, 20_000))
    assert held(*slow, (3, 9_000), (4, 13_000), (5, 9_000), (6, 8_000)).of(1) == 13_000


def test_no_drafts_is_a_hop_beyond_the_longest_one_and_is_left_again() -> None:
    lost = held((1, math.inf), (3, math.inf))
    assert MAX_HOP_SAMPLES < lost.of(1) < math.inf
    assert lost.longest == lost.of(1)
    for at_s in (4, 8):
        lost.update({1}, {1: 0.8 * MAX_HOP_SAMPLES}, WANTED, at_s * S)
    assert lost.of(1) > MAX_HOP_SAMPLES
    for at_s in (9, 13):
        lost.update({1}, {1: 0.7 * MAX_HOP_SAMPLES}, WANTED, at_s * S)
    assert lost.of(1) == 0.7 * MAX_HOP_SAMPLES


def test_groups_have_hops_of_their_own_and_are_forgotten() -> None:
    hops = HeldHops(WANTED)
    for at_s in (1, 3):
        hops.update({1, 2}, {1: 9_000, 2: 30_000}, WANTED, at_s * S)
    assert (hops.of(1), hops.of(2), hops.of(3), hops.longest) == (9_000, 30_000, WANTED, 30_000)
    hops.update({1}, {1: 9_000}, WANTED, 4 * S)
    assert (hops.of(2), hops.longest) == (WANTED, 9_000)
    assert HeldHops(WANTED).longest == WANTED


def test_what_is_wanted_may_change() -> None:
    """One stream asks for a shorter hop, gets it at once, and goes."""
    hops = held((1, WANTED))
    for at_s, wanted in ((2, 1_600), (3, WANTED)):
        hops.update({1}, {1: 900}, wanted, at_s * S)
        assert hops.of(1) == hops.of(2) == wanted


def test_who_wants_a_hop_beyond_the_longest_gets_drafts_all_the_same() -> None:
    hops = HeldHops(2 * MAX_HOP_SAMPLES)
    for at_s in (1, 9):
        hops.update({1}, {}, 2 * MAX_HOP_SAMPLES, at_s * S)
    assert hops.of(1) <= MAX_HOP_SAMPLES


@pytest.mark.parametrize(
    ("hop", "wanted", "expected", "hop_ms"),
    [
        (WANTED, WANTED, LatencyClass.FULL, 320),
        (1.25 * WANTED, WANTED, LatencyClass.FULL, 400),
        (1.3 * WANTED, WANTED, LatencyClass.SLOW, 416),
        (1.3 * WANTED, 2 * WANTED, LatencyClass.FULL, 640),
        (MAX_HOP_SAMPLES, WANTED, LatencyClass.SLOW, 3_000),
        (MAX_HOP_SAMPLES + 1, WANTED, LatencyClass.FINALS_ONLY, 3_000),
        (math.inf, WANTED, LatencyClass.FINALS_ONLY, 3_000),
    ],
)
def test_what_a_hop_is_to_a_stream(
    hop: float, wanted: int, expected: LatencyClass, hop_ms: int
) -> None:
    assert latency_class(hop, wanted) is expected
    assert told_hop_ms(hop, wanted) == hop_ms
