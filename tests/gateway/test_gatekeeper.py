"""Gatekeeper: who is let in, who is refused in which words, and what is counted."""

from __future__ import annotations

from gateway.gatekeeper import RATE_RETRY_AFTER_MS, Excess, Gatekeeper, Grant
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
    assert error.retry_after_ms == RATE_RETRY_AFTER_MS
    granted(keeper.admit("other", NOW_NS + 80_000_000_000))


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


def test_excesses_are_two() -> None:
    assert {excess.value for excess in Excess} == {"sessions", "rate"}
