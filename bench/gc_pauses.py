"""`python -m bench.gc_pauses FILE`: the pauses of Python's garbage collector in a real server.

Two servers, one with gc.freeze() after warm-up (the default) and one with --no-gc-freeze, each
under the same live load. gc_hook/ times every collection inside the real processes, on their real
heaps; collections before the load began are left out. After the load one full collection is forced
in each process: it is what an unlucky client would wait for, and a short run may not show one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.errors import ClientError
from clients.server_process import ServerProcess

from . import report
from .audio_source import Recording, load
from .live_run import LivePlan, run_live
from .percentiles import Summary, summarize
from .process_cost import read_tree, role

HOOK = Path(__file__).resolve().parent / "gc_hook"
FORCED_WAIT_S = 1.5
ROLES = ("gateway.worker", "gpu_service")


@dataclass(frozen=True, slots=True)
class Pause:
    """One collection."""

    end_ns: int
    duration_ms: float
    generation: int
    forced: bool


@dataclass(slots=True)
class Pauses:
    """Of one process under load."""

    seconds: float
    natural: list[Pause] = field(default_factory=list)
    full_ms: float | None = None  # the forced full collection

    def summary(self) -> Summary | None:
        """Of the collections that came by themselves."""
        return summarize(pause.duration_ms for pause in self.natural)

    @property
    def ms_a_minute(self) -> float:
        """Time spent in collections."""
        return sum(pause.duration_ms for pause in self.natural) * 60 / self.seconds

    def as_fields(self) -> dict[str, object]:
        """For the JSON line."""
        summary = self.summary()
        return {
            "pauses_ms": summary.as_fields() if summary else None,
            "full_collections": sum(pause.generation == 2 for pause in self.natural),
            "ms_a_minute": round(self.ms_a_minute, 2),
            "forced_full_ms": None if self.full_ms is None else round(self.full_ms, 2),
        }


def parse_log(text: str) -> list[Pause]:
    """The lines of gc_hook."""
    pauses = []
    for line in text.splitlines():
        end_ns, duration_ns, generation, _, forced = map(int, line.split())
        pauses.append(Pause(end_ns, duration_ns / 1e6, generation, bool(forced)))
    return pauses


def sort_out(pauses: list[Pause], begin_ns: int, end_ns: int) -> Pauses:
    """Those of the load, and the forced one after it."""
    found = Pauses((end_ns - begin_ns) / 1e9)
    for pause in pauses:
        if pause.forced:
            found.full_ms = pause.duration_ms
        elif begin_ns <= pause.end_ns <= end_ns:
            found.natural.append(pause)
    return found


def measure(recording: Recording, num_streams: int, *, freeze: bool) -> dict[str, Pauses]:
    """A server, a live load on it, its pauses by process role. Raises ClientError."""
    with tempfile.TemporaryDirectory(prefix="earwire-gc-") as folder:
        saved = dict(os.environ)
        os.environ["EARWIRE_GC_LOG"] = folder
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(HOOK), saved.get("PYTHONPATH")])
        )
        try:
            flag = "--gc-freeze" if freeze else "--no-gc-freeze"
            server = ServerProcess([flag])
        finally:
            os.environ.clear()
            os.environ.update(saved)
        with server:
            processes = {role(cost.pid): cost.pid for cost in read_tree(server.ports.pid)}
            begin_ns = time.monotonic_ns()
            plan = LivePlan(server.url, (recording,) * num_streams, stagger_ms=300)
            asyncio.run(run_live(plan))
            end_ns = time.monotonic_ns()
            for name in ROLES:
                os.kill(processes[name], signal.SIGUSR2)
            time.sleep(FORCED_WAIT_S)
        logs = {name: (Path(folder) / str(processes[name])).read_text() for name in ROLES}
    return {name: sort_out(parse_log(text), begin_ns, end_ns) for name, text in logs.items()}


def _row(name: str, freeze: bool, pauses: Pauses) -> list[object]:
    summary = pauses.summary()
    numbers = (
        [summary.count, summary.p50, summary.p99, summary.max] if summary else [0] + [None] * 3
    )
    return [f"{name}, {'frozen' if freeze else 'not frozen'}", *numbers, pauses.ms_a_minute,
            pauses.full_ms]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 when the file or the server is bad."""
    parser = argparse.ArgumentParser(prog="python -m bench.gc_pauses", description=__doc__)
    parser.add_argument("file", help="speech to load the server with")
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the file to use")
    parser.add_argument("--out", help="write the JSON there too")
    options = parser.parse_args(argv)
    results: dict[str, object] = {}
    rows = []
    try:
        recording = load(options.file, seconds=options.seconds)
        for freeze in (True, False):
            for name, pauses in measure(recording, options.streams, freeze=freeze).items():
                rows.append(_row(name, freeze, pauses))
                key = f"{name} {'frozen' if freeze else 'not frozen'}"
                results[key] = pauses.as_fields()
    except ClientError as error:
        report.warn(str(error))
        return 2
    columns = ("process", "pauses", "p50 ms", "p99", "max", "ms a minute", "full collection ms")
    report.table("garbage collection under live load", columns, rows)
    config = {"streams": options.streams, "seconds": options.seconds, "file": recording.name}
    report.finish("gc", config, {"pauses": results}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
