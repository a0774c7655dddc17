"""What a session is promised, first and later."""

from __future__ import annotations

import pytest

from gateway.latency_classes import Promise, first_promise, latency_message, new_promise
from protocol.client_messages import Latency, LatencyClass
from protocol.service_messages import Health, Pace

FULL, SLOW, FINALS_ONLY = LatencyClass.FULL, LatencyClass.SLOW, LatencyClass.FINALS_ONLY


def health(class_: LatencyClass, hop_ms: int) -> Health:
    return Health(1, 1, 1.0, 0, 0, 8, hop_ms, 30_000, latency_class=class_)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (None, Promise(FULL, 320)),
        (health(FULL, 380), Promise(FULL, 320)),
        (health(SLOW, 900), Promise(SLOW, 900)),
        (health(SLOW, 300), Promise(FULL, 320)),  # others want more than this one
        (health(FINALS_ONLY, 3_000), Promise(FINALS_ONLY, 3_000)),
    ],
)
def test_the_first_promise_is_the_services_state(report: Health | None, expected: Promise) -> None:
    assert first_promise(320, report) == expected


def test_only_another_class_is_news() -> None:
    known = Promise(SLOW, 900)
    assert new_promise(known, Pace(1, 1, SLOW, 1_200)) is None
    assert new_promise(known, Pace(1, 1, FULL, 320)) == Promise(FULL, 320)


def test_the_client_is_told_class_and_hop() -> None:
    assert latency_message(Promise(SLOW, 900)) == Latency(latency_class=SLOW, hop_ms=900)
