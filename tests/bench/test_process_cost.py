"""bench/process_cost.py: the parsers on text as the kernel writes it, and this process."""

from __future__ import annotations

import os

import pytest

from bench.process_cost import (
    Cost,
    TreeMeter,
    descendants,
    parse_stat,
    parse_status_bytes,
    read_cost,
    read_memory,
    role,
)

STAT = "4242 (a (b) c) S 17 4242 4242 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 1000 0 0"


def test_stat_survives_parentheses_in_the_name() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert parse_stat(STAT) == Cost(4242, 17, "a (b) c", 200 / ticks)


def test_status_lines_are_kilobytes() -> None:
    text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
    assert parse_status_bytes(text, "VmHWM") == 2048 * 1024
    assert parse_status_bytes(text, "VmSwap") == 0


def test_descendants_are_found_at_any_depth_and_in_any_order() -> None:
    costs = [Cost(4, 3, "", 0), Cost(3, 2, "", 0), Cost(2, 1, "", 0), Cost(9, 1, "", 0)]
    assert [cost.pid for cost in descendants(2, costs)] == [2, 3, 4]


def test_this_process_can_be_read() -> None:
    cost = read_cost(os.getpid())
    assert cost is not None
    assert cost.parent_pid == os.getppid()
    assert read_memory(os.getpid()) > 0
    assert sum(TreeMeter.start(os.getpid()).cpu_s().values()) >= 0


def test_a_process_that_is_gone_costs_nothing() -> None:
    gone = 2**22 + 1  # above the kernel's largest process number
    assert read_cost(gone) is None
    assert read_memory(gone) == 0
    assert role(gone) == "gone"
    with pytest.raises(ProcessLookupError):
        TreeMeter.start(gone)
