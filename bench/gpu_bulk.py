"""Section `bulk`: audio in the host's memory to tokens there, as fast as it goes.

Two sets, one of equal clips and one of mixed lengths in buckets. The device's stream takes one
batch behind the other, the features of the next one are made beside it, two neighbours of one
bucket are decoded together, and the host reads the tokens of a pass while the next one is computed,
so what the host does is hidden as far as it is shorter. Beside it the encoder alone on the same
buckets, and the stages by events.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpu_service.gpu.encoder import Utterance
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Clip, Samples, pinned_speech, spread_lengths
from .gpu_rig import (
    MOST_TOGETHER,
    STAGES,
    Answer,
    Rig,
    RigSizes,
    Running,
    begin_ahead,
    bucket_frames,
    finish,
    hear,
)
from .gpu_section import Progress, Section, Table
from .report import warn

SPEECH_TOKENS_PER_S = (1.0, 12.0)  # outside of it, the decoder does not do what it would in use
SLOW_STAGES_SHARE = 0.1  # of the encoder: above it the split is what to look at


@dataclass(frozen=True, slots=True)
class BulkSizes:
    """How much is transcribed."""

    batch: int = 128
    seconds: float = 16.0
    num_batches: int = 8  # of the equal set, one behind the other
    num_mixed: int = 384
    shortest_s: float = 1.0
    longest_s: float = 30.0
    runs: int = 3


class Batch(NamedTuple):
    """Clips that are computed together."""

    bucket: Bucket
    clips: list[Clip]


def batches_of(clips: Sequence[Clip], sizes: RigSizes) -> list[Batch]:
    """Clips in batches as full as there is room for, the longest together."""
    waiting = sorted(clips, key=lambda clip: -clip.num_samples)
    batches = []
    while waiting:
        frames = bucket_frames(waiting[0].num_samples)
        count = max(1, min(sizes.max_batch, sizes.max_rows // frames, len(waiting)))
        batches.append(Batch(Bucket(count, frames), waiting[:count]))
        waiting = waiting[count:]
    return batches


def passes_of(batches: Sequence[Batch], max_batch: int) -> list[list[Batch]]:
    """Neighbours that are decoded together: those of one bucket, all but the last full."""
    passes: list[list[Batch]] = []
    for batch in batches:
        together = passes[-1] if passes else []
        num_rows = (len(together) + 1) * batch.bucket.batch
        is_alike = all(
            other.bucket == batch.bucket and len(other.clips) == batch.bucket.batch
            for other in together
        )
        if together and is_alike and len(together) < MOST_TOGETHER and num_rows <= max_batch:
            together.append(batch)
        else:
            passes.append([batch])
    return passes


def padding_share(batches: Sequence[Batch]) -> float:
    """Of the frames that the encoder computes, how many are nobody's."""
    real = sum(clip.num_frames for batch in batches for clip in batch.clips)
    return 1 - real / sum(batch.bucket.rows for batch in batches)


def transcribe(rig: Rig, batches: Sequence[Batch]) -> tuple[list[Answer], float]:
    """All of them, and the seconds from the first enqueued to the last token on the host."""
    answers = []
    waiting: Running | None = None
    rig.device.synchronize()
    started_s = time.perf_counter()
    for turn, together in enumerate(passes_of(batches, rig.sizes.max_batch)):
        clips = [batch.clips for batch in together]
        running = begin_ahead(rig, together[0].bucket, clips, turn)
        if waiting is not None:
            answers.append(finish(rig, waiting))
        waiting = running
    if waiting is not None:
        answers.append(finish(rig, waiting))
    return answers, time.perf_counter() - started_s


def encoder_alone_s(rig: Rig, batches: Sequence[Batch]) -> float:
    """The encoder over the same buckets, on mel rows that are there already."""
    utterances = [
        [Utterance(slot, clip.num_rows) for slot, clip in enumerate(batch.clips)]
        for batch in batches
    ]
    rig.device.synchronize()
    start = rig.device.record()
    for batch, rows in zip(batches, utterances, strict=True):
        rig.encoder.encode(batch.bucket, rows)
    end = rig.device.record()
    rig.device.wait(end)
    return rig.device.elapsed_ms(start, end) / 1e3


def measure(rig: Rig, batches: Sequence[Batch], runs: int) -> dict[str, Any]:
    """One set, some times over: the median of each."""
    for batch in batches:
        rig.encoder.prepare(batch.bucket)
    hear(rig, batches[0].clips)
    encoder_alone_s(rig, batches)
    transcribe(rig, batches)  # warm; and every slot has rows now
    measured = [(*transcribe(rig, batches), encoder_alone_s(rig, batches)) for _ in range(runs)]
    seconds = sum(clip.seconds for batch in batches for clip in batch.clips)
    wall_s = statistics.median(wall for _, wall, _ in measured)
    alone_s = statistics.median(alone for _, _, alone in measured)
    answers = measured[-1][0]
    stage_ms = {
        stage: sum(answer.stage_ms[index] for answer in answers)
        for index, stage in enumerate(STAGES)
    }
    num_tokens = sum(answer.num_tokens for answer in answers)
    longest = sum(max(answer.num_frames) for answer in answers)
    return {
        "batches": [(b.bucket.batch, b.bucket.frames, len(b.clips)) for b in batches],
        "audio_s": seconds,
        "padding_share": padding_share(batches),
        "wall_s": wall_s,
        "all_wall_s": [wall for _, wall, _ in measured],
        "audio_s_per_s": seconds / wall_s,
        "encoder_alone_audio_s_per_s": seconds / alone_s,
        "ratio_to_encoder_alone": alone_s / wall_s,
        "tokens_per_s": num_tokens / wall_s,
        "tokens_per_audio_s": num_tokens / seconds,
        "turns_per_frame": sum(answer.num_turns for answer in answers) / longest,
        "stage_ms": stage_ms,
        # Features lie beside the batch before.
        "host_and_gaps_ms": wall_s * 1e3 - stage_ms["encoder"] - stage_ms["decoder"],
    }


def single_batch_ms(rig: Rig, batch: Batch, runs: int) -> float:
    """One batch alone, the host's part included: the median."""
    return statistics.median(transcribe(rig, [batch])[1] * 1e3 for _ in range(runs))


def run(
    rig: Rig,
    base: Samples,
    torch_baseline: dict[str, Any],
    sizes: BulkSizes,
    progress: Progress,
) -> Section:
    """Both sets. `torch_baseline`: of gpu_torch.py, put beside it."""
    length = round(sizes.seconds * SAMPLE_RATE_HZ)
    equal = pinned_speech(rig.device, base, [length] * sizes.batch)
    one = Batch(Bucket(sizes.batch, bucket_frames(length)), equal.clips)
    results = {"equal": measure(rig, [one] * sizes.num_batches, sizes.runs)}
    results["equal"]["one_batch_ms"] = single_batch_ms(rig, one, sizes.runs)
    progress.say(f"bulk: equal clips, {results['equal']['audio_s_per_s']:.0f} audio-s/s")
    lengths = spread_lengths(sizes.num_mixed, sizes.shortest_s, sizes.longest_s)
    mixed = pinned_speech(rig.device, base, lengths)
    results["mixed"] = measure(rig, batches_of(mixed.clips, rig.sizes), sizes.runs)
    progress.say(f"bulk: mixed lengths, {results['mixed']['audio_s_per_s']:.0f} audio-s/s")
    tokens_per_s = results["equal"]["tokens_per_audio_s"]
    low, high = SPEECH_TOKENS_PER_S
    if not low <= tokens_per_s <= high:
        warn(f"{tokens_per_s:.1f} tokens a second of audio are not the rate of speech")
    rows = _torch_rows(torch_baseline)
    fields = results | {"torch": torch_baseline | rows}
    names = {
        "equal": f"{sizes.batch} x {sizes.seconds:g} s",
        "mixed": f"{sizes.num_mixed} of {sizes.shortest_s:g} to {sizes.longest_s:g} s",
    }
    return Section(fields, [_rates(results, names, rows), *_splits(results, names)])


def _rates(
    results: dict[str, dict[str, Any]], names: dict[str, str], torch_rates: dict[str, float]
) -> Table:
    columns = ("", "audio-s/s", "of encoder alone", "tokens/s", "turns/frame", "padding")
    rows: list[list[object]] = []
    for key, name in names.items():
        result = results[key]
        rows.append([
            f"{name}, audio to tokens", round(result["audio_s_per_s"]),
            result["ratio_to_encoder_alone"], round(result["tokens_per_s"]),
            result["turns_per_frame"], result["padding_share"],
        ])  # fmt: skip
        rate = round(result["encoder_alone_audio_s_per_s"])
        rows.append([f"{name}, encoder alone", rate, 1.0, None, None, result["padding_share"]])
    for name, rate in torch_rates.items():
        label = name.replace("_audio_s_per_s", "").replace("_", " ")
        rows.append([f"torch {label}, encoder alone", round(rate), None, None, None, None])
    return Table("bulk", columns, rows)


def _splits(results: dict[str, dict[str, Any]], names: dict[str, str]) -> list[Table]:
    """Where the time goes, if it does not all go to the encoder."""
    rows = []
    for key, name in names.items():
        stage_ms, gaps_ms = results[key]["stage_ms"], results[key]["host_and_gaps_ms"]
        rest_ms = results[key]["wall_s"] * 1e3 - stage_ms["encoder"]
        if rest_ms > SLOW_STAGES_SHARE * stage_ms["encoder"]:
            rows.append([name, *(stage_ms[stage] for stage in STAGES), gaps_ms])
    columns = ("ms on the device, all batches", *STAGES, "host, gaps")
    return [Table("what the rest costs", columns, rows)] if rows else []


def _torch_rows(baseline: dict[str, Any]) -> dict[str, float]:
    """Audio seconds a second of each variant, from `VARIANT_ms_batch_B`."""
    rates = {}
    for name, value in baseline.items():
        variant, found, batch = name.partition("_ms_batch_")
        if found:
            seconds = int(batch) * baseline["rows"] / 100
            rates[f"{variant}_batch_{batch}_audio_s_per_s"] = seconds / value * 1e3
    return rates
