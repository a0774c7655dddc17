"""Who was told when to come again waits so long, and others are not told to."""

from __future__ import annotations

import pytest

from bench.refusals import MIN_RETRY_S, retry_wait_s
from clients.errors import ClientError, ServerError
from protocol.errors import ErrorCode


@pytest.mark.parametrize(("told_ms", "wait_s"), [(1500, 1.5), (0, MIN_RETRY_S), (None, None)])
def test_it_waits_as_long_as_it_was_told(told_ms: int | None, wait_s: float | None) -> None:
    error = ServerError(ErrorCode.AT_CAPACITY, "full", retryable=True, retry_after_ms=told_ms)
    assert retry_wait_s(error) == wait_s


@pytest.mark.parametrize("error", [ClientError("no connection"), OSError("reset")])
def test_nobody_told_it_anything(error: Exception) -> None:
    assert retry_wait_s(error) is None
