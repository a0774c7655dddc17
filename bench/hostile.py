"""`python -m bench.hostile FILE`: how late a talker's words come while others attack the server.

A private server with tokens; one talker at real time over the Unix socket, and a connection that
asks for a pong every 20 ms, which shows how long the worker's event loop keeps anybody waiting.
First nobody else is there, then each attack of attacks.py in turn, then nobody again: what the two
quiet runs differ by is what this machine cannot tell. Attackers have machines of their own; here
they have the lowest priority, so that they get the cores' time that the server and the talker
leave, and what they take from the talker is what the server spends on them.

Exit status 1 when words differ from the quiet run's, 3 when the generator was too late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.aio import AsyncClient
from clients.errors import ClientError
from protocol.client_messages import Hello, Pong

from . import report
from .attacks import ATTACKS, Target
from .audio_source import Recording, load
from .live_log import StreamLog
from .live_metrics import Measures, dropped_samples
from .live_run import LivePlan, run_live
from .pacing import EXIT_VOID, is_void, lag_summary
from .percentiles import Summary, fields, summarize

EXIT_WRONG = 1
QUIET = ("nobody", "nobody again")
MAX_LATER_MS = 20.0  # what the project promises of a talker's p95
PING_S = 0.02
HEAD_START_S = 1.0  # of the attack before the talker
WARM_UP_S = 6.0  # of talk before anything is measured
COLUMNS = ("attack", "emission p50", "p95", "later", "pong p50", "p95", "max", "words", "counts")


@dataclass(slots=True)
class Run:
    """The talker beside one attack."""

    name: str
    log: StreamLog
    recording: Recording
    pongs_ms: list[float]
    counts: dict[str, int]

    @property
    def emission(self) -> Summary | None:
        """In milliseconds."""
        measures = Measures()
        measures.add(self.log, list(self.recording.speech))
        return summarize(measures.emission)

    def is_right(self, quiet: Run) -> bool:
        """The words of the quiet run, and no sample lost."""
        same = self.log.error is None and self.log.text == quiet.log.text
        return same and dropped_samples(self.log) == 0


class PrivateServer:
    """Context manager: `python -m gateway` on free ports with one token."""

    def __init__(self, options: Sequence[str]) -> None:
        from tests.system.server import Server

        self._folder = tempfile.TemporaryDirectory(prefix="earwire-hostile-")
        tokens = Path(self._folder.name) / "tokens"
        command = [sys.executable, "-m", "gateway.tokens_command", "add", str(tokens), "bench"]
        secret = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        self._server = Server("--tokens", str(tokens), "--wyoming-port", "0", *options)
        names = ("http_port", "native_port", "wyoming_port")
        self.url = self._server.unix_url
        self.target = Target({name: self._server.addresses[name] for name in names}, secret)

    def __enter__(self) -> PrivateServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._folder.cleanup()


def stand_back(pid: int) -> None:
    """The lowest priority for a process that leads a session, also where sessions are what the
    kernel schedules (sched(7), "The autogroup feature").
    """
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))  # before its threads are made
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19")


@contextlib.contextmanager
def attacking(name: str, target: Target, seconds: float) -> Iterator[dict[str, int]]:
    """The attack's process; its counts are there when it has ended."""
    counts: dict[str, int] = {}
    if name in QUIET:
        yield counts
        return
    where = json.dumps({"addresses": target.addresses, "token": target.token})
    command = [sys.executable, "-m", "bench.attacks", name, where, str(seconds)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    stand_back(process.pid)
    try:
        time.sleep(HEAD_START_S)
        yield counts
    finally:
        output, _ = process.communicate()
        counts.update(json.loads(output or b"{}"))


async def ping(url: str, until: asyncio.Event) -> list[float]:
    """Milliseconds to each pong."""
    found = []
    async with await AsyncClient.connect(url) as client:
        await client.open(Hello(client="earwire-bench"))
        while not until.is_set():
            begin_ns = time.monotonic_ns()
            await client.ping()
            while not isinstance(await client.next_event(60.0), Pong):
                pass
            found.append((time.monotonic_ns() - begin_ns) / 1e6)
            await asyncio.sleep(PING_S)
    return found


async def talk(url: str, recording: Recording) -> tuple[StreamLog, list[float]]:
    """One stream at real time, and pings beside it."""
    is_over = asyncio.Event()
    pinging = asyncio.create_task(ping(url, is_over))
    (log,) = await run_live(LivePlan(url, (recording,)))
    is_over.set()
    return log, await pinging


def run_all(options: argparse.Namespace, recording: Recording) -> list[Run]:
    """Quiet, each attack, quiet."""
    runs = []
    names = options.attacks or list(ATTACKS)
    with PrivateServer(options.server_option) as server:
        asyncio.run(talk(server.url, load(options.file, seconds=WARM_UP_S)))
        for name in (QUIET[0], *names, QUIET[1]):
            seconds = recording.duration_s + 2 * HEAD_START_S
            with attacking(name, server.target, seconds) as counts:
                log, pongs_ms = asyncio.run(talk(server.url, recording))
            runs.append(Run(name, log, recording, pongs_ms, counts))
    return runs


def results_of(runs: list[Run]) -> dict[str, object]:
    """The JSON line's part of this bench."""
    quiet = runs[0]
    base = quiet.emission
    found = {}
    for run in runs:
        emission = run.emission
        found[run.name] = {
            **fields({"emission_ms": emission, "pong_ms": summarize(run.pongs_ms)}, 2),
            "p95_later_ms": round(emission.p95 - base.p95, 1) if emission and base else None,
            "words_right": run.is_right(quiet),
            "counts": run.counts,
        }
    lag = lag_summary(lag for run in runs for lag in run.log.lags_ns)
    return {
        "void": is_void(lag),
        "generator_lag_ms": lag.as_fields() if lag else None,
        "max_later_ms": MAX_LATER_MS,
        "runs": found,
    }


def print_table(runs: list[Run]) -> None:
    """One row an attack."""
    rows = []
    base = runs[0].emission
    for run in runs:
        emission, pong = run.emission, summarize(run.pongs_ms)
        if emission is None or pong is None or base is None:
            rows.append([run.name, *[None] * 6, False, run.log.error or "no words"])
            continue
        later = emission.p95 - base.p95
        counts = ", ".join(f"{value} {name}" for name, value in sorted(run.counts.items()))
        rows.append([
            run.name, emission.p50, emission.p95, later, pong.p50, pong.p95, pong.max,
            run.is_right(runs[0]), counts,
        ])  # fmt: skip
    report.table("a talker beside hostile clients (ms)", COLUMNS, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when words differ; 2 for a bad file or server; 3 when void."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="what the talker says")
    add("--seconds", type=float, help="only the beginning of it")
    add("--attacks", nargs="*", choices=list(ATTACKS), help="default: all")
    add("--server-option", action="append", default=[], help="for the private server")
    add("--out", help="write the JSON there too")
    options = parser.parse_args(argv)
    try:
        recording = load(options.file, seconds=options.seconds)
        runs = run_all(options, recording)
    except (ClientError, OSError, RuntimeError, AssertionError) as error:
        report.warn(str(error))
        return 2
    results = results_of(runs)
    print_table(runs)
    config = {"file": recording.name, "seconds": options.seconds, "server": options.server_option}
    report.finish("hostile", config, results, options.out)
    if results["void"]:
        report.warn("VOID: the generator was late itself: this machine is too small or too busy")
        return EXIT_VOID
    return 0 if all(run.is_right(runs[0]) for run in runs) else EXIT_WRONG


if __name__ == "__main__":
    sys.exit(main())
