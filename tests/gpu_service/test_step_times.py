"""StepTimes: what is measured counts, what is not is guessed from its neighbours."""

from __future__ import annotations

import pytest

from gpu_service.step_times import RAMP, Kind, StepTimes

DRAFT = Kind("draft", 0)
FINAL = Kind("final", 1)


def test_nothing_is_known_at_first() -> None:
    times = StepTimes()
    assert times.expected_ns({DRAFT: 5}) == times.at_least_ns(DRAFT, 5) == 0.0
    assert not times.knows(DRAFT)
    assert times.smallest("draft") == DRAFT


def test_a_batch_takes_what_its_bucket_took_in_the_mean() -> None:
    times = StepTimes()
    times.took({DRAFT: 3}, 1_000.0)
    assert times.expected_ns({DRAFT: 4}) == 1_000.0
    times.took({DRAFT: 4}, 2_000.0)
    assert times.expected_ns({DRAFT: 3}) == pytest.approx(1_000.0 + RAMP * 1_000.0)
    assert times.knows(DRAFT)
    assert not times.knows(FINAL)
    times.took({Kind("final", 3): 1, FINAL: 1}, 1.0)
    assert times.smallest("final") == FINAL


def test_twice_the_number_takes_twice_the_time_at_most_and_fewer_take_no_more() -> None:
    times = StepTimes()
    times.took({DRAFT: 4}, 1_000.0)
    assert times.expected_ns({DRAFT: 16}) == 4_000.0
    assert times.expected_ns({DRAFT: 1}) == 1_000.0
    assert times.at_least_ns(DRAFT, 16) == 1_000.0
    assert times.at_least_ns(DRAFT, 1) == 1_000.0


def test_the_nearest_smaller_bucket_is_asked() -> None:
    times = StepTimes()
    for count, ns in ((1, 500.0), (8, 700.0), (64, 3_000.0)):
        times.took({DRAFT: count}, ns)
    assert times.expected_ns({DRAFT: 16}) == 1_400.0
    assert times.at_least_ns(DRAFT, 16) == 700.0
    assert times.at_least_ns(DRAFT, 300) == 3_000.0


def test_twice_the_audio_takes_twice_the_time_at_most() -> None:
    times = StepTimes()
    times.took({Kind("final", 0): 1}, 1_000.0)
    assert times.expected_ns({Kind("final", 2): 1}) == 4_000.0
    assert times.expected_ns({Kind("final", 2): 2}) == 8_000.0
    assert times.expected_ns({DRAFT: 1}) == 0.0


def test_batches_between_two_powers_of_two_are_their_own() -> None:
    times = StepTimes()
    times.took({DRAFT: 128}, 8_000.0)
    assert times.expected_ns({DRAFT: 190}) == 12_000.0
    times.took({DRAFT: 190}, 9_000.0)
    assert times.expected_ns({DRAFT: 129}) == 9_000.0
    assert times.expected_ns({DRAFT: 193}) == 12_000.0


def test_what_is_new_in_a_mixed_step_took_what_the_others_leave() -> None:
    times = StepTimes()
    times.took({DRAFT: 8}, 5_000.0)
    times.took({DRAFT: 8, FINAL: 2}, 12_000.0)
    assert times.expected_ns({DRAFT: 8}) == 5_000.0
    assert times.expected_ns({FINAL: 2}) == 7_000.0
    times.took({DRAFT: 8, Kind("final", 0): 1}, 4_000.0)  # faster than the drafts alone
    assert times.expected_ns({Kind("final", 0): 1}) == 0.0


def test_known_kinds_share_a_mixed_step_as_expected() -> None:
    times = StepTimes()
    times.took({DRAFT: 8}, 5_000.0)
    times.took({FINAL: 2}, 15_000.0)
    times.took({DRAFT: 8, FINAL: 2}, 40_000.0)
    assert times.expected_ns({DRAFT: 8}) == pytest.approx(5_000.0 + RAMP * 5_000.0)
    assert times.expected_ns({FINAL: 2}) == pytest.approx(15_000.0 + RAMP * 15_000.0)
    assert times.expected_ns({DRAFT: 8, FINAL: 2}) == pytest.approx(20_000.0 + RAMP * 20_000.0)


def test_one_step_that_something_disturbed_does_not_keep_batches_small() -> None:
    times = StepTimes()
    times.took({DRAFT: 8}, 1_000.0)
    times.took({DRAFT: 16}, 1_500.0)
    for _ in range(50):
        times.took({DRAFT: 16}, 1e9)
    assert times.expected_ns({DRAFT: 16}) == 2_000.0  # twice of 8
    assert times.expected_ns({DRAFT: 64}) == 8_000.0
    times.took({DRAFT: 8}, 1e9)
    assert times.expected_ns({DRAFT: 8}) == pytest.approx(1_000.0 + RAMP * 2_000.0)
