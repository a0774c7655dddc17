"""The event loop: epoll, timers, before-sleep hooks. The ae.c of this project.

It owns the epoll descriptor, the timer heap and the clock, which it reads once a turn (`now_ns`).
It knows descriptors and callbacks and nothing about what they are for. A worker runs exactly one,
in its only thread; level-triggered, so a handler that takes only part of what is there (one recv
a turn) is called again on the next turn, after everybody else had theirs.
"""

from __future__ import annotations

import heapq
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from .bulk_budget import BulkBudget

Callback: TypeAlias = Callable[[], None]

# A turn ends with one flush to the services and to the clients, so a short turn is what keeps
# audio from waiting for it. Measured at 1,500 native streams on one core, p99 from receive to
# announcement: 5.6 and 5.9 ms with 128 events a turn, 3.3 and 3.3 ms with 64, CPU alike.
MAX_EVENTS_PER_TURN = 64
MAX_TIMERS_PER_TURN = 256
_COMPACT_ABOVE = 1_024  # cancelled timers that may lie in the heap before it is rebuilt

_READ_MASK = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITE_MASK = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Timer:
    """One pending call; `cancel` may be called any number of times, also after it fired."""

    __slots__ = ("_loop", "callback", "deadline_ns")

    def __init__(self, loop: EventLoop, deadline_ns: int, callback: Callback) -> None:
        self._loop = loop
        self.deadline_ns = deadline_ns
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call it; drops the reference to the callback at once."""
        if self.callback is not None:
            self.callback = None
            self._loop.timer_cancelled()

    def __lt__(self, other: Timer) -> bool:
        return self.deadline_ns < other.deadline_ns


def _ignore_turn(work_ns: int) -> None:
    """Nobody measures."""


class EventLoop:
    """register / modify / unregister descriptors, call_at for timers, run_once for a turn."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.read_clock = clock
        self.now_ns = clock()
        self.before_sleep: list[Callback] = []
        self.on_turn: Callable[[int], None] = _ignore_turn  # gets each turn's work in ns
        self._epoll = select.epoll()
        self._on_readable: dict[int, Callback] = {}
        self._on_writable: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._num_cancelled = 0
        self._stopped = False
        self._postponed: deque[Callback] = deque()
        self._bulk = BulkBudget(self.now_ns)  # for what is postponed
        self._bulk_timer: Timer | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wake_fd, self._on_wake)

    # Descriptors

    def register(self, fd: int, on_readable: Callback, on_writable: Callback | None = None) -> None:
        """Watch `fd` for reading; `modify` asks for writing."""
        self._on_readable[fd] = on_readable
        if on_writable is not None:
            self._on_writable[fd] = on_writable
        self._masks[fd] = select.EPOLLIN
        self._epoll.register(fd, select.EPOLLIN)

    def modify(self, fd: int, read: bool, write: bool) -> None:
        """What to watch a registered descriptor for."""
        mask = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        old = self._masks[fd]
        if mask == old:
            return
        self._masks[fd] = mask
        if not mask:
            # epoll reports a hang-up whether asked or not: a paused reader whose peer is gone
            # would spin. Nothing to watch means not watched at all.
            self._epoll.unregister(fd)
        elif old:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def unregister(self, fd: int) -> None:
        """Forget `fd`; call it before closing."""
        if self._masks.pop(fd):
            self._epoll.unregister(fd)
        del self._on_readable[fd]
        self._on_writable.pop(fd, None)

    # Timers

    def call_at(self, deadline_ns: int, callback: Callback) -> Timer:
        """Call once, in the first turn at or after the deadline."""
        timer = Timer(self, deadline_ns, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def timer_cancelled(self) -> None:
        """A Timer says that it lies dead in the heap; rebuild when most of the heap is dead."""
        self._num_cancelled += 1
        if self._num_cancelled > max(_COMPACT_ABOVE, len(self._timers) // 2):
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._num_cancelled = 0

    @property
    def num_timers(self) -> int:
        """Timers in the heap, cancelled ones included."""
        return len(self._timers)

    # Turning

    def run(self) -> None:
        """Turn until `stop`."""
        while not self._stopped:
            self.run_once()

    def run_once(self) -> int:
        """One turn: flush, sleep, serve what is ready, fire timers; returns the events served."""
        for hook in self.before_sleep:
            hook()
        sleep_ns = self.read_clock()
        self.on_turn(sleep_ns - self.now_ns)
        events = self._epoll.poll(self._timeout_s(sleep_ns), MAX_EVENTS_PER_TURN)
        self.now_ns = self.read_clock()
        self._dispatch(events)
        self._fire_timers()
        return len(events)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._stopped = True
        self.wake()

    def call_next_turn(self, callback: Callback) -> None:
        """Once, among what the next turn serves, or a later one: for work of which there may be
        much. All of it together gets a part of the time (bulk_budget.py).
        """
        self._postponed.append(callback)
        if self._bulk_timer is None:
            self.wake()

    @property
    def is_bulk_waiting(self) -> bool:
        """Such work has had its part of the time for now."""
        return self._bulk_timer is not None or self._bulk.wait_ns(self.read_clock()) > 0

    def charge(self, begin_ns: int) -> None:
        """Work since `begin_ns` was of that kind."""
        self._bulk.spend(self.read_clock() - begin_ns)

    def wake(self) -> None:
        """End the present sleep; safe in a signal handler."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Give the loop's own descriptors back."""
        self.unregister(self._wake_fd)
        os.close(self._wake_fd)
        self._epoll.close()

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        # A handler may unregister any descriptor, also one later in this list; and a new one may
        # get its number, which then sees a spurious call and finds nothing to read.
        on_readable = self._on_readable.get
        for fd, mask in events:
            if mask == select.EPOLLIN:
                handler = on_readable(fd)
                if handler is not None:
                    handler()
            else:
                self._serve(fd, mask)

    def _serve(self, fd: int, mask: int) -> None:
        """The general case: a hang-up or an error goes to whoever waits for anything."""
        if mask & _READ_MASK and self._masks.get(fd, 0) & select.EPOLLIN:
            self._on_readable[fd]()
        if mask & _WRITE_MASK and self._masks.get(fd, 0) & select.EPOLLOUT:
            self._on_writable[fd]()

    def _fire_timers(self) -> None:
        for _ in range(MAX_TIMERS_PER_TURN):
            if not self._timers or self._timers[0].deadline_ns > self.now_ns:
                return
            timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._num_cancelled -= 1
            else:
                callback()

    def _timeout_s(self, sleep_ns: int) -> float | None:
        if self._stopped:
            return 0.0
        if not self._timers:
            return None
        return max(0, self._timers[0].deadline_ns - sleep_ns) / 1e9

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake_fd)
        if self._bulk_timer is None:
            self._run_postponed()

    def _run_postponed(self) -> None:
        """What was put off until now, as far as its time goes."""
        for _ in range(len(self._postponed)):
            begin_ns = self.read_clock()
            wait_ns = self._bulk.wait_ns(begin_ns)
            if wait_ns:
                self._bulk_timer = self.call_at(begin_ns + wait_ns, self._end_bulk_wait)
                return
            self._postponed.popleft()()
            self.charge(begin_ns)

    def _end_bulk_wait(self) -> None:
        self._bulk_timer = None
        self._run_postponed()
