"""The streams of `bench live` over several processes, for more of them than one can pace.

Each process runs its share as live_run.py does, on a schedule of its own that begins when its
streams are admitted; the same schedule bounds every latency, so nothing has to begin together.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from .live_log import StreamLog
from .live_metrics import Measures
from .live_run import LivePlan, run_live
from .process_cost import set_priority

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What all processes brought back."""

    logs: list[StreamLog]  # in the order of the plan's recordings
    measures: Measures  # of all of them
    cpu_s: float  # of all generators, sending and receiving only


def shares(items: Sequence[Item], num_processes: int) -> list[tuple[Item, ...]]:
    """Item i for process i modulo their number; processes without any are left out."""
    parts = [tuple(items[first::num_processes]) for first in range(num_processes)]
    return [part for part in parts if part]


def joined(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """What shares() took apart, in its order."""
    longest = max(map(len, parts), default=0)
    return [part[place] for place in range(longest) for part in parts if place < len(part)]


def run_fleet(plan: LivePlan, num_processes: int, nice: int = 0) -> FleetRun:
    """Run a plan. Raises what a stream's opening raises."""
    plans = [replace(plan, recordings=part) for part in shares(plan.recordings, num_processes)]
    if len(plans) == 1:
        runs = [run_share(plans[0])]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            len(plans), context, initializer=set_priority, initargs=(nice,)
        ) as pool:
            runs = list(pool.map(run_share, plans))
    measures = Measures()
    for run in runs:
        measures.merge(run.measures)
    logs = joined([run.logs for run in runs])
    return FleetRun(logs, measures, sum(run.cpu_s for run in runs))


def run_share(plan: LivePlan) -> FleetRun:
    """One process's streams; what is measured of them is computed there too."""
    begin_s = time.process_time()
    logs = asyncio.run(run_live(plan))
    cpu_s = time.process_time() - begin_s
    measures = Measures()
    for log, recording in zip(logs, plan.recordings, strict=True):
        measures.add(log, list(recording.speech), recording.heard)
    return FleetRun(logs, measures, cpu_s)
