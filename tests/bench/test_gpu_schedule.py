"""bench/gpu_schedule.py: who is due when, what counts as late, and how the most is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bench.gpu_schedule import LIMIT_MS, Search, Served, SkippingClock, serve
from bench.percentiles import Summary

HOP_S = 0.16


@dataclass
class Machine:
    """Steps take fixed_s, and each_s a stream of at most `most`; answers take answer_s more of the
    host's time, which the next step's may hide. Nothing else takes time.
    """

    fixed_s: float
    each_s: float = 0.0
    answer_s: float = 0.0
    most: int = 256
    time_s: float = 0.0
    done_s: float = 0.0
    steps: list[list[int]] = field(default_factory=list)
    num_finished: int = 0

    def begin(self, due: Sequence[int]) -> int:
        served = list(due[: self.most])
        unanswered = self.steps[self.num_finished :]
        assert not {*served} & {stream for step in unanswered for stream in step}
        self.steps.append(served)
        self.done_s = self.time_s + self.fixed_s + self.each_s * len(served)
        return len(served)

    def wait(self) -> None:
        self.time_s = max(self.time_s, self.done_s)

    def finish(self) -> None:
        self.num_finished += 1
        assert self.num_finished <= len(self.steps)
        self.time_s += self.answer_s

    def serve(self, streams: int, duration_s: float = 1.6) -> Served:
        clock = SkippingClock(lambda: self.time_s)
        served = serve(self, streams, HOP_S, duration_s, clock)
        assert self.num_finished == len(self.steps) == served.steps
        return served


def test_every_stream_is_served_each_hop_in_turn() -> None:
    machine = Machine(fixed_s=0.001, answer_s=0.002)
    served = machine.serve(4, duration_s=3 * HOP_S)
    assert [stream for step in machine.steps for stream in step] == [0, 1, 2, 3] * 3
    assert (served.hops, served.has_backlog, served.holds) == (12, False, True)
    assert served.latency_ms is not None
    assert served.latency_ms.max == pytest.approx(3.0)  # nobody waits for anybody
    assert served.busy_share == pytest.approx(4 * 0.001 / HOP_S)


def test_batches_grow_with_the_load() -> None:
    alone, many = Machine(fixed_s=0.01).serve(8), Machine(fixed_s=0.01).serve(160)
    assert alone.mean_batch == pytest.approx(1.0)
    assert many.mean_batch > 8
    assert many.holds


def test_answers_are_made_while_the_next_step_is_computed() -> None:
    hidden = Machine(fixed_s=0.03, answer_s=0.02).serve(60)
    assert not hidden.has_backlog
    assert hidden.busy_share > 0.9
    assert hidden.mean_batch == pytest.approx(0.03 / (HOP_S / 60), rel=0.2)


def test_a_step_never_has_a_stream_twice() -> None:
    machine = Machine(fixed_s=1.5 * HOP_S)
    served = machine.serve(3)
    assert all(len(set(step)) == len(step) <= 3 for step in machine.steps)
    assert served.has_backlog
    assert not served.holds


def test_one_stream_alone() -> None:
    served = Machine(fixed_s=0.01).serve(1)
    assert (served.hops, served.holds) == (10, True)


def test_too_many_streams_end_a_run_early() -> None:
    machine = Machine(fixed_s=0.0, each_s=0.001)
    served = machine.serve(200, duration_s=100.0)
    assert served.has_backlog
    assert len(machine.steps) < 1000


def test_latency_counts_from_when_a_hop_is_due() -> None:
    machine = Machine(fixed_s=0.03, most=1)
    served = machine.serve(4, duration_s=2 * HOP_S)
    # A hop every 40 ms, a step of 30: nobody waits. Every 20 ms: each one waits 10 ms longer.
    assert served.latency_ms is not None
    assert served.latency_ms.max == pytest.approx(30.0)
    late = Machine(fixed_s=0.03, most=1).serve(8, duration_s=HOP_S)
    assert late.latency_ms is not None
    assert late.latency_ms.max == pytest.approx(30.0 + 7 * 10.0)


def level(streams: int, p95_ms: float) -> Served:
    return Served(streams, Summary(10, 1.0, p95_ms, p95_ms, p95_ms), 1, 10, 0.5, False)


@pytest.mark.parametrize("truth", [1, 31, 32, 300, 512, 999, 1999, 2000])
def test_the_search_finds_the_most_that_hold(truth: int) -> None:
    asked: list[int] = []

    def measure(streams: int) -> Served:
        asked.append(streams)
        return level(streams, LIMIT_MS - 1 if streams <= truth else LIMIT_MS)

    search = Search(measure, first=256, most=2000, step=32)
    best = search.run()
    assert search.is_complete
    found = best.streams if best else 0
    assert found <= truth < found + 32 or found == 2000
    assert len(asked) == len(set(asked)) <= 12


def test_without_time_the_best_so_far_counts() -> None:
    search = Search(lambda n: level(n, 1.0), 4, 1000, 1, lambda: len(search.levels) == 2)
    best = search.run()
    assert best is not None
    assert best.streams == 8
    assert not search.is_complete
