"""When to start, restart and give up on child processes: the supervisor's decisions, pure.

Knows no process, no socket and no clock: time is an argument, and what happened to a child is told
by method calls. supervisor.py does what `due` says and reports back. A child is named by
(kind, index); its epoch counts its starts, so that its peers can tell an old link from a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from protocol.supervisor_messages import EXIT_DEVICE_LOST as EXIT_DEVICE_LOST
from protocol.supervisor_messages import EXIT_HOPELESS as EXIT_HOPELESS
from protocol.supervisor_messages import Link, Sample

FIRST_DELAY_NS = 200_000_000
MAX_DELAY_NS = 5_000_000_000
# A child that worked for this long is healthy: its next crash is a first crash again.
HEALTHY_NS = 10_000_000_000
MAX_DEATHS_BEFORE_READY = 5


class Kind(str, Enum):
    """What a child process is."""

    WORKER = "worker"
    SERVICE = "service"


class Phase(Enum):
    """Where a child stands."""

    WAITING = "waiting"  # to be started at `start_at_ns`
    STARTING = "starting"  # runs, has not said Ready yet
    READY = "ready"
    GONE = "gone"  # ended, and will not be started again


class Standing(Enum):
    """A service's place in a swap (swap.py), which is the only one that changes it."""

    SERVING = "serving"
    # The server goes on without these if they end: it does not start them again.
    TRIAL = "trial"  # loads; no streams yet
    PROMOTED = "promoted"  # takes streams, and the service that it replaces is still there
    RETIRING = "retiring"  # its streams are to leave it


@dataclass(slots=True)
class Child:
    """One child over all its restarts."""

    kind: Kind
    index: int
    model: str = ""  # a service: what it is told to load
    rank: int = 0  # the place of that among the server's models
    serves: str = ""  # what the model calls itself, once it is ready
    aliases: tuple[str, ...] = ()  # of models that this one has replaced
    standing: Standing = Standing.SERVING
    phase: Phase = Phase.WAITING
    epoch: int = -1  # of the running or last process; the first one is 0
    start_at_ns: int = 0
    ready_ns: int = 0
    alive_ns: int = 0  # the last sign of life
    deaths_in_a_row: int = 0  # since it was last healthy: sets the delay
    deaths_before_ready: int = 0  # since it was last ready: sets the give-up
    last_error: str = ""

    @property
    def name(self) -> str:
        """For people: "service 0"."""
        return f"{self.kind.value} {self.index}"

    @property
    def is_running(self) -> bool:
        """True between `started` and `exited`."""
        return self.phase in (Phase.STARTING, Phase.READY)

    @property
    def takes_streams(self) -> bool:
        """New streams may go there once it is ready."""
        return self.standing in (Standing.SERVING, Standing.PROMOTED)


def restart_delay_ns(deaths_in_a_row: int) -> int:
    """200 ms after the first death, doubling up to 5 s."""
    return int(min(MAX_DELAY_NS, FIRST_DELAY_NS << min(deaths_in_a_row - 1, 10)))


@dataclass(slots=True)
class Children:
    """All children of one server."""

    members: list[Child] = field(default_factory=list)
    restarts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    is_ending: bool = False
    failure: str = ""  # why the server gave up
    _next_service: int = 0  # a number is given once

    @classmethod
    def of(cls, num_workers: int, num_services: int, models: Sequence[str] = ("",)) -> Children:
        """So many services for each model. Services first: their models load while the workers
        start."""
        children = cls()
        for rank, model in enumerate(models):
            children.add_services(model, rank, num_services)
        children.members += [Child(Kind.WORKER, i) for i in range(num_workers)]
        return children

    def add_services(
        self, model: str, rank: int, number: int, standing: Standing = Standing.SERVING
    ) -> list[Child]:
        """Services that are due at once."""
        first, self._next_service = self._next_service, self._next_service + number
        added = [
            Child(Kind.SERVICE, first + i, model, rank, standing=standing) for i in range(number)
        ]
        self.members += added
        return added

    def services(self, rank: int) -> list[Child]:
        """All that have, or will have, the model of this rank."""
        return [c for c in self.members if c.kind is Kind.SERVICE and c.rank == rank]

    def remove(self, child: Child) -> None:
        """It is gone for good, and the server is none the worse for it."""
        child.phase = Phase.GONE
        self.members.remove(child)

    def running(self, kind: Kind | None = None) -> list[Child]:
        """Children that have a process now."""
        return [c for c in self.members if c.is_running and kind in (None, c.kind)]

    def samples(self) -> list[Sample]:
        """How many are ready, and how often they were started again."""
        samples = []
        for kind in Kind:
            labels = (("kind", kind.value),)
            num_ready = sum(c.phase is Phase.READY for c in self.running(kind))
            samples.append(Sample("earwire_children_up", labels, num_ready))
            restarts = self.restarts[kind]
            samples.append(Sample("earwire_child_restarts_total", labels, restarts))
        return samples

    def due(self, now_ns: int) -> list[Child]:
        """Children to start now."""
        return [c for c in self.members if c.phase is Phase.WAITING and c.start_at_ns <= now_ns]

    def next_deadline(self) -> int | None:
        """When `due` will next return something."""
        times = [c.start_at_ns for c in self.members if c.phase is Phase.WAITING]
        return min(times, default=None)

    def started(self, child: Child) -> None:
        """`child` has a process; its epoch is the one of this process from now on."""
        child.phase = Phase.STARTING
        child.epoch += 1
        if child.epoch:
            self.restarts[child.kind] += 1

    def became_ready(self, child: Child, now_ns: int, serves: str = "") -> None:
        """`child` said Ready, and what its model is called."""
        child.serves = serves
        child.phase = Phase.READY
        child.ready_ns = child.alive_ns = now_ns
        child.deaths_before_ready = 0

    def stuck(self, now_ns: int, timeout_ns: int) -> list[Child]:
        """Services that were ready and have come to no end of a turn for so long; 0: never."""
        return [
            child
            for child in self.members
            if child.kind is Kind.SERVICE
            and child.phase is Phase.READY
            and 0 < timeout_ns < now_ns - child.alive_ns
        ]

    def forgive(self, now_ns: int) -> None:
        """Nobody listened for a while: what the services said in that time does not count."""
        for child in self.members:
            if child.kind is Kind.SERVICE and child.phase is Phase.READY:
                child.alive_ns = now_ns

    def exited(self, child: Child, status: int, now_ns: int) -> None:
        """The process of `child` ended with `status` (negative: by that signal)."""
        was_ready = child.phase is Phase.READY
        child.phase = Phase.GONE
        if self.is_ending:
            return
        if child.standing is not Standing.SERVING:
            self.remove(child)
            return
        if was_ready and now_ns - child.ready_ns >= HEALTHY_NS:
            child.deaths_in_a_row = 0
        child.deaths_in_a_row += 1
        child.deaths_before_ready += not was_ready
        hopeless = status == EXIT_HOPELESS and not was_ready
        if hopeless or child.deaths_before_ready >= MAX_DEATHS_BEFORE_READY:
            self._give_up(child, status)
            return
        child.phase = Phase.WAITING
        child.start_at_ns = now_ns + restart_delay_ns(child.deaths_in_a_row)

    def _give_up(self, child: Child, status: int) -> None:
        reason = child.last_error or f"it {describe_status(status)}; its messages are above"
        times = child.deaths_before_ready
        tries = "" if times == 1 else f" {times} times"
        self.failure = f"{child.name} failed{tries} before it was ready: {reason}"
        self.end()

    def end(self) -> None:
        """Start nothing any more: the server drains or stops."""
        self.is_ending = True
        for child in self.members:
            if child.phase is Phase.WAITING:
                child.phase = Phase.GONE

    @property
    def all_ready(self) -> bool:
        """Every worker listens, and of each model a service has made a real step."""
        workers = [c for c in self.members if c.kind is Kind.WORKER]
        services = [c for c in self.members if c.kind is Kind.SERVICE]
        ready_ranks = {c.rank for c in services if c.phase is Phase.READY}
        return (
            bool(ready_ranks)
            and all(c.phase is Phase.READY for c in workers)
            and all(c.rank in ready_ranks for c in services)
        )


def link_of(service: Child) -> Link:
    """What a worker is told of this service when it is joined to it."""
    is_standing_by = not service.takes_streams
    return Link(service.index, service.epoch, service.rank, service.aliases, is_standing_by)


def describe_status(status: int) -> str:
    """ "exited with status 3", "was killed by signal 9"."""
    if status < 0:
        return f"was killed by signal {-status}"
    if status == EXIT_DEVICE_LOST:
        return f"lost its GPU and exited with status {status}"
    return f"exited with status {status}"
