"""Gatekeeper: who is let in, who is refused in which words, and what is counted."""

from __future__ import annotations

import pytest

from gateway.errors import refusal
from gateway.fair_share import Room
from gateway.gatekeeper import DEMANDS_MAX_AGE_NS, Excess, Gatekeeper, Grant
from gateway.quota import QuotaTable, table_bytes
from gateway.tokens import secret_digest
from protocol.client_messages import Error
from protocol.errors import ErrorCode
from protocol.supervisor_messages import Token

NOW_NS = 1_000_000_000_000
TOKENS = (
    Token("agents", secret_digest("s3cret"), max_sessions=2, column=3),
    Token("kiosk", secret_digest("other"), per_minute=1, column=5),
    Token("free", secret_digest("free"), column=6),
)


def table() -> QuotaTable:
    return QuotaTable(memoryview(bytearray(table_bytes(1))), 1, 0)


def refused(answer: Grant | Error) -> Error:
    assert isinstance(answer, Error)
    return answer


def granted(answer: Grant | Error) -> Grant:
    assert isinstance(answer, Grant)
    return answer


def test_without_tokens_everybody_may_come_in_and_nothing_is_counted() -> None:
    keeper = Gatekeeper()
    assert not keeper.asks_for_tokens
    assert keeper.authorize("") is None
    assert keeper.authorize("anything") is None
    grant = granted(keeper.admit("", NOW_NS))
    assert grant == Grant("", None)
    keeper.release(grant)


def test_no_token_and_a_wrong_token_are_told_apart_and_not_retryable() -> None:
    keeper = Gatekeeper(TOKENS, table())
    assert keeper.asks_for_tokens
    for token, words in (("", "none came"), ("guess", "is not one of")):
        for error in (keeper.authorize(token), keeper.admit(token, NOW_NS)):
            assert isinstance(error, Error)
            assert error.code is ErrorCode.UNAUTHORIZED
            assert words in error.message
            assert "guess" not in error.message
            assert not error.retryable


def test_an_empty_file_lets_nobody_in() -> None:
    assert refused(Gatekeeper(()).admit("s3cret", NOW_NS)).code is ErrorCode.UNAUTHORIZED


def test_a_token_has_so_many_sessions_until_one_ends() -> None:
    quota = table()
    keeper = Gatekeeper(TOKENS, quota)
    assert keeper.authorize("s3cret") is None
    first = granted(keeper.admit("s3cret", NOW_NS))
    assert first == Grant("agents", 3)
    granted(keeper.admit("s3cret", NOW_NS))
    error = refused(keeper.admit("s3cret", NOW_NS))
    assert error.code is ErrorCode.RATE_LIMITED
    assert error.message == "all 2 sessions of the token 'agents' are open"
    assert error.retryable
    assert keeper.authorize("s3cret") is None  # it may still ask for the models
    keeper.release(first)
    granted(keeper.admit("s3cret", NOW_NS))
    assert quota.num_sessions(3) == 2


def test_a_token_may_begin_so_many_a_minute() -> None:
    keeper = Gatekeeper(TOKENS, table())
    keeper.release(granted(keeper.admit("other", NOW_NS)))
    error = refused(keeper.admit("other", NOW_NS))
    assert error.message == "the token 'kiosk' may begin 1 sessions a minute"
    assert error.retry_after_ms == 70_000  # it began in the first moment of ten seconds
    later_ns = NOW_NS + 69_000_000_000
    assert refused(keeper.admit("other", later_ns)).retry_after_ms == 1_000
    granted(keeper.admit("other", NOW_NS + 70_000_000_000))


@pytest.mark.parametrize("code", [ErrorCode.AT_CAPACITY, ErrorCode.UNKNOWN_MODEL])
def test_who_was_turned_away_has_begun_nothing(code: ErrorCode) -> None:
    keeper = Gatekeeper(TOKENS, table())
    for _ in range(3):
        grant = granted(keeper.admit("other", NOW_NS))
        later_ns = NOW_NS + 60_000_000_000  # the audio may come long after the hello
        keeper.turn_away(grant, refusal(code, "no"), later_ns)
        keeper.release(grant)
    granted(keeper.admit("other", NOW_NS))
    assert refused(keeper.admit("other", NOW_NS)).code is ErrorCode.RATE_LIMITED


def test_a_session_of_a_dead_worker_that_is_turned_away_was_no_start_here() -> None:
    quota = table()
    keeper = Gatekeeper(TOKENS, quota)
    granted(keeper.admit("other", NOW_NS))
    again = keeper.readmit("kiosk")
    assert again is not None
    keeper.turn_away(again, refusal(ErrorCode.AT_CAPACITY, "no"), NOW_NS)
    assert quota.num_starts(5, NOW_NS) == 1


def test_a_reload_counts_from_the_next_client_on() -> None:
    quota = table()
    keeper = Gatekeeper(TOKENS, quota)
    grant = granted(keeper.admit("s3cret", NOW_NS))
    keeper.replace(TOKENS[1:])
    assert refused(keeper.admit("s3cret", NOW_NS)).code is ErrorCode.UNAUTHORIZED
    keeper.release(grant)
    assert quota.num_sessions(3) == 0
    keeper.replace(None)
    assert keeper.authorize("") is None


def test_tokens_without_a_table_have_no_limits() -> None:
    keeper = Gatekeeper(TOKENS)
    grants = [granted(keeper.admit("s3cret", NOW_NS)) for _ in range(5)]
    assert grants[0] == Grant("agents", None)
    keeper.release(grants[0])


def test_a_grant_says_whose_share_of_the_drafts_it_is() -> None:
    assert Grant("agents", 3).group == 4
    assert Grant("agents", 0).group == 1
    assert Grant().group == 0


class Shop:
    """Places, as many as it says."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0

    def room(self, now_ns: int) -> Room:
        free = self.places - self.taken
        return Room(self.places, free, self.places, free)

    def full(self, now_ns: int, reason: str) -> Error:
        return refusal(ErrorCode.AT_CAPACITY, reason, 1_234)


CROWD = (
    Token("many", secret_digest("many"), column=0),
    Token("few", secret_digest("few"), column=1),
)


@pytest.fixture
def shop() -> Shop:
    return Shop(8)


@pytest.fixture
def keeper(shop: Shop) -> Gatekeeper:
    return Gatekeeper(CROWD, table(), shop)


def enter(keeper: Gatekeeper, shop: Shop, token: str, now_ns: int) -> bool:
    """True when it got a place."""
    answer = keeper.admit(token, now_ns)
    if isinstance(answer, Error):
        assert (answer.code, answer.retry_after_ms) == (ErrorCode.AT_CAPACITY, 1_234)
        return False
    if shop.taken == shop.places:
        error = refusal(ErrorCode.AT_CAPACITY, "full")
        keeper.turn_away(answer, error, now_ns)
        keeper.turn_away(answer, refusal(ErrorCode.UNKNOWN_MODEL, "no"), now_ns)
        keeper.release(answer)
        return False
    shop.taken += 1
    return True


def test_a_token_alone_leaves_a_place_for_whoever_comes(keeper: Gatekeeper, shop: Shop) -> None:
    got = [enter(keeper, shop, "many", NOW_NS) for _ in range(20)]
    assert got == [True] * 7 + [False] * 13
    assert enter(keeper, shop, "few", NOW_NS)


def test_what_a_crowd_gives_back_goes_to_whoever_was_refused(
    keeper: Gatekeeper, shop: Shop
) -> None:
    grants = [granted(keeper.admit("many", NOW_NS)) for _ in range(7)]
    shop.taken = 7
    assert enter(keeper, shop, "few", NOW_NS)
    now_ns = NOW_NS
    entered = {"many": 0, "few": 0}
    for grant in grants:
        now_ns += DEMANDS_MAX_AGE_NS
        assert not enter(keeper, shop, "few", now_ns)
        keeper.release(grant)
        shop.taken -= 1
        now_ns += DEMANDS_MAX_AGE_NS
        entered["many"] += enter(keeper, shop, "many", now_ns)
        entered["few"] += enter(keeper, shop, "few", now_ns)
        entered["many"] += enter(keeper, shop, "many", now_ns)
    assert entered["few"] >= 3  # besides the first: four of eight
    assert entered["few"] + entered["many"] + 1 == shop.taken


def test_a_session_of_a_dead_worker_counts_again_whatever_the_limits() -> None:
    quota = table()
    keeper = Gatekeeper(TOKENS, quota)
    grants = [keeper.readmit("kiosk") for _ in range(3)]
    assert grants == [Grant("kiosk", 5)] * 3
    assert quota.num_sessions(5) == 3
    keeper.release(Grant("kiosk", 5))
    assert quota.num_sessions(5) == 2
    assert keeper.readmit("gone") is None
    assert keeper.readmit("") == Grant(""), "of a listener that asks for no token"
    assert Gatekeeper().readmit("") == Grant("")
    assert Gatekeeper(TOKENS).readmit("free") == Grant("free")


def test_without_a_column_or_a_table_nothing_is_counted() -> None:
    quota = table()
    Gatekeeper(CROWD, quota).turn_away(Grant(), refusal(ErrorCode.AT_CAPACITY, "full"), NOW_NS)
    assert quota.num_refused(0, NOW_NS) == 0
    Gatekeeper(CROWD).turn_away(Grant("many", 0), refusal(ErrorCode.AT_CAPACITY, "full"), NOW_NS)


def test_a_new_token_in_the_file_counts_at_once(shop: Shop) -> None:
    keeper = Gatekeeper(CROWD[:1], table(), shop)
    for _ in range(7):
        assert enter(keeper, shop, "many", NOW_NS)
    keeper.replace(CROWD)
    assert not enter(keeper, shop, "many", NOW_NS)


def test_excesses_are_two() -> None:
    assert {excess.value for excess in Excess} == {"sessions", "rate"}
