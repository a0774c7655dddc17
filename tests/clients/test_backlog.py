"""What is dropped when a program does not read its events: never a final."""

from __future__ import annotations

import pytest

from clients.backlog import Backlog
from clients.errors import EventsUnread
from protocol.client_messages import Watermark

from .test_blocking import final, partial


def drain(backlog: Backlog) -> list[object]:
    return [backlog.pop() for _ in range(len(backlog))]


def test_order_is_kept() -> None:
    backlog = Backlog()
    events = [partial("a"), final("b"), partial("c")]
    for event in events:
        backlog.push(event)
    assert drain(backlog) == events
    assert backlog.pop() is None


def test_of_watermarks_in_a_row_the_last_stays() -> None:
    backlog = Backlog()
    for event in (Watermark(1, 1, 0), Watermark(2, 2, 0), final("a"), Watermark(3, 3, 0)):
        backlog.push(event)
    assert drain(backlog) == [Watermark(2, 2, 0), final("a"), Watermark(3, 3, 0)]


def test_old_partials_go_first_and_then_it_is_an_error() -> None:
    backlog = Backlog(max_events=3)
    for event in (partial("a"), final("b"), partial("c"), final("d"), final("e")):
        backlog.push(event)
    with pytest.raises(EventsUnread, match=r"read events\(\)"):
        backlog.push(final("f"))
    assert drain(backlog) == [final("b"), final("d"), final("e")]
