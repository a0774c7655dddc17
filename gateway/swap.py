"""Replacing a model while the server runs: one swap, from its request to its end. Pure.

New services load the model while the old ones serve. When each has made a real step, new sessions
go to them and the workers move their streams; when no worker has any left at the old ones, these
are stopped. Whatever goes wrong before that leaves the old ones serving: the new ones are ended,
and streams that had moved come back. Knows no process and no clock: swap_desk.py tells it what
happens, and does what it asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from protocol.supervisor_messages import Remaining, Retire

from .children import Child, Children, Kind, Phase, Standing

STOP_GRACE_NS = 5_000_000_000  # from Stop to SIGKILL
# Behind the longest utterance: workers hurry their streams themselves; this is for one that hangs.
MOVE_SLACK_NS = 30_000_000_000
REPORT_INTERVAL_NS = 10_000_000_000  # while a model loads


class Stage(Enum):
    """How far a swap is."""

    LOADING = "loading"
    MOVING = "moving"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"


class Crew(Protocol):
    """Who carries out what a swap decides."""

    def tell_workers(self, message: Retire) -> None:
        """Say this to every worker."""

    def stop(self, child: Child) -> None:
        """Tell it to end."""

    def kill(self, child: Child) -> None:
        """End it now."""

    def report(self, text: str) -> None:
        """Tell whoever asked for the swap how it goes."""


class Swap:
    """See the module text. `text` says how it ended, when it has."""

    def __init__(
        self,
        children: Children,
        crew: Crew,
        model: str,
        rank: int,
        max_utterance_ms: int,
        now_ns: int,
    ) -> None:
        self.stage = Stage.LOADING
        self.text = ""
        self._children = children
        self._crew = crew
        self._model = model
        self._rank = rank
        self._begin_ns = now_ns
        self._report_ns = now_ns + REPORT_INTERVAL_NS
        self._move_ns = max_utterance_ms * 1_000_000 + MOVE_SLACK_NS
        self._deadline_ns = 0  # of the present stage, once streams move
        # Those of a swap that has just failed may not be gone yet.
        self._old = [c for c in children.services(rank) if c.standing is Standing.SERVING]
        self._old_model, self._old_name = self._old[0].model, name_of(self._old)
        self._new = children.add_services(model, rank, len(self._old), Standing.TRIAL)
        self._leaving: tuple[int, ...] = ()  # those that were old when sessions began to move
        self._remaining: dict[tuple[int, int], int] = {}  # streams by worker and service
        self._num_said = -1
        crew.report(f"loading {model}; {self._old_name} goes on serving")

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self.stage in (Stage.DONE, Stage.FAILED)

    # What happens

    def became_ready(self, now_ns: int) -> None:
        """A service has made its first step."""
        if self.stage is Stage.LOADING and all(c.phase is Phase.READY for c in self._new):
            self._begin_to_move(now_ns)

    def has_remaining(self, worker: int, message: Remaining, now_ns: int) -> None:
        """A worker says how many streams it has at a service that retires."""
        if self.stage is Stage.MOVING:
            self._remaining[worker, message.peer] = message.num_streams
            self._look_who_is_left(now_ns)

    def exited(self, child: Child, now_ns: int) -> None:
        """A child has ended, and `children` knows."""
        if child.kind is Kind.WORKER:
            for service in self._old:
                self._remaining.pop((child.index, service.index), None)
        elif child in self._new and self.stage in (Stage.LOADING, Stage.MOVING):
            self._fail(child.last_error or f"{self._model} ended before it could take over")
        elif child in self._old and child.standing is Standing.RETIRING:
            self._old.remove(child)
            if self.stage is Stage.MOVING:
                self._look_who_is_left(now_ns)
            elif not self._old:
                self._finish(now_ns)

    def tick(self, now_ns: int) -> None:
        """About once a second."""
        if self.stage is Stage.LOADING and now_ns >= self._report_ns:
            self._report_ns += REPORT_INTERVAL_NS
            seconds = (now_ns - self._begin_ns) // 1_000_000_000
            self._crew.report(f"loading {self._model}: {seconds} s")
        elif self.stage is Stage.MOVING:
            self._tell_workers()  # again: one may have been started anew, or too busy to read
            if now_ns >= self._deadline_ns:
                self._stop_old(now_ns)
        elif self.stage is Stage.STOPPING and now_ns >= self._deadline_ns:
            for child in self._old:
                self._crew.kill(child)

    def give_up(self, why: str) -> None:
        """Nobody wants it any more: before streams move it is taken back."""
        if self.stage is Stage.LOADING:
            self._fail(why)

    # What follows

    def _begin_to_move(self, now_ns: int) -> None:
        self.stage = Stage.MOVING
        self._deadline_ns = now_ns + self._move_ns
        self._share_names()
        for child in self._new:
            child.standing = Standing.PROMOTED
        self._leaving = tuple(child.index for child in self._old)
        for child in tuple(self._old):
            child.standing = Standing.RETIRING
            if not child.is_running:
                self._children.remove(child)
                self._old.remove(child)
        self._tell_workers()
        seconds = (now_ns - self._begin_ns) / 1e9
        self._crew.report(f"{name_of(self._new)} is ready after {seconds:.1f} s; sessions move")
        self._look_who_is_left(now_ns)

    def _share_names(self) -> None:
        """Both go by both names: a session that began with one may have to go on with the other."""
        both = (*self._old, *self._new)
        names = dict.fromkeys(name for c in both for name in (c.serves, *c.aliases) if name)
        for child in both:
            child.aliases = tuple(name for name in names if name != child.serves)

    def _tell_workers(self) -> None:
        for child in (*self._new, *self._old):
            self._crew.tell_workers(Retire(child.index, not child.takes_streams, child.aliases))
        # Those that died on the way out: nobody may wait for them to be started again.
        for index in set(self._leaving) - {child.index for child in self._old}:
            self._crew.tell_workers(Retire(index))

    def _look_who_is_left(self, now_ns: int) -> None:
        """Go on when every worker has said that it has no stream at the old services any more."""
        counts = [
            self._remaining.get((worker.index, service.index))
            for worker in self._children.running(Kind.WORKER)
            for service in self._old
        ]
        if all(count == 0 for count in counts):
            self._stop_old(now_ns)
            return
        num_left = sum(count or 0 for count in counts)
        if num_left != self._num_said and None not in counts:
            self._num_said = num_left
            self._crew.report(f"sessions still with {self._old_name}: {num_left}")

    def _stop_old(self, now_ns: int) -> None:
        self._tell_workers()
        self.stage = Stage.STOPPING
        self._deadline_ns = now_ns + STOP_GRACE_NS
        for child in self._new:
            child.standing = Standing.SERVING
        for child in self._old:
            self._crew.stop(child)
        if not self._old:
            self._finish(now_ns)

    def _finish(self, now_ns: int) -> None:
        self.stage = Stage.DONE
        seconds = (now_ns - self._begin_ns) / 1e9
        self.text = f"{name_of(self._new)} has replaced {self._old_name} in {seconds:.1f} s"

    def _fail(self, why: str) -> None:
        had_begun_to_move = self.stage is Stage.MOVING
        self.stage = Stage.FAILED
        self.text = f"{why}; {self._old_name} goes on serving"
        for child in self._new:
            child.standing = Standing.TRIAL
        for child in self._old:
            child.standing = Standing.SERVING
        if had_begun_to_move:
            self._replace_the_dead()
            self._tell_workers()
        for child in self._new:
            if child.is_running:
                self._crew.kill(child)
            elif child in self._children.members:
                self._children.remove(child)  # it was to be started

    def _replace_the_dead(self) -> None:
        """Old services that died when they were on their way out are needed after all."""
        missing = len(self._new) - len(self._old)
        added = self._children.add_services(self._old_model, self._rank, missing)
        for child in added:
            child.aliases = self._old[0].aliases


def name_of(services: Sequence[Child]) -> str:
    """What their model calls itself, or how it was named."""
    return next((child.serves for child in services if child.serves), services[0].model)
