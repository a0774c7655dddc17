"""`python -m bench.overload [FILE]`: what happens when twice as many want to talk as fit?

A server of its own, with two tokens. First talkers come one by one until one is refused: that is
the capacity; how many of them had every draft (class `full`) is noted beside it. Then twice the
capacity is offered: a crowd with one token fills the server, a few with another one come later.
At last the load leaves, and those who stay wait for class `full`.

Exit status 0: every class kept its bounds (overload_marks.py), whoever was refused heard why and
when to come again, the few got their share, all close records agree, and the server was back to
normal within RECOVERY_S. 1: else.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.errors import ClientError
from clients.server_process import ServerProcess
from gateway.tokens import format_token, secret_digest
from protocol.client_messages import LatencyClass
from protocol.supervisor_messages import Token

from . import report
from .audio_source import load
from .overload_clients import Crowd, Talker
from .overload_marks import Notes, Refusal, marks
from .percentiles import Summary, summarize

CLIP = Path(__file__).parents[1] / "clients" / "demo" / "clip.wav"
MANY, FEW = "many", "few"  # the tokens, and their secrets
FEW_SHARE = 0.25  # of the talkers of the second part
FEW_LATER_S = 8.0
SESSION_S = 10.0  # of a talker in the second part, on the average
MAX_TALKERS = 64
SETTLE_S = 4.0
RECOVERY_S = 10.0
MIN_SHARE = 0.7  # of what is theirs, that the few have on the average
SAMPLE_S = 0.25


@dataclass(slots=True)
class Outcome:
    """Everything that one run found."""

    capacity: int = 0
    full_capacity: int = 0  # with class `full` for all of them
    offered: int = 0
    notes: list[Notes] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    few_wanted: float = 0.0  # sessions that the few could have had by their share
    few_talking: float = 0.0  # that they had, on the average
    talking: float = 0.0  # both tokens, on the average
    recovery_s: float | None = None  # None: it was not back in time
    is_newcomer_admitted: bool = False
    errors: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    def take(self, crowd: Crowd) -> None:
        """What one part's talkers have to tell."""
        self.notes += crowd.notes
        self.refusals += crowd.refusals
        self.errors += crowd.errors
        self.mismatches += crowd.mismatches

    @property
    def problems(self) -> list[str]:
        """For people; empty is good."""
        found = [problem for each in marks(self.notes) for problem in each.problems]
        found += self.errors[:5] + self.mismatches[:5]
        unclean = [refusal for refusal in self.refusals if not refusal.is_clean]
        found += [f"not refused cleanly: {refusal}" for refusal in unclean[:5]]
        if not self.refusals:
            found.append("nobody was refused: this was no overload")
        if self.few_talking < MIN_SHARE * self.few_wanted:
            found.append(f"the few had {self.few_talking:.1f} sessions of {self.few_wanted:.1f}")
        if self.recovery_s is None:
            found.append(f"not back to normal within {RECOVERY_S:g} s")
        if not self.is_newcomer_admitted:
            found.append("a newcomer was refused when the load had left")
        return found


class Crew:
    """Talkers of one crowd, and their tasks."""

    def __init__(self, url: str, pcm: bytes, seed: int) -> None:
        self.crowd = Crowd(url, pcm)
        self.talkers: list[Talker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._rng = random.Random(seed)

    def add(self, token: str, session_s: float = math.inf) -> Talker:
        """One more talker, at once."""
        rng = random.Random(self._rng.random())
        talker = Talker(self.crowd, token, token, rng, session_s)
        self.talkers.append(talker)
        self._tasks.append(asyncio.create_task(talker.run()))
        return talker

    @property
    def admitted(self) -> list[Talker]:
        """Those that have a place now."""
        return [talker for talker in self.talkers if talker.notes is not None]

    async def leave(self) -> None:
        """All say goodbye."""
        for talker in self.talkers:
            talker.stop()
        await asyncio.gather(*self._tasks)


async def ramp(url: str, pcm: bytes, step_s: float, outcome: Outcome) -> None:
    """One more talker at a time, until one is refused."""
    crew = Crew(url, pcm, seed=1)
    crowd = crew.crowd
    while len(crew.talkers) < MAX_TALKERS and not crowd.refusals and not crowd.errors:
        crew.add((MANY, FEW)[len(crew.talkers) % 2])
        since_s = crowd.now_s() + step_s / 2
        await asyncio.sleep(step_s)
        if len(crew.admitted) == len(crew.talkers):
            outcome.capacity = len(crew.talkers)
            if _is_full(crew, since_s):
                outcome.full_capacity = outcome.capacity
    await crew.leave()
    outcome.take(crowd)


def _is_full(crew: Crew, since_s: float) -> bool:
    """All have class `full` for that long, and it is kept."""
    found = marks(crew.crowd.notes, since_s)
    is_told = [mark.latency_class for mark in found] == [LatencyClass.FULL]
    return is_told and not found[0].problems


async def overload(url: str, pcm: bytes, seconds: float, outcome: Outcome) -> None:
    """Twice the capacity; then all but those that had class `full` leave."""
    crew = Crew(url, pcm, seed=2)
    outcome.offered = 2 * max(1, outcome.capacity)
    num_few = max(1, round(FEW_SHARE * outcome.offered))
    for _ in range(outcome.offered - num_few):
        crew.add(MANY, SESSION_S)
    await asyncio.sleep(FEW_LATER_S)
    for _ in range(num_few):
        crew.add(FEW, SESSION_S)
    await asyncio.sleep(seconds / 4)
    samples = []
    for _ in range(round(0.75 * seconds / SAMPLE_S)):
        await asyncio.sleep(SAMPLE_S)
        samples.append(Counter(crew.crowd.talking))
    outcome.talking = sum(sample.total() for sample in samples) / len(samples)
    outcome.few_talking = sum(sample[FEW] for sample in samples) / len(samples)
    outcome.few_wanted = min(num_few, outcome.talking / 2)
    await recover(crew, outcome)
    await crew.leave()
    outcome.take(crew.crowd)


async def recover(crew: Crew, outcome: Outcome) -> None:
    """The load leaves; those who stay wait for class `full`."""
    staying = crew.admitted[: max(1, outcome.full_capacity // 2)]
    for talker in staying:
        talker.session_s = math.inf
    left_s = crew.crowd.now_s()
    for talker in crew.talkers:
        if talker not in staying:
            talker.stop()
    while (now_s := crew.crowd.now_s()) - left_s < RECOVERY_S:
        classes = {t.notes.latency_class if t.notes is not None else None for t in staying}
        if classes == {LatencyClass.FULL}:
            outcome.recovery_s = now_s - left_s
            break
        await asyncio.sleep(SAMPLE_S / 5)
    newcomer = crew.add(FEW)
    refused_before = len(crew.crowd.refusals)
    await asyncio.sleep(SETTLE_S)
    is_alone = len(crew.crowd.refusals) == refused_before
    outcome.is_newcomer_admitted = newcomer.notes is not None and is_alone


def run(options: argparse.Namespace, pcm: bytes) -> Outcome:
    """Raises ClientError."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.txt"
        lines = [format_token(Token(name, secret_digest(name))) for name in (MANY, FEW)]
        tokens.write_text("\n".join(lines) + "\n")
        settings = [
            "--tokens", str(tokens), "--native-port", "0", "--model", options.model,
            "--max-sessions", str(MAX_TALKERS), "--threads", str(options.threads),
        ]  # fmt: skip
        with ServerProcess(settings) as server:
            url = f"earwire://127.0.0.1:{server.ports.native_port}"
            asyncio.run(_both(url, pcm, options, outcome))
    return outcome


async def _both(url: str, pcm: bytes, options: argparse.Namespace, outcome: Outcome) -> None:
    await ramp(url, pcm, options.step_seconds, outcome)
    await asyncio.sleep(SETTLE_S)
    await overload(url, pcm, options.seconds, outcome)


def _fields(summary: Summary | None) -> dict[str, float] | None:
    return summary.as_fields(0) if summary is not None else None


def _print(outcome: Outcome) -> None:
    rows: list[list[object]] = []
    for mark in marks(outcome.notes):
        for name, found in (
            ("draft to draft", mark.gaps),
            ("audio to draft", mark.draft_lags),
            ("end of speech to final", mark.final_lags),
        ):
            if found is not None:
                rows.append(
                    [mark.latency_class.value, name, found.count, found.p50, found.p95, found.max]
                )
    title = f"{outcome.offered} talkers where {outcome.capacity} fit, ms"
    report.table(title, ("class", "what", "count", "p50", "p95", "max"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module text; 2 when the file or the server is bad."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("file", nargs="?", default=str(CLIP), help="speech")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--step-seconds", type=float, default=8.0, help="between two talkers")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--out", help="write the JSON there too")
    options = parser.parse_args(argv)
    try:
        outcome = run(options, load(options.file).pcm)
    except (ClientError, OSError) as error:
        report.warn(str(error))
        return 2
    _print(outcome)
    waits = summarize(refusal.retry_after_ms or 0 for refusal in outcome.refusals)
    results = {
        "capacity": outcome.capacity, "full_capacity": outcome.full_capacity,
        "offered": outcome.offered, "talking": round(outcome.talking, 2),
        "few_talking": round(outcome.few_talking, 2), "few_wanted": round(outcome.few_wanted, 2),
        "classes": {
            mark.latency_class.value: {
                "gap_ms": _fields(mark.gaps), "draft_lag_ms": _fields(mark.draft_lags),
                "final_lag_ms": _fields(mark.final_lags),
            }
            for mark in marks(outcome.notes)
        },
        "refusals": dict(Counter(refusal.code for refusal in outcome.refusals)),
        "retry_after_ms": _fields(waits), "recovery_s": outcome.recovery_s,
        "newcomer_admitted": outcome.is_newcomer_admitted, "problems": outcome.problems,
    }  # fmt: skip
    for problem in outcome.problems:
        report.warn(problem)
    config = {name: value for name, value in vars(options).items() if name != "out"}
    config["file"] = Path(options.file).name
    report.finish("overload", config, results, options.out)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
