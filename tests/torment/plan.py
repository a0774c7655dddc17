"""What a tormentor does to the bytes of one direction of one connection. Pure.

A Plan cuts the stream into pieces of given sizes whatever came together, waits at given positions,
and resets the connection at one. It never changes a byte: TCP does not either. proxy.py carries
the steps out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

AS_IT_COMES = 0  # a piece of this size is all that is there
WHOLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Send:
    """Pass these bytes on, in a segment of their own."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stall:
    """Let this much time pass."""

    ms: float


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection in both directions, as a host that crashed does."""


Step: TypeAlias = Send | Stall | Reset


@dataclass(frozen=True, slots=True)
class Plan:
    """For one direction. Positions are bytes since the connection began."""

    pieces: tuple[int, ...] = (AS_IT_COMES,)  # sizes, again and again
    merge_bytes: int = 0  # hold back until so many are there, or nothing more comes for a while
    stalls: tuple[tuple[int, float], ...] = ()  # (position, milliseconds)
    reset_at: int | None = None


PLAIN = Plan()


@dataclass(frozen=True, slots=True)
class Torment:
    """Both directions of one connection."""

    to_server: Plan = PLAIN
    to_client: Plan = PLAIN

    def as_json(self) -> dict[str, Any]:
        """For the proxy's command line."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Torment:
        """The same again."""
        return cls(*(_plan(values[name]) for name in ("to_server", "to_client")))


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(
        tuple(values["pieces"]),
        values["merge_bytes"],
        tuple((at, ms) for at, ms in values["stalls"]),
        values["reset_at"],
    )


def random_torment(seed: int, max_bytes: int, *, resets: bool = False) -> Torment:
    """Pieces of all sizes, some stalls within the first `max_bytes`, perhaps a reset."""
    rng = random.Random(seed)

    def plan() -> Plan:
        sizes = tuple(rng.choice((1, 2, 3, 7, 16, 61, 640, 1_448, 9_000)) for _ in range(8))
        stalls = tuple((rng.randrange(max_bytes), rng.uniform(5, 60)) for _ in range(4))
        merge = rng.choice((0, 0, 4_096, 20_000))
        return Plan((*sizes, WHOLE), merge, tuple(sorted(stalls)))

    to_server, to_client = plan(), plan()
    if resets:
        reset = Plan(to_server.pieces, 0, to_server.stalls, rng.randrange(max_bytes))
        return Torment(reset, to_client) if rng.random() < 0.7 else Torment(to_server, reset)
    return Torment(to_server, to_client)


class Cutter:
    """One direction's bytes as steps."""

    def __init__(self, plan: Plan) -> None:
        self._sizes = itertools.cycle(plan.pieces)
        self._stalls = list(plan.stalls)
        self._reset_at = plan.reset_at
        self.position = 0  # bytes that were passed on

    def steps(self, data: bytes) -> Iterator[Step]:
        """What to do with the next bytes."""
        while True:
            while self._stalls and self._stalls[0][0] <= self.position:
                yield Stall(self._stalls.pop(0)[1])
            if self._reset_at is not None and self.position >= self._reset_at:
                yield Reset()
                return
            if not data:
                return
            size = self._size(len(data))
            piece, data = data[:size], data[size:]
            self.position += size
            yield Send(piece)

    def _size(self, available: int) -> int:
        """Of the next piece: never over a position where something happens."""
        size = min(next(self._sizes) or available, available)
        edges = [at for at, _ in self._stalls[:1]]
        if self._reset_at is not None:
            edges.append(self._reset_at)
        return min([size, *(at - self.position for at in edges if at > self.position)])
