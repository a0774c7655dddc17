"""bench/pacing.py: when a chunk is due, and when a run is void."""

from __future__ import annotations

from bench.pacing import Schedule, is_void, lag_summary, stagger_ns

SCHEDULE = Schedule(begin_ns=1_000, chunk_samples=320, num_samples=1_000)
MS = 1_000_000


def test_a_chunk_is_due_when_its_last_sample_is_captured() -> None:
    assert SCHEDULE.num_chunks == 4
    assert [SCHEDULE.due_ns(k) - 1_000 for k in range(4)] == [20 * MS, 40 * MS, 60 * MS, 62_500_000]


def test_a_sample_is_sent_with_its_chunk() -> None:
    assert SCHEDULE.sent_ns(0) == SCHEDULE.sent_ns(319) == SCHEDULE.due_ns(0)
    assert SCHEDULE.sent_ns(320) == SCHEDULE.due_ns(1)


def test_samples_outside_the_stream_are_clamped_to_it() -> None:
    assert SCHEDULE.sent_ns(-5) == SCHEDULE.due_ns(0)
    assert SCHEDULE.sent_ns(99_999) == SCHEDULE.due_ns(3)


def test_no_sample_is_sent_before_it_exists() -> None:
    for sample in range(1_000):
        assert SCHEDULE.sent_ns(sample) >= SCHEDULE.begin_ns + (sample + 1) * 1_000_000 // 16


def test_stagger_spreads_the_streams() -> None:
    assert [stagger_ns(i, 4, 1_000) for i in range(4)] == [0, 250, 500, 750]


def test_a_late_generator_voids_the_run() -> None:
    assert is_void(None)
    assert is_void(lag_summary([6 * MS] * 10))
    assert not is_void(lag_summary([4 * MS] * 99 + [100 * MS]))
