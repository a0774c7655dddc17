"""EventLoop: dispatch, interest, timers and hooks, over socket pairs and a manual clock."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gateway.bulk_budget import BURST_NS, SHARE
from gateway.event_loop import MAX_EVENTS_PER_TURN, MAX_TIMERS_PER_TURN, EventLoop

from .rig import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def loop(clock: ManualClock) -> Iterator[EventLoop]:
    loop = EventLoop(clock)
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    yield a, b
    a.close()
    b.close()


def turn(loop: EventLoop) -> int:
    """One turn that never sleeps; the events besides the wake-up."""
    loop.wake()
    return loop.run_once() - 1


Pair = tuple[socket.socket, socket.socket]


def test_readable_until_read(loop: EventLoop, pair: Pair) -> None:
    a, b = pair
    seen: list[bytes] = []
    loop.register(a.fileno(), lambda: seen.append(a.recv(1)))
    b.send(b"xy")
    assert [turn(loop) for _ in range(3)] == [1, 1, 0]
    assert seen == [b"x", b"y"]


def test_writable_only_when_asked(loop: EventLoop, pair: Pair) -> None:
    a, _ = pair
    writable: list[int] = []
    loop.register(a.fileno(), lambda: None, lambda: writable.append(1))
    assert turn(loop) == 0
    loop.modify(a.fileno(), read=True, write=True)
    loop.modify(a.fileno(), read=True, write=True)
    assert turn(loop) == 1
    assert writable == [1]


def test_a_paused_descriptor_does_not_spin_on_a_hang_up(loop: EventLoop, pair: Pair) -> None:
    a, b = pair
    seen: list[bytes] = []
    loop.register(a.fileno(), lambda: seen.append(a.recv(9)))
    loop.modify(a.fileno(), read=False, write=False)
    b.send(b"last")
    b.close()
    assert turn(loop) == 0
    loop.modify(a.fileno(), read=True, write=False)
    turn(loop)
    turn(loop)
    assert seen == [b"last", b""]


def test_a_hang_up_reaches_a_writer(loop: EventLoop, pair: Pair) -> None:
    a, b = pair
    writable: list[int] = []
    loop.register(a.fileno(), lambda: None, lambda: writable.append(1))
    loop.modify(a.fileno(), read=False, write=True)
    b.close()
    turn(loop)
    assert writable == [1]


def test_a_handler_may_unregister_others_of_the_same_turn(loop: EventLoop) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    called: list[int] = []

    def end_all(number: int) -> None:
        called.append(number)
        for ours, _ in pairs:
            loop.unregister(ours.fileno())

    for number, (ours, theirs) in enumerate(pairs):
        loop.register(ours.fileno(), lambda n=number: end_all(n))  # type: ignore[misc]
        theirs.send(b"x")
    pairs[2][1].close()  # IN and HUP together
    turn(loop)
    assert len(called) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_paused_and_then_unregistered(loop: EventLoop, pair: Pair) -> None:
    loop.register(pair[0].fileno(), lambda: None)
    loop.modify(pair[0].fileno(), read=False, write=False)
    loop.unregister(pair[0].fileno())
    assert turn(loop) == 0


def test_events_of_a_turn_are_bounded(loop: EventLoop) -> None:
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(MAX_EVENTS_PER_TURN + 10)]
    counts = dict.fromkeys(fds, 0)

    def count(fd: int) -> None:
        counts[fd] += 1

    for fd in fds:
        loop.register(fd, lambda fd=fd: count(fd))  # type: ignore[misc]
    assert loop.run_once() == MAX_EVENTS_PER_TURN
    loop.run_once()
    assert min(counts.values()) == 1  # those left out came first in the next turn
    for fd in fds:
        loop.unregister(fd)
        os.close(fd)


def test_timers_fire_in_order_once_and_not_early(loop: EventLoop, clock: ManualClock) -> None:
    fired: list[str] = []
    start = loop.now_ns
    loop.call_at(start + 2_000_000, lambda: fired.append("b"))
    loop.call_at(start + 1_000_000, lambda: fired.append("a"))
    cancelled = loop.call_at(start + 1_000_000, lambda: fired.append("never"))
    cancelled.cancel()
    cancelled.cancel()
    turn(loop)
    assert fired == []
    clock.advance_ms(1)
    turn(loop)
    assert fired == ["a"]
    clock.advance_ms(5)
    turn(loop)
    turn(loop)
    assert fired == ["a", "b"]
    assert loop.num_timers == 0


def test_a_fired_timer_may_be_cancelled_and_a_timer_may_set_another(loop: EventLoop) -> None:
    fired: list[int] = []
    timer = loop.call_at(0, lambda: fired.append(1))
    loop.call_at(0, lambda: loop.call_at(0, lambda: fired.append(2)) and None)
    turn(loop)
    timer.cancel()
    assert fired == [1, 2]


def test_timers_of_a_turn_are_bounded(loop: EventLoop) -> None:
    fired: list[int] = []
    for number in range(MAX_TIMERS_PER_TURN + 1):
        loop.call_at(0, lambda n=number: fired.append(n))  # type: ignore[misc]
    turn(loop)
    assert len(fired) == MAX_TIMERS_PER_TURN
    loop.run_once()  # a due timer does not sleep
    assert len(fired) == MAX_TIMERS_PER_TURN + 1


def test_cancelled_timers_do_not_pile_up(loop: EventLoop) -> None:
    for _ in range(10_000):
        loop.call_at(1 << 62, lambda: None).cancel()
    assert loop.num_timers < 2_100


def test_hooks_run_before_each_sleep_and_time_is_read_after_it(
    loop: EventLoop, clock: ManualClock
) -> None:
    seen: list[int] = []
    work: list[int] = []
    loop.before_sleep.append(lambda: seen.append(loop.now_ns))
    loop.on_turn = work.append
    before = loop.now_ns
    clock.advance_ms(3)
    turn(loop)
    turn(loop)
    assert seen == [before, before + 3_000_000]
    assert work == [3_000_000, 0]


def test_run_ends_after_stop(loop: EventLoop) -> None:
    loop.call_at(0, loop.stop)
    loop.run()


def test_what_is_postponed_runs_once_in_the_next_turn() -> None:
    loop = EventLoop()
    calls: list[str] = []

    def again() -> None:
        calls.append("again")
        if len(calls) < 3:
            loop.call_next_turn(again)

    loop.call_next_turn(again)
    assert calls == []
    for turn in range(1, 4):
        loop.run_once()
        assert calls == ["again"] * turn
    loop.close()


def test_what_is_postponed_gets_a_share_of_the_time_and_no_more(clock: ManualClock) -> None:
    """Half a burst each: two at once, the others when their time has come, in order."""
    loop = EventLoop(clock)
    calls: list[int] = []

    def work(number: int) -> None:
        calls.append(number)
        clock.now_ns += BURST_NS // 2

    for number in range(4):
        loop.call_next_turn(lambda number=number: work(number))  # type: ignore[misc]
    turn(loop)
    done = len(calls)
    assert 2 <= done < 4
    turn(loop)
    assert len(calls) == done
    clock.now_ns += int(BURST_NS / SHARE)
    turn(loop)
    assert calls == [0, 1, 2, 3]
    assert loop.num_timers == 0
    loop.close()


def test_bulk_work_elsewhere_counts_too(clock: ManualClock) -> None:
    loop = EventLoop(clock)
    begin_ns = clock()
    clock.now_ns += 2 * BURST_NS
    loop.charge(begin_ns)
    calls: list[str] = []
    loop.call_next_turn(lambda: calls.append("now"))
    turn(loop)
    assert not calls
    clock.now_ns += int(2 * BURST_NS / SHARE)
    turn(loop)
    assert calls == ["now"]
    loop.close()
