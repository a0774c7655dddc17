"""Fair shares of the last places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.fair_share import Demand, Room, is_over_share

IDLE = Demand()


def room(places: int, free: int) -> Room:
    return Room(places, free, places, free)


def test_the_only_token_may_have_everything() -> None:
    assert not is_over_share(7, [], room(8, 1))


def test_one_place_in_eight_is_kept_for_whoever_comes() -> None:
    assert not is_over_share(13, [IDLE], room(16, 3))
    assert is_over_share(14, [IDLE], room(16, 2))
    assert not is_over_share(0, [IDLE], room(1, 1))


def test_below_its_share_a_token_takes_whatever_is_free() -> None:
    assert not is_over_share(7, [Demand(8, 50)], room(16, 1))
    assert is_over_share(8, [Demand(7, 50)], room(16, 1))


def test_while_half_is_free_nothing_is_kept() -> None:
    other = Demand(sessions=0, refused=50)
    assert not is_over_share(9, [other], Room(16, 9, 16, 9))
    assert is_over_share(9, [other], Room(16, 8, 16, 9))
    assert is_over_share(9, [other], Room(16, 9, 16, 8))


def test_who_has_and_wants_nothing_has_no_share() -> None:
    assert not is_over_share(9, [IDLE, IDLE, Demand(0, 0)], room(16, 7))
    assert is_over_share(9, [Demand(1, 9), Demand(1, 9)], room(16, 7))


def test_no_more_is_kept_than_was_asked_for() -> None:
    other = Demand(sessions=2, refused=3)
    assert is_over_share(10, [other], room(16, 3))
    assert not is_over_share(10, [other], room(16, 4))


def test_the_slots_of_this_worker_are_kept_alike() -> None:
    """Of four workers each keeps a fourth of what is kept."""
    other = Demand(sessions=0, refused=4)
    assert not is_over_share(10, [other], Room(16, 6, 4, 2))
    assert is_over_share(10, [other], Room(16, 6, 4, 1))


def test_a_server_without_places() -> None:
    assert is_over_share(1, [IDLE], Room(0, 0, 0, 0))
    assert not is_over_share(0, [IDLE], Room(0, 0, 0, 0))  # there it is full, not unfair


SMALL = st.integers(0, 40)
DEMANDS = st.lists(st.builds(Demand, SMALL, SMALL), max_size=6)


@given(SMALL, DEMANDS, st.integers(1, 64))
def test_an_empty_server_lets_everybody_in(
    sessions: int, others: list[Demand], places: int
) -> None:
    share = places / (1 + len(others))
    if sessions < min(share, places - -(-places // 8)):
        assert not is_over_share(sessions, others, room(places, places))


@given(SMALL, DEMANDS, st.integers(1, 64), st.integers(0, 64))
def test_more_free_places_are_never_a_reason_to_refuse(
    sessions: int, others: list[Demand], places: int, free: int
) -> None:
    if is_over_share(sessions, others, room(places, free + 1)):
        assert is_over_share(sessions, others, room(places, free))
