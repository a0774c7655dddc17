"""`python -m bench.idle FILE`: what 1,000 idle WebSocket connections cost one talker.

One server, one real-time talker, four phases in one run: A without, B with the idle connections,
A, B again, so that a drift of the machine shows as a difference between equal phases. Reported:
the talker's latencies of both kinds of phase, the gateway worker's CPU share, and its resident
memory per idle connection (kernel socket buffers are not in it). Idle connections have finished
their handshake and have their session (Together's dialect).

How it can be wrong: a phase is as long as the file, so p95 rests on as many utterances and words
as that has; `count` says how many.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clients.errors import ClientError
from clients.server_process import ServerProcess

from . import report
from .audio_source import Recording, load
from .live_log import StreamLog
from .live_metrics import Measures
from .live_run import LivePlan, run_live
from .pacing import EXIT_VOID, is_void, lag_summary
from .percentiles import Summary, fields, summarize
from .process_cost import TreeMeter, read_memory, read_tree, role

WORKER = "gateway.worker"
SETTLE_S = 1.0


@dataclass(slots=True)
class Phase:
    """One pass of the talker."""

    with_idle: bool
    log: StreamLog
    worker_share: float
    rss_bytes: int


@contextlib.contextmanager
def _idle_connections(port: int, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.idle_clients", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--count", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the idle connections could not be made")
        time.sleep(SETTLE_S)
        yield


def _phase(server: ServerProcess, recording: Recording, *, with_idle: bool) -> Phase:
    pid = next(c.pid for c in read_tree(server.ports.pid) if role(c.pid) == WORKER)
    meter, begin_s = TreeMeter.start(server.ports.pid), time.monotonic()
    (log,) = asyncio.run(run_live(LivePlan(server.url, (recording,))))
    share = meter.cpu_s()[WORKER] / (time.monotonic() - begin_s)
    return Phase(with_idle, log, share, read_memory(pid))


def run(recording: Recording, count: int, rounds: int) -> list[Phase]:
    """A B A B. Raises ClientError or RuntimeError."""
    phases = []
    with ServerProcess(["--max-connections", str(count + 256)]) as server:
        for _ in range(rounds):
            phases.append(_phase(server, recording, with_idle=False))
            with _idle_connections(server.ports.http_port, count):
                phases.append(_phase(server, recording, with_idle=True))
            time.sleep(SETTLE_S)
    return phases


def _latencies(phases: Sequence[Phase], recording: Recording) -> dict[str, Summary | None]:
    measures = Measures()
    for phase in phases:
        measures.add(phase.log, list(recording.speech))
    return {
        "emission": summarize(measures.emission),
        "ttfs": summarize(measures.ttfs),
        "ttft_utterance": summarize(measures.ttft_utterance),
    }


def bytes_a_connection(phases: Sequence[Phase], count: int) -> float:
    """From the first pair of phases: later ones find memory that was freed and kept."""
    return (phases[1].rss_bytes - phases[0].rss_bytes) / count


def results_of(phases: list[Phase], recording: Recording, count: int) -> dict[str, object]:
    """For the JSON line."""
    kinds = {"without": False, "with": True}
    split = {k: [p for p in phases if p.with_idle is v] for k, v in kinds.items()}
    latency = {kind: _latencies(some, recording) for kind, some in split.items()}
    differences = {
        name: round(with_.p95 - without.p95, 1)
        for name in latency["with"]
        if (with_ := latency["with"][name]) and (without := latency["without"][name])
    }
    lag = lag_summary(lag for phase in phases for lag in phase.log.lags_ns)
    return {
        "void": is_void(lag),
        "generator_lag_ms": lag.as_fields() if lag else None,
        "latency_ms": {kind: fields(summaries, 1) for kind, summaries in latency.items()},
        "p95_difference_ms": differences,
        "each_phase_p95_ms": [
            {name: s.p95 if s else None for name, s in _latencies([p], recording).items()}
            for p in phases
        ],
        "worker_share": {k: [round(p.worker_share, 4) for p in v] for k, v in split.items()},
        "kib_per_idle_connection": round(bytes_a_connection(phases, count) / 1024, 2),
        "errors": [phase.log.error for phase in phases if phase.log.error],
    }


def _print(phases: list[Phase], recording: Recording) -> None:
    rows: list[list[object]] = []
    for phase in phases:
        name = "B: with idle" if phase.with_idle else "A: without"
        summaries = _latencies([phase], recording)
        rows.append(
            [name, *(s.p95 if s else None for s in summaries.values()),
             f"{phase.worker_share:.1%}", phase.rss_bytes / 2**20]
        )  # fmt: skip
    columns = ("phase", "emission p95 ms", "TTFS p95", "TTFT p95", "worker core", "RSS MiB")
    report.table("one talker and idle WebSocket connections", columns, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """0; 2 when the file or the server is bad; 3 when the generator was late."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("file", help="speech of the talker")
    parser.add_argument("--connections", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the file to use")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of phases")
    parser.add_argument("--out", help="write the JSON there too")
    options = parser.parse_args(argv)
    try:
        recording = load(options.file, seconds=options.seconds)
        phases = run(recording, options.connections, options.rounds)
    except (ClientError, RuntimeError) as error:
        report.warn(str(error))
        return 2
    results = results_of(phases, recording, options.connections)
    _print(phases, recording)
    config = {
        "connections": options.connections, "seconds": options.seconds, "rounds": options.rounds,
        "file": recording.name,
    }  # fmt: skip
    if results["void"]:
        report.warn("VOID: the generator was late by over 5 ms at p99")
    report.finish("idle", config, results, options.out)
    return EXIT_VOID if results["void"] else 0


if __name__ == "__main__":
    sys.exit(main())
