"""Waiting for a condition: the one place where system tests let time pass.

Nothing sleeps as a means of synchronisation: a test names what it waits for, and fails with that
name when it does not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0
_POLL_S = 0.01


def wait_for(
    what: str, condition: Callable[[], T | None], timeout_s: float = DEFAULT_TIMEOUT_S
) -> T:
    """The first result of `condition` that is true."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)
