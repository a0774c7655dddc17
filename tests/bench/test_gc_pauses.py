"""bench/gc_pauses.py: the log of the hook, sorted."""

from __future__ import annotations

from bench.gc_pauses import Pause, parse_log, sort_out

LOG = """100 2000000 2 5 0
1000000100 500000 0 1 0
1500000100 3000000 1 0 0
3000000000 40000000 2 9 1
"""


def test_warm_up_is_left_out_and_the_forced_one_kept_apart() -> None:
    pauses = sort_out(parse_log(LOG), 1_000_000_000, 2_000_000_000)
    assert [pause.duration_ms for pause in pauses.natural] == [0.5, 3.0]
    assert pauses.full_ms == 40.0
    assert pauses.ms_a_minute == 3.5 * 60


def test_lines_are_parsed() -> None:
    assert parse_log(LOG)[0] == Pause(100, 2.0, 2, False)
    assert parse_log("") == []
