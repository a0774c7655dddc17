"""When to acknowledge, to ask, to connect again and to give up."""

from __future__ import annotations

import pytest

from clients.errors import ConnectionLost, ServerError
from clients.resumption import (
    ATTEMPT_TIMEOUT_MS,
    DEAD_AFTER_MS,
    FIRST_RETRY_MS,
    MAX_RETRY_MS,
    PING_AFTER_MS,
    EventCount,
    Liveness,
    Outage,
    Verdict,
)
from protocol.errors import ErrorCode
from protocol.resume_messages import ACK_EVERY_EVENTS, ACK_WITHIN_MS

MS = 1_000_000
LOST = ConnectionLost("cut")


def test_nothing_to_acknowledge_is_never_due() -> None:
    assert EventCount().due_ns is None


def test_the_first_of_some_events_says_when_they_are_acknowledged() -> None:
    count = EventCount()
    count.add(1 * MS)
    count.add(400 * MS)
    assert count.due_ns is not None
    assert 1 * MS < count.due_ns <= (1 + ACK_WITHIN_MS) * MS
    count.told()
    assert (count.received, count.due_ns) == (2, None)


def test_many_events_and_the_last_one_are_acknowledged_at_once() -> None:
    count = EventCount()
    for _ in range(ACK_EVERY_EVENTS):
        count.add(7)
    assert count.due_ns == 7
    count.told()
    count.add(9, is_last=True)
    assert count.due_ns == 9


def test_a_silent_server_is_asked_once_and_then_left() -> None:
    liveness = Liveness(0)
    assert liveness.check(PING_AFTER_MS * MS - 1) is Verdict.WAIT
    asked_ns = liveness.due_ns
    assert liveness.check(asked_ns) is Verdict.PING
    assert liveness.check(asked_ns) is Verdict.WAIT
    assert liveness.due_ns == asked_ns + DEAD_AFTER_MS * MS
    assert liveness.check(liveness.due_ns) is Verdict.DEAD


def test_whatever_comes_is_a_sign_of_life() -> None:
    liveness = Liveness(0)
    liveness.check(liveness.due_ns)
    liveness.heard(6_000 * MS)
    assert liveness.check(20_000 * MS) is Verdict.PING


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_attempts_come_apart_up_to_a_bound_and_end_with_the_window(spread: float) -> None:
    outage = Outage(LOST, 30_000, 0, lambda: spread)
    delays_ms = [outage.retry_ns / MS]
    while not outage.is_hopeless:
        now_ns = outage.retry_ns
        outage.began(now_ns)
        outage.failed(LOST, now_ns)
        delays_ms.append((outage.retry_ns - now_ns) / MS)
    factor = 1 + spread / 2
    assert delays_ms[:4] == [
        spread * FIRST_RETRY_MS,
        *(f * FIRST_RETRY_MS * factor for f in (1, 2, 4)),
    ]
    assert max(delays_ms) == MAX_RETRY_MS * factor
    assert 10 < len(delays_ms) < 30


def test_an_attempt_has_its_own_time() -> None:
    outage = Outage(LOST, 30_000, 5, lambda: 0.0)
    assert (outage.needs_socket, outage.due_ns) == (True, 5)
    outage.began(10)
    assert (outage.needs_socket, outage.due_ns) == (False, 10 + ATTEMPT_TIMEOUT_MS * MS)
    outage.again(20)
    assert (outage.needs_socket, outage.due_ns) == (True, 20)


def test_a_server_may_ask_for_more_time() -> None:
    outage = Outage(LOST, 30_000, 0, lambda: 0.0)
    outage.failed(ServerError(ErrorCode.RESUME_LATER, "soon", True, 4_000), 0)
    assert outage.retry_ns == 4_000 * MS


def test_the_last_reason_is_the_one_to_tell() -> None:
    outage = Outage(LOST, 30_000, 0)
    assert str(outage.failure()) == "cut (tried again for 30 s)"
    refusal = ServerError(ErrorCode.AT_CAPACITY, "full", True)
    outage.failed(refusal, 0)
    assert outage.failure() is refusal
