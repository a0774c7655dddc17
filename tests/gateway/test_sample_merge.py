"""Merging metric samples over children and their restarts."""

from __future__ import annotations

from gateway.sample_merge import SampleTable, merge_samples
from protocol.supervisor_messages import Sample

A = (("dialect", "native"),)
B = (("dialect", "together"),)


def test_sums_and_maxima_by_name_and_labels() -> None:
    merged = merge_samples(
        [
            Sample("open", A, 1.0),
            Sample("open", B, 2.0),
            Sample("open", A, 3.0),
            Sample("worst", (), 5.0, "max"),
            Sample("worst", (), 4.0, "max"),
        ]
    )
    assert merged == (
        Sample("open", A, 4.0),
        Sample("open", B, 2.0),
        Sample("worst", (), 5.0, "max"),
    )


def test_newer_samples_of_a_child_replace_older_ones() -> None:
    table = SampleTable()
    table.update("w0", (Sample("n_total", (), 1.0),))
    table.update("w0", (Sample("n_total", (), 2.0),))
    table.update("w1", (Sample("n_total", (), 5.0),))
    assert table.merged() == (Sample("n_total", (), 7.0),)


def test_a_dead_childs_counters_stay_and_its_gauges_go() -> None:
    table = SampleTable()
    for _ in range(2):
        counted = Sample("n_total", (), 3.0)
        table.update("w0", (counted, Sample("open", (), 9.0), Sample("x_total", (), 1.0, "max")))
        table.retire("w0")
    table.retire("never seen")
    assert table.merged([Sample("own", (), 1.0)]) == (
        Sample("n_total", (), 6.0),
        Sample("own", (), 1.0),
    )
