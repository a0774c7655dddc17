"""`python -m bench.faults [FILE] --faults N`: random faults while streams run; is anything lost?

A server of its own with two workers; streams at real time that play a few recordings again and
again. Then faults, one behind the other, most of them once the last is over (fault_kinds.py).
Every session that comes to its end is held to the finals of a run without faults, and to three
equal counts. A pause is the time from a fault until a stream hears that what it said behind it is
decoded; a few hundred milliseconds without a fault. At the end nothing may be left: processes,
descriptors, slots, names in /dev/shm.

Clients resume: a worker that is killed costs them a connection, and nothing else may differ. Exit
status 0: nothing differs, no session is ended by a fault, nothing is left.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.errors import ClientError
from clients.server_process import ServerProcess
from protocol.client_messages import VadOptions

from . import report
from .audio_source import Recording, distinct, load
from .fault_kinds import KINDS, WEIGHTS, Scene, ready, wav_of
from .fault_streams import Player, Tally, fault_free
from .percentiles import summarize
from .process_watch import Held, held_by, living, names_in_shm
from .soak import open_slots

CLIP = Path(__file__).parents[1] / "clients" / "demo" / "clip.wav"
MAX_RECORDINGS = 8
GAP_S = (0.2, 1.5)  # between a recovery and the next fault
MAX_RECOVERY_S = 45.0
HASTE_SHARE = 0.1  # faults that do not wait for the recovery from the last one
STREAMING_SHARE = 0.75  # of the streams, under way before the next fault
SETTLE_S = 8.0
MAX_SHOWN = 5


@dataclass(slots=True)
class Outcome:
    """What one run found."""

    tally: Tally = field(default_factory=Tally)
    injected: dict[str, int] = field(default_factory=dict)
    unrecovered: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """For people; empty is good."""
        tally = self.tally
        lost = [f"{n} sessions ended by {why}" for why, n in tally.ended.items()]
        if not tally.equal:
            lost.append("no session came to its end")
        return [
            *lost, *self.unrecovered[:MAX_SHOWN], *tally.differing[:MAX_SHOWN],
            *tally.mismatches[:MAX_SHOWN], *self.left, *self.notes[:MAX_SHOWN],
        ]  # fmt: skip


async def until_streaming(players: list[Player]) -> bool:
    """Wait until most of the streams are under way; False when that takes too long."""
    end_s = time.monotonic() + MAX_RECOVERY_S
    while sum(player.is_streaming for player in players) < STREAMING_SHARE * len(players):
        await asyncio.sleep(0.05)
        if time.monotonic() > end_s:
            return False
    return True


async def inject(scene: Scene, players: list[Player], outcome: Outcome, kind: str) -> None:
    """One fault, and the wait for what follows from it."""
    if not await until_streaming(players):
        outcome.unrecovered.append(f"most streams were not admitted again before {kind}")
    outcome.injected[kind] = outcome.injected.get(kind, 0) + 1
    for player in players:
        player.fault(kind)
    await KINDS[kind](scene)
    if scene.rng.random() < HASTE_SHARE:
        return
    end_s = time.monotonic() + MAX_RECOVERY_S
    while any(player.is_waiting for player in players):
        await asyncio.sleep(0.02)
        if time.monotonic() > end_s:
            waiting = sum(player.is_waiting for player in players)
            outcome.unrecovered.append(f"{waiting} streams heard nothing more after {kind}")
            for player in players:
                player.forget()
    await asyncio.sleep(scene.rng.uniform(*GAP_S))


async def run(options: argparse.Namespace, server: ServerProcess, base: Recording) -> Outcome:
    """Raises ClientError when the run without faults fails."""
    vad = VadOptions(enabled=options.vad == "on", max_utterance_ms=options.max_utterance_ms)
    outcome, rng = Outcome(), random.Random(options.seed)
    recordings = distinct([base], min(MAX_RECORDINGS, options.streams))
    expected = [await fault_free(server.url, recording, vad) for recording in recordings]
    await asyncio.sleep(SETTLE_S)
    before = held_by(server.ports.pid)
    upload = wav_of(base.pcm)
    hang_s = 4 * options.service_timeout_ms / 1000
    scene = Scene(server.ports.pid, server.ports.http_port, server.url, upload, rng, hang_s)
    stop = asyncio.Event()
    players = []
    for number in range(options.streams):
        which = number % len(recordings)
        recording, finals = recordings[which], expected[which]
        players.append(Player(server.url, recording, finals, vad, outcome.tally))
    tasks = [
        asyncio.create_task(player.run(stop, rng.uniform(0, base.duration_s))) for player in players
    ]
    names = options.kinds.split(",") if options.kinds else list(WEIGHTS)
    weights = [WEIGHTS[name] for name in names]
    for _ in range(options.faults):
        await inject(scene, players, outcome, rng.choices(names, weights)[0])
    stop.set()
    done, late = await asyncio.wait(tasks, timeout=MAX_RECOVERY_S + 2 * base.duration_s)
    for task in late:
        task.cancel()
    outcome.unrecovered += [f"{len(late)} streams do not end"] if late else []
    await asyncio.gather(*done)
    await asyncio.sleep(SETTLE_S)
    outcome.left += await asyncio.to_thread(_left, server, before)
    outcome.notes += scene.notes
    return outcome


def _left(server: ServerProcess, before: Held) -> list[str]:
    after = held_by(server.ports.pid)
    left = [
        f"{role}: {after.fds.get(role, 0)} descriptors, {count} before"
        for role, count in before.fds.items()
        if after.fds.get(role, 0) > count
    ]
    for role in set(before.pids) | set(after.pids):
        was, now = len(before.pids.get(role, ())), len(after.pids.get(role, ()))
        if was != now:
            left.append(f"{now} processes {role}, {was} before")
    if not ready(server.ports.http_port):
        left.append("the server is not ready")
    slots = open_slots(server.ports.http_port)
    return left + ([f"{slots:g} slots are taken"] if slots else [])


def _print(outcome: Outcome) -> None:
    rows: list[list[object]] = []
    for kind, count in sorted(outcome.injected.items()):
        pauses = summarize(outcome.tally.pauses_s.get(kind, []))
        values = [pauses.count, pauses.p50, pauses.p99, pauses.max] if pauses else [0] + [None] * 3
        rows.append([kind, count, *values])
    columns = ("kind", "faults", "pauses", "p50", "p99", "max")
    report.table("faults, and the pauses of streams in s", columns, rows)
    print(f"{outcome.tally.outages} connections were lost, and their sessions resumed")


def main(argv: Sequence[str] | None = None) -> int:
    """See the module text; 2 when the file or the server is bad."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("file", nargs="?", default=str(CLIP), help="speech")
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--kinds", help=f"comma separated, of {', '.join(KINDS)}; default: all")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--vad", choices=("on", "off"), default="on")
    parser.add_argument("--max-utterance-ms", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the file to use")
    parser.add_argument("--service-timeout-ms", type=int, default=3_000, help="watchdog")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="write the JSON there too")
    options = parser.parse_args(argv)
    flags = ["--model", options.model, "--threads", "1", "--workers", "2"]
    flags += ["--service-timeout-ms", str(options.service_timeout_ms)]
    flags += ["--max-sessions", str(options.streams + 64)]
    begin_s = time.monotonic()
    try:
        base = load(options.file, seconds=options.seconds)
        with ServerProcess(flags) as server:
            outcome = asyncio.run(run(options, server, base))
            pids = [pid for some in held_by(server.ports.pid).pids.values() for pid in some]
            outcome.left += [f"{name} in /dev/shm" for name in names_in_shm()]
    except (ClientError, OSError) as error:
        report.warn(str(error))
        return 2
    outcome.left += [f"process {pid} still lives" for pid in living(pids)]
    _print(outcome)
    for problem in outcome.problems:
        report.warn(problem)
    report.finish("faults", _config(options), _results(outcome, begin_s), options.out)
    return 1 if outcome.problems else 0


def _config(options: argparse.Namespace) -> dict[str, object]:
    config = {name: value for name, value in vars(options).items() if name != "out"}
    return {**config, "file": Path(options.file).name, "model": Path(options.model).name}


def _results(outcome: Outcome, begin_s: float) -> dict[str, object]:
    tally = outcome.tally
    service = [s for k, some in tally.pauses_s.items() if k.startswith("service_") for s in some]
    pauses = {kind: summarize(some) for kind, some in sorted(tally.pauses_s.items())}
    overall = summarize(service)
    return {
        "seconds": round(time.monotonic() - begin_s, 1),
        "injected": outcome.injected,
        "sessions_equal": tally.equal,
        "sessions_differing": len(tally.differing),
        "count_mismatches": len(tally.mismatches),
        "sessions_ended": tally.ended,
        "connections_lost": tally.outages,
        "refusals": tally.refused,
        "pause_s": {kind: s.as_fields() for kind, s in pauses.items() if s},
        "service_pause_s": overall.as_fields() if overall else None,
        "left_behind": outcome.left,
        "problems": outcome.problems,
    }


if __name__ == "__main__":
    sys.exit(main())
