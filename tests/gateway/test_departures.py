"""Other workers' streams between two services."""

from __future__ import annotations

from gateway.departures import NUM_REPORTS, Departures

OLD, NEW, NEWER = range(3)


def test_they_count_until_every_service_that_may_have_them_has_reported_twice() -> None:
    departures = Departures()
    departures.left(0, 5, [NEW, NEWER])
    for _ in range(2 * NUM_REPORTS):
        departures.reported(NEW)
    assert departures.num_streams(0) == 5
    departures.reported(NEWER)
    departures.left(0, 2, [NEW, NEWER])
    assert departures.num_streams(0) == 7
    departures.reported(NEWER)
    assert departures.num_streams(0) == 2
    assert departures.num_streams(1) == 0, "another model's places are not concerned"


def test_a_service_that_is_lost_is_not_waited_for() -> None:
    departures = Departures()
    departures.left(0, 5, [NEW, NEWER])
    departures.lost(NEW)
    assert departures.num_streams(0) == 5
    departures.lost(NEWER)
    assert departures.num_streams(0) == 0


def test_those_that_go_nowhere_and_nobody_are_not_counted() -> None:
    departures = Departures()
    departures.left(0, 5, [])
    departures.left(0, -1, [NEW])
    departures.left(0, 0, [NEW])
    assert departures.num_streams(0) == 0
    assert not departures._num_streams


def test_it_stays_small_whoever_does_not_report() -> None:
    departures = Departures()
    for _ in range(1_000):
        departures.left(0, 1, [NEW, NEWER])
        departures.reported(NEW)
    assert departures.num_streams(0) == 1_000
    assert len(departures._num_streams) <= NUM_REPORTS + 1
