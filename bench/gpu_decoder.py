"""Section `decoder`: what a turn of the decoder's loop costs, in each mode and batch size.

On frames that the encoder computed from speech, so that tokens come at their true rate. A turn is
one look at the joint by every row that is not done; how many there were comes with the results.
STEPWISE and EAGER ask a flag of every turn: what the host takes for that is in their numbers.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_service.gpu.device import DeviceArray
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Samples, pinned_speech
from .gpu_rig import Rig, bucket_frames, encode, whole_rows
from .gpu_section import Progress, Section, Table


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """What is decoded."""

    batches: tuple[int, ...] = (1, 8, 32, 64, 256)
    seconds: float = 16.0
    encoder_batch: int = 128  # clips of one run of the encoder
    runs: int = 5
    modes: tuple[GraphMode, ...] = tuple(GraphMode)


def encoded_speech(rig: Rig, base: Samples, sizes: DecoderSizes) -> tuple[DeviceArray, int]:
    """(rows, N, J) frames of speech, no two rows alike, and how many of each are real."""
    length = round(sizes.seconds * SAMPLE_RATE_HZ)
    bucket = Bucket(sizes.encoder_batch, bucket_frames(length))
    num_rows, width = max(sizes.batches), rig.decoder_weights.width
    frames = rig.device.empty((num_rows, bucket.frames, width), np.float32)
    num_frames = 0
    for start in range(0, num_rows, bucket.batch):
        count = min(bucket.batch, num_rows - start)
        clips = pinned_speech(rig.device, base, [length] * count, first=start)
        encoded, (num_frames, *_) = encode(rig, bucket, clips.clips)
        rig.device.copy(frames.rows(start, start + count), encoded.rows(0, count))
        rig.device.synchronize()  # the clips' memory goes
    return frames, num_frames


def time_mode(
    rig: Rig, frames: DeviceArray, num_frames: int, batch: int, mode: GraphMode, runs: int
) -> dict[str, Any]:
    """One mode and batch: the median of some runs, behind one to warm up."""
    rows = whole_rows(rig, [num_frames] * batch)
    device_ms = []
    num_turns = num_tokens = 0
    for _ in range(runs + 1):
        rig.device.synchronize()
        start = rig.device.record()
        ticket = rig.decoder.enqueue(frames.rows(0, batch), rows, mode)
        end = rig.device.record()
        rig.device.wait(end)
        said = rig.decoder.read(ticket)
        num_turns, num_tokens = said.num_turns, sum(len(row.ids) for row in said.rows())
        device_ms.append(rig.device.elapsed_ms(start, end))
    ms = statistics.median(device_ms[1:])
    return {
        "mode": mode.value,
        "batch": batch,
        "ms": ms,
        "turns": num_turns,
        "us_per_turn": ms * 1e3 / max(1, num_turns),
        "turns_per_frame": num_turns / num_frames,
        "tokens": num_tokens,
        "tokens_per_s": num_tokens / ms * 1e3,
    }


def run(rig: Rig, base: Samples, sizes: DecoderSizes, progress: Progress) -> Section:
    """See the top of this file."""
    frames, num_frames = encoded_speech(rig, base, sizes)
    results = []
    for mode in sizes.modes:
        rig.decoder.prepare(mode)
        results += [
            time_mode(rig, frames, num_frames, batch, mode, sizes.runs) for batch in sizes.batches
        ]
        progress.say(f"decoder: {mode.value} timed")
    by_place = {(r["mode"], r["batch"]): r["us_per_turn"] for r in results}
    for result in results:
        stepwise = by_place.get((GraphMode.STEPWISE.value, result["batch"]))
        result["stepwise_ratio"] = stepwise and stepwise / result["us_per_turn"]
    columns = ("mode", "batch", "us/turn", "STEPWISE takes, times", "turns/frame", "tokens/s", "ms")
    rows = [
        [r["mode"], r["batch"], r["us_per_turn"], r["stepwise_ratio"], r["turns_per_frame"],
         round(r["tokens_per_s"]), r["ms"]]
        for r in results
    ]  # fmt: skip
    title = f"decoder's loop, {sizes.seconds:g} s a row ({num_frames} frames)"
    return Section({"frames": num_frames, "modes": results}, [Table(title, columns, rows)])
