"""`python -m bench.soak [FILE] --minutes N`: does anything grow while sessions come and go?

A server of its own; talkers whose sessions are short and end in every way (native over Unix,
WebSocket); and one stream that is silent for an hour, sent faster than real time, and speaks at the
end: its finals have to be those of a stream that was silent for ten minutes. Every SAMPLE_S seconds
memory, descriptors, threads and open slots are read; the lag (audio received, not yet decoded)
comes with every event. A line is drawn through each (trends.py), behind a burst of load, thousands
of short sessions (which make allocators keep what they will ever keep) and a warm-up. Newcomers
that are told to come again do so, and are counted.

Exit status 0: no slope can be told from zero (a process's memory: rose by less than MEMORY_SHARE),
all counts agree, nothing is left behind. 1: else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clients.errors import ClientError
from clients.server_process import ServerProcess

from . import report
from .audio_source import load
from .process_watch import held_by, living, names_in_shm
from .soak_clients import RATE_HZ, SESSION_SECONDS, Tally, after_silence, talk
from .soak_plot import plot_soak
from .trends import Point, Trend, after_warm_up, trend

CLIP = Path(__file__).parents[1] / "clients" / "demo" / "clip.wav"
SAMPLE_S = 2.0
WARM_UP_SHARE = 0.25  # caches, allocators and the first of everything
REFERENCE_SILENCE_S = 600.0  # the state of the VAD model creeps for two minutes
BURST_FACTOR, BURST_PACE = 2, 1.5  # talkers before the run: until the server admits no more of them
CHURN_TALKERS, CHURN_S, CHURN_PACE = 4, 90.0, 20.0  # 80 silent sessions a second: workers' heaps
CHURN_SECONDS = (0.3, 1.0)
BURST_GAINS = (1.0, 0.3, 0.1, 0.03)  # of the talkers' voices: the engine keeps something a level
MEMORY_SHARE = 0.01  # of its mean that a process may rise by, within the measured time
LAG_SHARE = 0.95  # percentile of the lags of one sample
SETTLE_S = 8.0  # workers report to the parent every few seconds
MIB = 1 << 20
MEMORY = "private_mib."
ARENA = "arena_mib"  # pages that were touched of what is allocated in full at the start: no leak


@dataclass(slots=True)
class Series:
    """What was read, by name."""

    points: dict[str, list[Point]] = field(default_factory=dict)

    def add(self, name: str, seconds: float, value: float) -> None:
        """One reading."""
        self.points.setdefault(name, []).append((seconds, value))

    def trends(self) -> dict[str, Trend | None]:
        """Behind the warm-up."""
        return {
            name: trend(after_warm_up(points, WARM_UP_SHARE))
            for name, points in self.points.items()
        }


@dataclass(slots=True)
class Outcome:
    """Everything that one run found."""

    series: Series
    tally: Tally
    is_silence_equal: bool = False
    silence_finals: int = 0
    open_at_end: float = -1.0
    left_behind: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """For people; empty is good."""
        trends = self.series.trends()
        found = [f"{name} grows" for name, t in trends.items() if _verdict(name, t) == "grows"]
        found += self.left_behind + self.tally.errors[:5] + self.tally.mismatches[:5]
        if not self.is_silence_equal:
            found.append("the finals behind the long silence are not those behind a shorter one")
        if self.open_at_end:
            found.append(f"{self.open_at_end:g} slots are still taken")
        return found


def _verdict(name: str, found: Trend | None) -> str:
    if found is None:
        return "too short"
    if name == ARENA:
        return "no matter"
    if name.startswith(MEMORY):
        return "grows" if found.grows(MEMORY_SHARE) else "steady"
    return "grows" if found.grows() else "flat" if found.is_flat else "falls"


def open_slots(http_port: int) -> float:
    """Streams that the server counts as admitted. Raises OSError."""
    with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith("earwire_sessions_open{"))


async def _watch(server: ServerProcess, outcome: Outcome, begin: float) -> None:
    series, lags = outcome.series, outcome.tally.lags_ms
    while True:
        await asyncio.sleep(SAMPLE_S)
        now = time.monotonic() - begin
        held = await asyncio.to_thread(held_by, server.ports.pid)
        for role in ("parent", "worker", "service"):
            series.add(f"{MEMORY}{role}", now, held.private_bytes.get(role, 0) / MIB)
            series.add(f"fds.{role}", now, held.fds.get(role, 0))
        series.add(ARENA, now, held.shared_bytes.get("worker", 0) / MIB)
        series.add("threads", now, sum(held.threads.values()))
        with contextlib.suppress(OSError):
            series.add("slots", now, await asyncio.to_thread(open_slots, server.ports.http_port))
        recent = sorted(lag for _, lag in lags)
        lags.clear()
        if recent:
            series.add("lag_ms.p95", now, recent[int(LAG_SHARE * (len(recent) - 1))])


def _scaled(pcm: bytes, gain: float) -> bytes:
    return (np.frombuffer(pcm, "<i2") * gain).astype("<i2").tobytes()


async def _burst(urls: Sequence[str], pcm: bytes, options: argparse.Namespace) -> None:
    """More load than there will be: allocators and caches reach what they will keep."""
    voices = [_scaled(pcm, gain) for gain in BURST_GAINS]
    burst_s, count = options.burst_minutes * 60, BURST_FACTOR * options.talkers
    await _crowd(burst_s, count, urls, voices, BURST_PACE, SESSION_SECONDS)
    silence = bytes(int(2 * CHURN_SECONDS[1] * RATE_HZ))
    churn_s = min(CHURN_S, burst_s)
    await _crowd(churn_s, CHURN_TALKERS, urls, [silence], CHURN_PACE, CHURN_SECONDS)


async def _crowd(
    during_s: float,
    count: int,
    urls: Sequence[str],
    voices: Sequence[bytes],
    pace: float,
    seconds: tuple[float, float],
) -> None:
    """So many talkers for a while, whom nobody counts."""
    tasks = []
    for number in range(count):
        rng, url = random.Random(-1 - number), urls[number % len(urls)]
        voice = voices[number % len(voices)]
        tasks.append(asyncio.create_task(talk(url, voice, Tally(), rng, pace, seconds)))
    await asyncio.sleep(during_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(SETTLE_S)


async def soak(
    server: ServerProcess, pcm: bytes, seconds: float, options: argparse.Namespace
) -> Outcome:
    """The run itself. Raises ClientError when the silent stream is lost."""
    outcome = Outcome(Series(), Tally())
    urls = (server.url, f"ws://127.0.0.1:{server.ports.http_port}")
    expected = await after_silence(server.url, REFERENCE_SILENCE_S, 1.0, pcm, Tally())
    await _burst(urls, pcm, options)
    begin = time.monotonic()
    tasks = [asyncio.create_task(_watch(server, outcome, begin))]
    for number in range(options.talkers):
        rng, url = random.Random(number), urls[number % len(urls)]
        tasks.append(asyncio.create_task(talk(url, pcm, outcome.tally, rng, options.pace)))
    silence_s, speech_s = options.silence_minutes * 60, len(pcm) / 2 / RATE_HZ
    try:
        got = await after_silence(
            server.url, silence_s, max(1.0, seconds - speech_s), pcm, outcome.tally
        )
        outcome.is_silence_equal, outcome.silence_finals = got == expected, len(got)
        await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(SETTLE_S)
    outcome.open_at_end = await asyncio.to_thread(open_slots, server.ports.http_port)
    return outcome


def run(options: argparse.Namespace, pcm: bytes) -> Outcome:
    """Raises ClientError."""
    settings = ["--model", options.model, "--vad", "on", "--threads", str(options.threads)]
    with ServerProcess(settings) as server:
        pids = [pid for some in held_by(server.ports.pid).pids.values() for pid in some]
        outcome = asyncio.run(soak(server, pcm, options.minutes * 60, options))
        outcome.left_behind += [f"{name} in /dev/shm" for name in names_in_shm()]
    outcome.left_behind += [f"process {pid} still lives" for pid in living(pids)]
    return outcome


def _print(outcome: Outcome) -> None:
    rows: list[list[object]] = []
    for name, found in outcome.series.trends().items():
        numbers = (found.mean, found.slope, found.low, found.high) if found else (None,) * 4
        rows.append([name, *numbers, _verdict(name, found)])
    report.table("slopes", ("quantity", "mean", "per hour", "low", "high", "verdict"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module text; 2 when the file or the server is bad."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("file", nargs="?", default=str(CLIP), help="speech")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--silence-minutes", type=float, default=60.0, help="of the silent stream")
    parser.add_argument("--burst-minutes", type=float, default=5.0, help="before the run")
    parser.add_argument("--talkers", type=int, default=3)
    parser.add_argument("--pace", type=float, default=1.0, help="of the talkers, x real time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--out", help="write the JSON there too")
    parser.add_argument("--plot", help="write a picture there")
    options = parser.parse_args(argv)
    try:
        outcome = run(options, load(options.file).pcm)
    except (ClientError, OSError) as error:
        report.warn(str(error))
        return 2
    _print(outcome)
    if options.plot:
        plot_soak(outcome.series.points, WARM_UP_SHARE, options.plot)
    tally = outcome.tally
    results = {
        "sessions": tally.sessions, "finals": tally.finals, "refusals": tally.refusals,
        "mismatches": len(tally.mismatches), "errors": tally.errors[:20],
        "silence_equal": outcome.is_silence_equal, "silence_finals": outcome.silence_finals,
        "open_slots_at_end": outcome.open_at_end, "left_behind": outcome.left_behind,
        "trends": {n: t.fields() if t else None for n, t in outcome.series.trends().items()},
        "problems": outcome.problems,
    }  # fmt: skip
    for problem in outcome.problems:
        report.warn(problem)
    config = {name: value for name, value in vars(options).items() if name not in ("out", "plot")}
    config["file"] = Path(options.file).name
    config["model"] = Path(options.model).name
    report.finish("soak", config, results, options.out)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
