"""Long fuzzing with edge coverage: `python -m tests.fuzz.run TARGET... --seconds N`.

It needs atheris, which is no dependency of the project:

    python3.11 -m venv .venv-fuzz && .venv-fuzz/bin/pip install atheris -e '.[tiny,parakeet,dev]'
    .venv-fuzz/bin/python -m tests.fuzz.run all --seconds 120

Each target runs in a child of its own from the kept corpus and the seeds. The few of its inputs
that reach what all of them reach go into corpus/, the numbers into bench/results/fuzz.json. A
crash, a hang (20 s) or more than 2 GiB ends the target: its input is in the folder that is named,
and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.fuzz_plot import plot_fuzz

from . import corpus
from .target import POISON, Target
from .targets import TARGETS

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "fuzz.json"
MAX_INPUT_S = 20
MAX_RSS_MIB = 2_048
LEN_CONTROL = 5_000  # longer inputs are slower: they come once shorter ones find nothing new
MAX_POINTS = 12  # of one coverage curve
_STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+)")
_STAT = re.compile(r"^stat::(\w+):\s+(\d+)")


@dataclass(slots=True)
class Progress:
    """What libFuzzer said of one run."""

    inputs: int = 0
    seconds: float = 0.0
    edges: list[tuple[int, int]] = field(default_factory=list)  # at which input, how many by then
    stats: dict[str, int] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)

    def take(self, line: str, seconds: float) -> None:
        """One line of it."""
        self.seconds = seconds
        self.tail = [*self.tail[-60:], line]
        status, stat = _STATUS.match(line), _STAT.match(line)
        if status:
            self.inputs = max(self.inputs, int(status[1]))
            if not self.edges or int(status[2]) > self.edges[-1][1]:
                self.edges.append((int(status[1]), int(status[2])))
        elif stat:
            self.stats[stat[1]] = int(stat[2])

    def record(self) -> dict[str, Any]:
        """For fuzz.json."""
        inputs = self.stats.get("number_of_executed_units", self.inputs)
        last_input, edges = self.edges[-1] if self.edges else (0, 0)
        return {
            "inputs": inputs,
            "seconds": round(self.seconds, 1),
            "inputs_per_s": round(inputs / max(self.seconds, 0.1)),
            "edges": edges,
            "last_new_edge_input": last_input,
            "edges_by_input": _thinned(self.edges),
            "peak_rss_mib": self.stats.get("peak_rss_mb", 0),
            "slowest_s": self.stats.get("slowest_unit_time_sec", 0),
        }


def _thinned(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    step = -(-len(points) // MAX_POINTS) if points else 1
    return (
        [*points[::step], *points[-1:]] if points[::step][-1:] != points[-1:] else [*points[::step]]
    )


def _dictionary_line(word: bytes) -> str:
    """As libFuzzer reads it."""
    return '"' + "".join(f"{chr(92)}x{byte:02x}" for byte in word) + '"\n'


def fuzz(target: Target, arguments: Sequence[str], folder: Path) -> tuple[int, Progress]:
    """One run from the inputs in `folder`, which grows; exit status and what was said."""
    progress = Progress()
    begin = time.monotonic()
    for line in _child(target, [*arguments, f"-artifact_prefix={folder}.", str(folder)]):
        if isinstance(line, int):
            return line, progress
        progress.take(line, time.monotonic() - begin)
    raise AssertionError("a child ends with its status")


def _child(target: Target, arguments: Sequence[str]) -> Iterator[str | int]:
    """Lines of its output, then its exit status."""
    command = [sys.executable, "-m", "tests.fuzz.child", target.name, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            yield line.rstrip("\n")
        yield child.wait()


def run_target(target: Target, seconds: int, runs: int) -> dict[str, Any]:
    """Fuzz, keep what is worth it; the record."""
    kept = corpus.load(target.name)
    work = Path(tempfile.mkdtemp(prefix=f"fuzz-{target.name}-"))
    folder = work / "inputs"
    folder.mkdir()
    for number, data in enumerate([*target.seeds(), *kept]):
        (folder / f"{number:05}").write_bytes(data[: target.max_bytes])
    (work / "words").write_text("".join(map(_dictionary_line, POISON)))
    limits = [
        f"-dict={work / 'words'}",
        f"-timeout={MAX_INPUT_S}",
        f"-rss_limit_mb={MAX_RSS_MIB}",
        f"-len_control={LEN_CONTROL}",
        "-print_final_stats=1",
    ]
    limits += [f"-max_total_time={seconds}", f"-runs={runs}"]
    status, progress = fuzz(target, limits, folder)
    record = progress.record()
    if status:
        print("\n".join(progress.tail[-40:]), f"\n{target.name}: status {status}; see {work}")
        return {**record, "failed": status}
    record["corpus"] = corpus.keep(target, (path.read_bytes() for path in folder.iterdir()))
    shutil.rmtree(work)
    return record


def write_record(name: str, record: dict[str, Any]) -> None:
    """Into fuzz.json: the longest run of a target, and the inputs of all of them added up in
    `inputs_so_far`. A shorter one that failed is told all the same.
    """
    results: dict[str, Any] = {"targets": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
    before = results["targets"].get(name, {})
    so_far = before.get("inputs_so_far", 0) + record["inputs"]
    if "failed" not in record and record["inputs"] < before.get("inputs", 0):
        record = before
    record = {"python": platform.python_version(), **record, "inputs_so_far": so_far}
    results["atheris"] = version("atheris")
    results["targets"][name] = record
    results["targets"] = dict(sorted(results["targets"].items()))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    """See the module text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="each")
    parser.add_argument("--runs", type=int, default=-1, help="inputs each at most")
    parser.add_argument("--plot", metavar="PATH", help="draw all that fuzz.json has")
    arguments = parser.parse_args()
    names = list(TARGETS) if arguments.targets == ["all"] else arguments.targets
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    if names and importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed here; the text of this module says how")
    failed = False
    for name in names:
        record = run_target(TARGETS[name], arguments.seconds, arguments.runs)
        write_record(name, record)
        failed = failed or "failed" in record
        print(f"{name:22} {json.dumps({k: v for k, v in record.items() if k != 'edges_by_input'})}")
        sys.stdout.flush()
    if arguments.plot:
        plot_fuzz(json.loads(RESULTS.read_text())["targets"], arguments.plot)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
