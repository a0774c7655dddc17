"""When to come again."""

from __future__ import annotations

from gateway.expected_places import (
    MAX_MS,
    MAX_WAITING,
    MIN_MS,
    NUM_ENDS,
    UNKNOWN_MS,
    WAITING_NS,
    ExpectedPlaces,
)

S = 1_000_000_000


def with_ends(*at_s: float) -> ExpectedPlaces:
    places = ExpectedPlaces()
    for seconds in at_s:
        places.stream_ended(int(seconds * S))
    return places


def test_nothing_is_known_before_two_streams_have_ended() -> None:
    assert ExpectedPlaces().refuse(S) == UNKNOWN_MS
    assert with_ends(1).refuse(2 * S) == UNKNOWN_MS


def test_the_next_place_is_free_after_one_interval() -> None:
    assert with_ends(0, 4, 8).refuse(12 * S) == 4_000


def test_who_comes_later_waits_longer_and_an_end_is_one_less() -> None:
    places = with_ends(0, 4, 8)
    assert [places.refuse(12 * S) for _ in range(3)] == [4_000, 8_000, 12_000]
    places.stream_ended(12 * S)
    assert places.refuse(12 * S) == 3 * 3_000


def test_refused_clients_are_forgotten_when_they_have_had_time_to_come_again() -> None:
    places = with_ends(0, 4, 8)
    for _ in range(5):
        places.refuse(12 * S)
    assert places.refuse(12 * S + WAITING_NS + 1) < 7_000


def test_it_is_neither_nothing_nor_for_ever() -> None:
    assert with_ends(1, 1.01, 1.02).refuse(int(1.03 * S)) == MIN_MS
    assert with_ends(1, 1_000).refuse(2_000 * S) == MAX_MS


def test_what_is_kept_is_bounded() -> None:
    places = with_ends(*range(10 * NUM_ENDS))
    for _ in range(10 * MAX_WAITING):
        places.refuse(10 * NUM_ENDS * S)
    assert places.refuse(10 * NUM_ENDS * S) == MAX_MS
