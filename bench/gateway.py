"""`python -m bench.gateway`: how many real-time streams one gateway worker carries on one core.

The worker is the real process, pinned to a core, with a real arena; behind it stands a service
that counts instead of recognising (counting_service.py), so results travelling back to clients
are not in these numbers. Load is pre-encoded 20 ms frames, phases spread evenly, from another
core. Beside it, in the same run at the same levels, a plain asyncio + websockets server does the
same job. The answer is the highest level with p99 added latency under 5 ms (the server's receive
to the counting service), no frame lost and the core not saturated.

How it can be wrong: on two cores the generator and the counting service share one, so their
wake-ups are in the latency; a level whose generator lags over 5 ms at p99 is void.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gateway.child_process import raise_descriptor_limit

from . import report
from .gateway_analysis import Counted, Level, Load, make_level
from .gateway_under_test import Cores, Server, asyncio_server, worker_server
from .load_generator import LoadConfig
from .pacing import EXIT_VOID
from .process_cost import read_cost, read_memory, set_priority

DEFAULT_STREAMS = {"native": (500, 1_000, 1_500, 2_000), "together": (300, 500, 700, 900)}
WARM_UP_S = 1.0
SETTLE_S = 0.5  # from the last frame to the end of the sessions
MIN_STREAMS = 25


def _say(generator: subprocess.Popen[str]) -> None:
    assert generator.stdin is not None
    generator.stdin.write("go\n")
    generator.stdin.flush()


def _hear(generator: subprocess.Popen[str]) -> dict[str, Any]:
    assert generator.stdout is not None
    line = generator.stdout.readline()
    if not line:
        raise RuntimeError("the load generator ended early")
    said: dict[str, Any] = json.loads(line)
    return said


def _measure(server: Server, config: LoadConfig, core: int) -> dict[str, Any]:
    """Run the generator against `server`; what it said, with the server's costs."""
    command = [sys.executable, "-m", "bench.load_generator", "--config"]
    command.append(msgspec.json.encode(config).decode())
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as generator:
        os.sched_setaffinity(generator.pid, {core})
        try:
            said = _hear(generator)
            _say(generator)
            said.update(_hear(generator))
            said.update(_costs(server, said["begin_ns"], config.num_frames * 0.02))
            time.sleep(SETTLE_S)
            _say(generator)
            said.update(_hear(generator))
        except BaseException:
            generator.kill()
            raise
    time.sleep(SETTLE_S)
    return said


def _costs(server: Server, begin_ns: int, seconds: float) -> dict[str, float]:
    """CPU seconds of the server between warm-up and the last frame."""

    def sleep_until(offset_s: float) -> None:
        time.sleep(max(0.0, begin_ns / 1e9 + offset_s - time.monotonic()))

    sleep_until(WARM_UP_S)
    before, begin_s = read_cost(server.pid), time.monotonic()
    sleep_until(seconds)
    after, end_s = read_cost(server.pid), time.monotonic()
    if before is None or after is None:
        raise RuntimeError("the server died under load")
    return {
        "server_cpu_s": after.cpu_s - before.cpu_s,
        "window_begin_ns": begin_s * 1e9,
        "window_end_ns": end_s * 1e9,
        "rss_bytes": read_memory(server.pid),
    }


def run_level(kind: str, dialect: str, num_streams: int, seconds: float, *, unix: bool) -> Level:
    """One level against a fresh server of a kind, "worker" or "asyncio"."""
    cores = Cores.pick()
    with tempfile.TemporaryDirectory(prefix="earwire-bench-") as name:
        folder = Path(name)
        starting: AbstractContextManager[Server]
        if kind == "worker":
            starting = worker_server(num_streams + 8, cores, folder, unix=unix)
        else:
            starting = asyncio_server(cores, folder)
        with starting as server:
            is_native = kind == "worker" and dialect == "native"
            config = LoadConfig(
                address=server.address if is_native else server.http_address,
                dialect="websocket" if kind == "asyncio" and dialect == "native" else dialect,
                num_streams=num_streams,
                num_frames=round(seconds * 50),
                out=str(folder / "load.npz"),
            )
            said = _measure(server, config, cores.generator)
        counted = Counted.load(folder / "counted.npz")
        with np.load(folder / "load.npz") as file:
            lags_ns = file["lags_ns"]
    load = Load(
        said["begin_ns"], num_streams, config.num_frames, said["session_ids"], lags_ns,
        said["num_full"], said["cpu_s"],
    )  # fmt: skip
    return make_level(
        counted,
        load,
        said["closed"],
        cpu_s=said["server_cpu_s"],
        window_ns=(int(said["window_begin_ns"]), int(said["window_end_ns"])),
        rss_bytes=int(said["rss_bytes"]),
    )


def run_series(
    kind: str, dialect: str, levels: Sequence[int], seconds: float, *, unix: bool, ramp: bool
) -> list[Level]:
    """All levels, a ramp only until one fails; when none holds, halves of the lowest until one
    does. A void level is measured a second time: it said nothing about the server."""
    done: list[Level] = []
    for num_streams in levels:
        level = run_level(kind, dialect, num_streams, seconds, unix=unix)
        if level.is_void:
            _tell(kind, dialect, level)
            level = run_level(kind, dialect, num_streams, seconds, unix=unix)
        done.append(level)
        _tell(kind, dialect, level)
        if ramp and not level.passes:
            break
    while not any(level.passes for level in done) and done[0].num_streams // 2 >= MIN_STREAMS:
        half = done[0].num_streams // 2
        done.insert(0, run_level(kind, dialect, half, seconds, unix=unix))
        _tell(kind, dialect, done[0])
    return done


def _tell(kind: str, dialect: str, level: Level) -> None:
    verdict = "void: generator late" if level.is_void else "holds" if level.passes else "fails"
    added = level.receive_to_service
    p99 = f"{added.p99:.2f} ms" if added else "-"
    print(
        f"bench: {kind} {dialect} {level.num_streams}: p99 {p99}, "
        f"{level.cpu_us_per_frame:.1f} us/frame, core {level.cpu_share:.0%}: {verdict}",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _row(kind: str, dialect: str, level: Level) -> list[object]:
    sent, received = level.send_to_service, level.receive_to_service
    return [
        f"{kind} {dialect}", level.num_streams,
        *((received.p50, received.p99) if received else (None, None)),
        *((sent.p50, sent.p95, sent.p99) if sent else (None, None, None)),
        level.lag.p99 if level.lag else None,
        level.lost_frames + level.breaks, f"{level.cpu_share:.0%}",
        level.cpu_us_per_frame, "void" if level.is_void else level.passes,
    ]  # fmt: skip


COLUMNS = (
    "server, 20 ms frames", "streams", "receive p50 ms", "p99", "send p50 ms", "p95", "p99",
    "gen. lag p99", "lost", "core", "CPU us/frame", "holds",
)  # fmt: skip


def capacity(levels: Sequence[Level]) -> int:
    """Streams a core: the highest level that passed, 0 when none did."""
    return max((level.num_streams for level in levels if level.passes), default=0)


def ratios(series: dict[str, dict[str, list[Level]]]) -> dict[str, dict[str, float | None]]:
    """Worker against asyncio, per dialect: streams a core, and CPU a frame at the highest level
    that both held (at different loads CPU a frame says little: batching makes it fall)."""
    found: dict[str, dict[str, float | None]] = {}
    for dialect, by_kind in series.items():
        if set(by_kind) != {"worker", "asyncio"}:
            continue
        worker, other = by_kind["worker"], by_kind["asyncio"]
        found[dialect] = {
            "streams": _ratio(capacity(worker), capacity(other)),
            "cpu_us_per_frame": _cpu_ratio(worker, other),
        }
    return found


def _ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 2) if theirs else None


def _cpu_ratio(worker: Sequence[Level], other: Sequence[Level]) -> float | None:
    ours = {level.num_streams: level.cpu_us_per_frame for level in worker}
    theirs = {level.num_streams: level.cpu_us_per_frame for level in other}
    common = sorted(set(ours) & set(theirs))
    return _ratio(theirs[common[-1]], ours[common[-1]]) if common else None


def _default_transport() -> str:
    """On loopback the *sender* pays for TCP's receive path, some 10 us a frame: on two cores a
    generator that shares one with the counting service is full before the worker is."""
    return "tcp" if len(os.sched_getaffinity(0)) > 2 else "unix"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="earwire bench gateway", description=__doc__)
    parser.add_argument("--streams", help="levels, such as 500,1000,1500; for every dialect")
    parser.add_argument("--dialect", choices=("native", "together", "both"), default="both")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load a level (default 8)")
    parser.add_argument("--transport", choices=("tcp", "unix"), default=_default_transport(),
                        help="of native streams (default here: %(default)s)")  # fmt: skip
    parser.add_argument("--baseline", action=argparse.BooleanOptionalAction, default=True,
                        help="also measure the asyncio server")  # fmt: skip
    parser.add_argument("--nice", type=int, default=0,
                        help="priority of all processes here; below 0 keeps other work on this "
                             "machine out of the numbers, and needs the right to")  # fmt: skip
    parser.add_argument("--out", help="write the JSON there too")
    parser.add_argument("--plot", help="write a picture there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 3 when every level of a series was void."""
    options = _parser().parse_args(argv)
    raise_descriptor_limit()
    if options.nice:
        set_priority(options.nice)
    dialects = ("native", "together") if options.dialect == "both" else (options.dialect,)
    kinds = ("worker", "asyncio") if options.baseline else ("worker",)
    series: dict[str, dict[str, list[Level]]] = {}
    for dialect in dialects:
        asked = options.streams.split(",") if options.streams else DEFAULT_STREAMS[dialect]
        levels = sorted(int(number) for number in asked)
        for kind in kinds:
            unix = options.transport == "unix" and kind == "worker"
            ramp = options.streams is None
            done = run_series(kind, dialect, levels, options.seconds, unix=unix, ramp=ramp)
            series.setdefault(dialect, {})[kind] = done
    _report(series, options)
    flat = [levels for by_kind in series.values() for levels in by_kind.values()]
    return EXIT_VOID if any(all(level.is_void for level in levels) for levels in flat) else 0


def _report(series: dict[str, dict[str, list[Level]]], options: argparse.Namespace) -> None:
    rows = [
        _row(kind, dialect, level)
        for dialect, by_kind in series.items()
        for kind, levels in by_kind.items()
        for level in levels
    ]
    report.table("one server process on one core", COLUMNS, rows)
    results = {
        "streams_a_core": {
            dialect: {kind: capacity(levels) for kind, levels in by_kind.items()}
            for dialect, by_kind in series.items()
        },
        "ratio_to_asyncio": ratios(series),
        "levels": {
            dialect: {kind: [x.as_fields() for x in levels] for kind, levels in by_kind.items()}
            for dialect, by_kind in series.items()
        },
    }
    if options.plot:
        with contextlib.suppress(ImportError):
            from .plots import plot_gateway

            plot_gateway(results, options.plot)
    config = {name: value for name, value in vars(options).items() if name not in ("out", "plot")}
    report.finish("gateway", config, results, options.out)


if __name__ == "__main__":
    sys.exit(main())
