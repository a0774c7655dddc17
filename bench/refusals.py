"""How long a client that was refused waits until it comes again: the server says it. Pure.

One rule for all clients of the benches; what a refusal means to a bench, that bench knows.
"""

from __future__ import annotations

from clients.errors import ServerError

MIN_RETRY_S = 0.2  # a server that says zero is not asked in a loop


def retry_wait_s(error: Exception) -> float | None:
    """Seconds until the next try; None for whoever was not told to come again."""
    if not isinstance(error, ServerError) or error.retry_after_ms is None:
        return None
    return max(MIN_RETRY_S, error.retry_after_ms / 1000)
