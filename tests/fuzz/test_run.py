"""run.py's reading of libFuzzer, and what it keeps of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.fuzz_plot import plot_fuzz

from . import run
from .run import MAX_POINTS, Progress

LINES = (
    "INFO: Loaded 1 modules",
    "#2\tINITED cov: 10 ft: 10 corp: 1/1b exec/s: 0 rss: 90Mb",
    "#64\tNEW    cov: 12 ft: 14 corp: 2/9b lim: 4 exec/s: 0 rss: 90Mb",
    "#128\tREDUCE cov: 12 ft: 14 corp: 2/8b lim: 4 exec/s: 0 rss: 90Mb",
    "stat::number_of_executed_units: 130",
    "stat::peak_rss_mb:              91",
)


def test_what_libfuzzer_says_is_counted() -> None:
    progress = Progress()
    for second, line in enumerate(LINES):
        progress.take(line, float(second))
    assert progress.record() == {
        "inputs": 130, "seconds": 5.0, "inputs_per_s": 26, "edges": 12,
        "last_new_edge_input": 64, "edges_by_input": [(2, 10), (64, 12)], "peak_rss_mib": 91,
        "slowest_s": 0,
    }  # fmt: skip
    assert Progress().record()["edges"] == 0


def test_a_curve_keeps_its_end() -> None:
    points = [(number, number) for number in range(100)]
    thinned = run._thinned(points)
    assert len(thinned) <= MAX_POINTS + 1
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])


def test_inputs_of_all_runs_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "fuzz.json")
    monkeypatch.setattr(run, "version", lambda name: "3.0")
    monkeypatch.setattr(run.platform, "python_version", lambda: "3.12")
    for name, inputs in (("b", 5), ("a", 1), ("b", 7), ("b", 2)):
        run.write_record(name, {"inputs": inputs})
    targets = json.loads(run.RESULTS.read_text())["targets"]
    assert list(targets) == ["a", "b"]
    assert targets["b"] == {
        "python": "3.12",
        "inputs": 7,
        "inputs_so_far": 14,
    }  # the longest is shown
    run.write_record("b", {"inputs": 3, "failed": 77})
    targets = json.loads(run.RESULTS.read_text())["targets"]
    assert targets["b"] == {
        "python": "3.12", "inputs": 3, "failed": 77, "inputs_so_far": 17,
    }  # fmt: skip


def test_a_picture_of_what_is_there(tmp_path: Path) -> None:
    record = {"inputs": 130, "edges_by_input": [(2, 10), (64, 12)]}
    path = tmp_path / "fuzz.png"
    plot_fuzz({"a": record, "never ran": {"inputs_so_far": 1}}, str(path))
    assert path.stat().st_size > 0


def test_words_for_libfuzzer() -> None:
    assert run._dictionary_line(b'"\x00') == '"\\x22\\x00"\n'
