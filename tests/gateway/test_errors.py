"""Refusals follow the table of retryable codes."""

from __future__ import annotations

from gateway.errors import RETRY_AFTER_MS, ListenError, refusal
from protocol.errors import ErrorCode


def test_refusals() -> None:
    assert refusal(ErrorCode.AT_CAPACITY, "full").retry_after_ms == RETRY_AFTER_MS
    final = refusal(ErrorCode.BAD_MESSAGE, "no")
    assert not final.retryable
    assert final.retry_after_ms is None


def test_a_listen_error_names_the_address() -> None:
    assert str(ListenError("127.0.0.1", 80, "denied")) == "cannot listen on 127.0.0.1:80: denied"
