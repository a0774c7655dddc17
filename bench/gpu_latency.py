"""Sections `clip` and `profiles`: how long one utterance takes, alone on the device.

From samples in the host's page-locked memory to tokens on the host, by the host's clock; the
stages' shares by events. `clip` also takes streaming steps of one second behind ten others, as
a session's drafts go: new frames and a look-ahead encoded, what is certain committed, both decoded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.increments import Increment
from gpu_service.gpu.slot_audio import NewAudio
from gpu_service.gpu.tdt import DecodeRow
from gpu_service.gpu.tdt_results import Decoded
from gpu_service.parakeet_rules import LOOK_AHEAD_FRAMES, next_piece
from gpu_service.weights.parakeet_config import SUBSAMPLING_FACTOR
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Clip, Samples, pinned_speech
from .gpu_rig import STAGES, Rig, begin, bucket_frames, finish
from .gpu_section import Progress, Section, Table
from .percentiles import Summary, summarize

SLOT = 0
OWN_STATE = 0
SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class LatencySizes:
    """What is timed, and how often."""

    runs: int = 200
    clip_s: float = 8.0
    clip_batches: tuple[int, ...] = (1, 4)  # rows of the bucket: alone, and as the recognizer does
    step_s: float = 1.0
    history_s: float = 10.0  # before the first step, one piece of a draft
    look_aheads: tuple[int, ...] = (LOOK_AHEAD_FRAMES, 0)
    inputs_s: tuple[float, ...] = (0.2, 1.0, 5.0, 15.0)
    profile_runs: int = 50


def summary(values: list[float]) -> Summary:
    """Of at least one value."""
    found = summarize(values)
    assert found is not None
    return found


def time_clip(rig: Rig, bucket: Bucket, clip: Clip, runs: int) -> dict[str, Any]:
    """One clip in a bucket: wall and stages."""
    rig.encoder.prepare(bucket)
    wall_ms = []
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    answer = None
    for index in range(runs + 3):
        rig.device.synchronize()
        started_s = time.perf_counter()
        answer = finish(rig, begin(rig, bucket, [clip]))
        took_ms = (time.perf_counter() - started_s) * 1e3
        if index < 3:  # the first ones warm up
            continue
        wall_ms.append(took_ms)
        for stage, ms in zip(STAGES, answer.stage_ms, strict=True):
            stages[stage].append(ms)
    assert answer is not None
    return {
        "seconds": clip.seconds,
        "bucket": (bucket.batch, bucket.frames),
        "wall_ms": summary(wall_ms),
        **{f"{stage}_ms": summary(values) for stage, values in stages.items()},
        "tokens": answer.num_tokens,
        "turns": answer.num_turns,
        "turns_per_frame": answer.num_turns / answer.num_frames[0],
    }


@dataclass(slots=True)
class Stream:
    """One session's drafts by increments, on the rig."""

    rig: Rig
    look_ahead_frames: int
    next_frame: int = 0
    state: int = field(init=False)

    def __post_init__(self) -> None:
        self.rig.store.reset(SLOT)
        self.state = self.rig.decoder.START

    def bucket(self, num_samples: int) -> Bucket:
        """Of steps of so much audio."""
        frames = math.ceil(num_samples / FRAME_SAMPLES) + 1 + self.look_ahead_frames
        return Bucket(1, frames + 1)

    def step(self, audio: Clip, bucket: Bucket) -> list[Decoded]:
        """New audio to the tokens that are committed by it, and those behind."""
        rig, store = self.rig, self.rig.store
        store.append([NewAudio(SLOT, [audio])])
        piece = next_piece(
            self.next_frame, store.num_rows(SLOT), store.num_certain(SLOT), self.look_ahead_frames
        )
        end = SUBSAMPLING_FACTOR * self.next_frame + piece.num_rows
        increment = Increment(SLOT, self.next_frame, end, piece.num_commit)
        frames = rig.increments.encode(bucket, [increment])
        count, num_frames = piece.num_commit, increment.num_frames
        rows = DecodeRow(0, 0, count, self.state, OWN_STATE)
        committed = rig.decoder.enqueue(frames, [rows])
        behind = DecodeRow(0, count, num_frames - count, OWN_STATE, rig.decoder.scratch(0))
        shown = rig.decoder.enqueue(frames, [behind])
        self.state, self.next_frame = OWN_STATE, self.next_frame + count
        rig.device.wait(rig.device.record())
        return [*rig.decoder.results(committed), *rig.decoder.results(shown)]


def time_steps(rig: Rig, base: Samples, look_ahead_frames: int, sizes: LatencySizes) -> Summary:
    """Milliseconds of single steps, of as many utterances as it takes."""
    history = round(sizes.history_s * SAMPLE_RATE_HZ)
    step = round(sizes.step_s * SAMPLE_RATE_HZ)
    clips = pinned_speech(rig.device, base, [rig.sizes.max_samples])
    first = Bucket(1, -(-history // FRAME_SAMPLES) + 1)
    wall_ms: list[float] = []
    is_warm = False
    while len(wall_ms) < sizes.runs:
        stream = Stream(rig, look_ahead_frames)
        stream.step(Clip(clips.memory.address, history), first)
        for start in range(history, rig.sizes.max_samples - step + 1, step):
            audio = Clip(clips.memory.address + SAMPLE_BYTES * start, step)
            started_s = time.perf_counter()
            stream.step(audio, stream.bucket(step))
            if is_warm:
                wall_ms.append((time.perf_counter() - started_s) * 1e3)
            is_warm = True
    return summary(wall_ms[: sizes.runs])


def run_clip(rig: Rig, base: Samples, sizes: LatencySizes, progress: Progress) -> Section:
    """One clip, and single steps."""
    length = round(sizes.clip_s * SAMPLE_RATE_HZ)
    (clip,), memory = pinned_speech(rig.device, base, [length])
    frames = bucket_frames(memory.size)
    clips = [time_clip(rig, Bucket(b, frames), clip, sizes.runs) for b in sizes.clip_batches]
    progress.say(f"clip: {clips[0]['wall_ms'].p50:.2f} ms p50")
    steps = {look: time_steps(rig, base, look, sizes) for look in sizes.look_aheads}
    rows = []
    for result in clips:
        name = f"{sizes.clip_s:g} s clip, bucket of {result['bucket'][0]}"
        rows.append([name, *_percentiles(result["wall_ms"]), result["turns_per_frame"]])
        rows += [
            [f"  {stage}, on the device", *_percentiles(result[f"{stage}_ms"]), None]
            for stage in STAGES
        ]
    for look, found in steps.items():
        name = f"{sizes.step_s:g} s streaming step, look-ahead {look} frames"
        rows.append([name, *_percentiles(found), None])
    fields = {
        "clips": [_plain(result) for result in clips],
        "steps": [
            {"look_ahead_frames": look, "step_s": sizes.step_s, "wall_ms": found.as_fields()}
            for look, found in steps.items()
        ],
    }
    columns = ("ms, host audio to tokens", "runs", "p50", "p95", "p99", "turns/frame")
    return Section(fields, [Table("one at a time", columns, rows)])


def run_profiles(rig: Rig, base: Samples, sizes: LatencySizes, progress: Progress) -> Section:
    """Inputs of some lengths in their own bucket, and in the largest of these."""
    largest = Bucket(1, bucket_frames(round(max(sizes.inputs_s) * SAMPLE_RATE_HZ)))
    results, rows = [], []
    for clip, memory in _each(rig, base, sizes):
        own = Bucket(1, bucket_frames(memory))
        both = [time_clip(rig, bucket, clip, sizes.profile_runs) for bucket in (own, largest)]
        results.append({"own": _plain(both[0]), "largest": _plain(both[1])})
        walls, encoders = ([r[key].p50 for r in both] for key in ("wall_ms", "encoder_ms"))
        rows.append([f"{clip.seconds:g} s in {own.frames} frames", *walls, *encoders,
                     encoders[1] / max(encoders[0], 1e-9)])  # fmt: skip
    progress.say("profiles: timed")
    columns = ("ms p50, batch 1", "own bucket", "largest alone", "encoder, own", "encoder, largest",
               "ratio")  # fmt: skip
    title = f"own bucket against the largest one alone ({largest.frames} frames)"
    return Section({"inputs": results, "largest": largest.frames}, [Table(title, columns, rows)])


def _each(rig: Rig, base: Samples, sizes: LatencySizes) -> Iterator[tuple[Clip, int]]:
    for row, seconds in enumerate(sizes.inputs_s):
        length = round(seconds * SAMPLE_RATE_HZ)
        clips = pinned_speech(rig.device, base, [length], first=row)
        yield clips.clips[0], length
        rig.device.synchronize()  # the clip's memory goes


def _percentiles(found: Summary) -> list[float]:
    return [found.count, found.p50, found.p95, found.p99]


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """For the JSON line."""
    return {
        name: value.as_fields() if isinstance(value, Summary) else value
        for name, value in result.items()
    }
