"""Sections `streams` and `memory`: the recognizer under many sessions.

`streams` looks for the most streams that one GPU serves with p95 under 100 ms and no backlog, for
each kind of draft and each hop: steps of whoever is due, drafts and finals together, as the service
would ask for them, without its processes. The search skips the time in which nobody is due; what it
found is then served by the wall's clock, and fewer streams where that does not hold. `memory` opens
and closes sessions by the thousand and asks the device how much is left.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.recognizer import DeviceRecognizer, SessionOptions, StepInput, Want
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Samples
from .gpu_schedule import Clock, Search, Served, SkippingClock, WallClock, serve
from .gpu_section import Progress, Section, Table
from .gpu_talkers import Arena, Speaking, Talkers
from .process_cost import read_memory

SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """What streams are served with."""

    draft: str  # "incremental" or "window"
    hop_ms: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.draft}, {self.hop_ms} ms"


@dataclass(frozen=True, slots=True)
class StreamSizes:
    """How far it is looked."""

    policies: tuple[Policy, ...] = (
        Policy("incremental", 160),
        Policy("incremental", 320),
        Policy("window", 160),
        Policy("window", 320),
    )
    max_streams: int = 2048  # 17 MB of the device each
    first: dict[str, int] | None = None  # where the search begins, by kind of draft
    step: int = 32  # how exact it is
    level_s: float = 2.0
    paced_s: float = 4.0
    speaking: Speaking = field(default_factory=Speaking)
    # Of the server, but for what a policy says; utterances longer than any talker's.
    settings: GpuParakeetSettings = field(
        default_factory=lambda: GpuParakeetSettings(max_utterance_samples=10 * SAMPLE_RATE_HZ)
    )
    make_clock: Callable[[], Clock] = SkippingClock  # of the search
    make_wall_clock: Callable[[], Clock] = WallClock

    def first_guess(self, draft: str) -> int:
        """Streams of the first level."""
        return (self.first or {"incremental": 512, "window": 128}).get(draft, self.step)


# The recognizer of some settings, warm; what was there before may be gone.
MakeRecognizer = Callable[[GpuParakeetSettings], DeviceRecognizer]


def settings_for(policy: Policy, sizes: StreamSizes) -> GpuParakeetSettings:
    """A server's, for one policy."""
    return replace(
        sizes.settings, max_streams=sizes.max_streams, hop_ms=policy.hop_ms, draft=policy.draft
    )


def run(
    make_recognizer: MakeRecognizer, base: Samples, sizes: StreamSizes, progress: Progress
) -> Section:
    """All policies, as far as time allows; each gets its share of what is left."""
    arena = Arena(base)
    results = []
    for index, policy in enumerate(sizes.policies):
        share_s = progress.left_s / (len(sizes.policies) - index)
        if share_s <= 0:
            progress.say(f"streams: no time for {policy.name}")
            results.append({"policy": policy.name, "missing": "out of time"})
            continue
        results.append(_policy(make_recognizer, arena, policy, sizes, progress, share_s))
    return Section({"limit_p95_ms": 100, "policies": results}, _tables(results))


def _policy(
    make_recognizer: MakeRecognizer,
    arena: Arena,
    policy: Policy,
    sizes: StreamSizes,
    progress: Progress,
    share_s: float,
) -> dict[str, Any]:
    """One policy. Nothing of its recognizer is left behind: the next one needs the memory."""
    until_s = progress.elapsed_s + share_s
    recognizer = make_recognizer(settings_for(policy, sizes))
    progress.say(f"streams: {policy.name}: recognizer ready")
    recognizer.register(arena.buffer)
    try:
        return _most(recognizer, arena, policy, sizes, progress, until_s)
    finally:
        recognizer.unregister(arena.buffer)


def _most(
    recognizer: DeviceRecognizer,
    arena: Arena,
    policy: Policy,
    sizes: StreamSizes,
    progress: Progress,
    until_s: float,
) -> dict[str, Any]:
    """The search, and what it found by the wall's clock."""
    talkers = Talkers(recognizer, arena, policy.hop_ms * SAMPLES_PER_MS, sizes.speaking)
    hop_s = policy.hop_ms / 1e3

    def measure(streams: int) -> Served:
        talkers.require(streams)
        gc.collect()
        gc.freeze()  # as the service does: what is open now is not looked through again
        level = serve(talkers, streams, hop_s, sizes.level_s, sizes.make_clock())
        p95 = level.latency_ms and round(level.latency_ms.p95, 1)
        progress.say(f"streams: {policy.name}: {streams}: p95 {p95} ms, {level.holds=}")
        return level

    search = Search(
        measure, sizes.first_guess(policy.draft), sizes.max_streams, sizes.step,
        lambda: progress.elapsed_s > until_s - sizes.paced_s,
    )  # fmt: skip
    best = search.run()

    def by_the_clock(streams: int) -> dict[str, Any]:
        before = talkers.num_finals, talkers.num_final_tokens
        level = serve(talkers, streams, hop_s, sizes.paced_s, sizes.make_wall_clock())
        finals, tokens = talkers.num_finals - before[0], talkers.num_final_tokens - before[1]
        progress.say(f"streams: {policy.name}: {streams} by the clock: {level.holds=}")
        return {**level.as_fields(), "finals": finals, "final_tokens": tokens}

    paced = until_one_holds(
        by_the_clock, best.streams if best else 0, sizes.step,
        lambda: progress.elapsed_s > until_s - sizes.paced_s,
    )  # fmt: skip
    talkers.close()
    gc.unfreeze()
    return {
        "policy": policy.name,
        "draft": policy.draft,
        "hop_ms": policy.hop_ms,
        "streams": best.streams if best else 0,
        "is_complete": search.is_complete,
        "is_all_there_is_room_for": best is not None and best.streams == sizes.max_streams,
        "levels": [level.as_fields() for level in search.levels],
        "paced": paced,
    }


def until_one_holds(
    measure: Callable[[int], dict[str, Any]],
    streams: int,
    step: int,
    is_out_of_time: Callable[[], bool],
) -> list[dict[str, Any]]:
    """Levels of `streams`, then of about a sixteenth fewer, at least of the next multiple of `step`
    below, until one holds. The first is measured whatever the time.
    """
    levels: list[dict[str, Any]] = []
    while streams > 0 and not (levels and is_out_of_time()):
        levels.append(measure(streams))
        if levels[-1]["holds"]:
            break
        streams = min(streams - 1, streams * 15 // 16) // step * step
    return levels


def _tables(results: list[dict[str, Any]]) -> list[Table]:
    columns = ("drafts, hop", "most streams", "p50 ms", "p95", "p99", "mean batch", "busy",
               "by the clock", "p50", "p95", "holds")  # fmt: skip
    rows = []
    for result in results:
        if "missing" in result:
            rows.append([f"{result['policy']}: {result['missing']}", *[None] * 10])
            continue
        held = [level for level in result["levels"] if level["holds"]]
        best = max(held, key=lambda level: level["streams"], default=None)
        rows.append([result["policy"], _streams(result), *_level(best), *_paced(result["paced"])])
    return [Table("streams with p95 under 100 ms and no backlog", columns, rows)]


def _streams(result: dict[str, Any]) -> str:
    at_least = result["is_all_there_is_room_for"] or not result["is_complete"]
    return f"{'>= ' if at_least else ''}{result['streams']}"


def _level(level: dict[str, Any] | None) -> list[object]:
    if level is None:
        return [None] * 5
    latency = level["latency_ms"]
    return [latency["p50"], latency["p95"], latency["p99"], level["mean_batch"],
            level["busy_share"]]  # fmt: skip


def _paced(levels: list[dict[str, Any]]) -> list[object]:
    """The last level: the one that held, if any did."""
    if not levels:
        return [None] * 4
    level = levels[-1]
    latency = level["latency_ms"] or {}
    return [level["streams"], latency.get("p50"), latency.get("p95"), level["holds"]]


# -- memory ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemorySizes:
    """How many sessions come and go."""

    sessions: int = 10_000
    at_once: int = 250
    finals_at_once: int = 16  # of these; the others are closed in the middle of an utterance
    samples: int = 8_000


def run_memory(
    recognizer: DeviceRecognizer,
    free_bytes: Callable[[], int],
    base: Samples,
    sizes: MemorySizes,
    progress: Progress,
) -> Section:
    """Waves of sessions, each with a draft, some with a final."""
    _wave(recognizer, base, sizes)  # the first one warms up
    gc.collect()
    before, host_before = free_bytes(), _host_bytes()
    done = 0
    while done < sizes.sessions:
        _wave(recognizer, base, sizes)
        done += sizes.at_once
    gc.collect()
    after, host_after = free_bytes(), _host_bytes()
    progress.say(f"memory: {done} sessions, {before - after} bytes of the device fewer than before")
    fields = {
        "sessions": done,
        "device_free_before_bytes": before,
        "device_free_after_bytes": after,
        "device_grew_bytes": before - after,
        "host_grew_bytes": host_after - host_before,
    }
    columns = ("", "free before, MB", "free after, MB", "grew, MB", "host grew, MB")
    row = [f"{done} sessions opened and closed", *(
        bytes_ / 1e6 for bytes_ in (before, after, before - after, host_after - host_before)
    )]  # fmt: skip
    return Section(fields, [Table("memory of the device", columns, [row])])


def _wave(recognizer: DeviceRecognizer, base: Samples, sizes: MemorySizes) -> None:
    handles = [recognizer.open(SessionOptions()) for _ in range(sizes.at_once)]
    samples = base[: sizes.samples]
    size = recognizer.max_draft_batch
    for start in range(0, len(handles), size):
        group = handles[start : start + size]
        _step(recognizer, [StepInput(handle, samples, Want.DRAFT) for handle in group])
    finals = handles[: min(sizes.finals_at_once, recognizer.max_parallel)]
    _step(recognizer, [StepInput(handle, samples, Want.FINAL) for handle in finals])
    for handle in handles:
        recognizer.close(handle)


def _step(recognizer: DeviceRecognizer, batch: list[StepInput]) -> None:
    """Not step(), which takes drafts in batches of finals."""
    running = recognizer.begin(batch)
    recognizer.wait(running)
    recognizer.finish(running)


def _host_bytes() -> int:
    return read_memory(os.getpid(), "VmRSS")
