"""Section `correct`: is it the model at all?

Encoder: half precision and single precision on the device against each other and against ONNX
Runtime. Decoder: every mode and batch size against the host's decoder on the frames that the device
computed. End to end: single precision against the CPU engine, token for token, on the golden
checkpoint; half against single precision, decisions that flip and how clear they were.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.builder.accuracy import closeness
from gpu_service.cpu.parakeet_features import log_mel_features
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.tdt_weights import DecoderWeights
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.tdt_results import Decoded
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.gpu.tdt_weights import rounded
from gpu_service.recognizer import Recognizer, SessionOptions, StepInput, Want
from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Clips, Samples, pinned_samples, pinned_speech, speech, spread_lengths
from .gpu_margins import (
    NO_FLIPS,
    Said,
    first_difference,
    flips,
    margin_at,
    num_differing,
    said,
    said_by_device,
)
from .gpu_rig import Rig, bucket_frames, encode, whole_rows
from .gpu_section import Progress, Section, Table
from .percentiles import summarize

TINY = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "parakeet" / "tiny"

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CorrectSizes:
    """How much is compared."""

    seconds: tuple[float, ...] = (0.5, 1.0, 3.3, 8.0, 16.0, 30.0)
    on_cpu: tuple[float, ...] = (3.3, 16.0)  # of these, what ONNX Runtime computes too
    batches: tuple[int, ...] = (1, 8, 32, 64)
    shortest_s: float = 1.0  # of the decoder's rows
    longest_s: float = 16.0
    modes: tuple[GraphMode, ...] = tuple(GraphMode)
    num_flip_rows: int = 16  # of the decoder's rows, for half against single precision
    tiny_seconds: tuple[float, ...] = (0.05, 0.4, 1.0, 2.5, 5.0, 9.3, 16.0, 29.9)


@dataclass(slots=True)
class Exact:
    """What single precision says, kept on the host while half precision runs."""

    encoded: dict[float, Array] = field(default_factory=dict)  # (N, J) by seconds
    on_cpu: dict[float, Array] = field(default_factory=dict)
    frames: list[Array] = field(default_factory=list)  # (N, J) of the first decoder rows
    rows: list[list[Said]] = field(default_factory=list)  # what was said of them


def run_exact(rig: Rig, base: Samples, sizes: CorrectSizes) -> Exact:
    """The single precision's part."""
    clips = _decoder_clips(rig, base, sizes)
    some = clips._replace(clips=clips.clips[: sizes.num_flip_rows])
    frames, decoded = _decode_all(rig, some, GraphMode.PERSISTENT)
    return Exact(
        encoded={s: _encode_one(rig, base, s) for s in sizes.seconds},
        frames=frames,
        rows=[said_by_device(row) for row in decoded],
    )


def run_cpu(checkpoint: ParakeetCheckpoint, base: Samples, sizes: CorrectSizes) -> dict[float, Any]:
    """(N, J) of ONNX Runtime by seconds. Loads the model, and forgets it again."""
    from gpu_service.cpu.parakeet_encoder import open_encoder

    longest = bucket_frames(round(max(sizes.on_cpu) * SAMPLE_RATE_HZ))
    encoder, _ = open_encoder(checkpoint, longest, len(os.sched_getaffinity(0)))
    features = {s: log_mel_features(_clip_samples(base, s)) for s in sizes.on_cpu}
    return {s: encoder.encode_exact(rows) for s, rows in features.items()}


def run(
    rig: Rig, base: Samples, exact: Exact, tiny: Section, sizes: CorrectSizes, progress: Progress
) -> Section:
    """Half precision, compared; and `tiny`, of run_tiny(), put behind it."""
    encoder_fields, encoder_table = _compare_encoder(rig, base, exact, sizes)
    progress.say("correct: encoder compared")
    clips = _decoder_clips(rig, base, sizes)
    frames, _ = _decode_all(rig, clips, GraphMode.PERSISTENT)
    weights = rounded(rig.decoder_weights, rig.precision)
    oracle = TdtDecoder(weights)
    with _threads() as threads:
        truth = list(threads.map(lambda row: said(oracle.decode(row, oracle.start())[0]), frames))
    progress.say(f"correct: oracle said {sum(map(len, truth))} tokens in {len(truth)} rows")
    decoder_fields, decoder_table = _compare_decoder(rig, frames, truth, weights, sizes)
    progress.say("correct: decoder compared")
    flip_fields, flip_table = _compare_precisions(rig, exact, frames, truth, weights)
    return Section(
        {
            "encoder": encoder_fields,
            "decoder": decoder_fields,
            "half_against_single": flip_fields,
            "tiny_end_to_end": tiny.fields,
        },
        [encoder_table, decoder_table, flip_table, *tiny.tables],
    )


def _threads() -> ThreadPoolExecutor:
    """For the oracle, a row each; with OPENBLAS_NUM_THREADS=1 they do not fight for the cores."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


# -- encoder -----------------------------------------------------------------------------------


def _clip_samples(base: Samples, seconds: float) -> Samples:
    return speech(base, round(10 * seconds), round(seconds * SAMPLE_RATE_HZ))


def _encode_one(rig: Rig, base: Samples, seconds: float) -> Array:
    """(N, J) of one clip in the smallest bucket."""
    samples = _clip_samples(base, seconds)
    clips = pinned_samples(rig.device, [samples])
    frames, (num_frames,) = encode(rig, Bucket(1, bucket_frames(len(samples))), clips.clips)
    encoded: Array = rig.device.download(frames)[0, :num_frames]
    return encoded


def _compare_encoder(
    rig: Rig, base: Samples, exact: Exact, sizes: CorrectSizes
) -> tuple[list[dict[str, Any]], Table]:
    results = []
    for seconds in sizes.seconds:
        half, single = _encode_one(rig, base, seconds), exact.encoded[seconds]
        result: dict[str, Any] = {"seconds": seconds, "frames": len(half)}
        pairs = {"half_single": (half, single)}
        if seconds in exact.on_cpu:
            on_cpu = exact.on_cpu[seconds]
            pairs |= {"half_cpu": (half, on_cpu), "single_cpu": (single, on_cpu)}
        for name, (ours, truth) in pairs.items():
            close = closeness([ours], [truth])
            result[name] = {"relative_error": close.relative_error, "worst_cosine": close.cosine}
        results.append(result)
    columns = ("seconds", "frames", "half/single rel. error", "worst cosine", "half/CPU rel. error",
               "worst cosine", "single/CPU rel. error")  # fmt: skip
    rows = [[str(r["seconds"]), r["frames"], *_cells(r)] for r in results]
    return results, Table("encoder output, relative error and cosine of the worst frame",
                          columns, rows)  # fmt: skip


def _cells(result: dict[str, Any]) -> Iterator[str | None]:
    for name in ("half_single", "half_cpu", "single_cpu"):
        close = result.get(name)
        yield f"{close['relative_error']:.1e}" if close else None
        if name != "single_cpu":
            yield f"{close['worst_cosine']:.6f}" if close else None


# -- decoder -----------------------------------------------------------------------------------


def _decoder_clips(rig: Rig, base: Samples, sizes: CorrectSizes) -> Clips:
    """Mixed lengths, the most that a batch takes."""
    lengths = spread_lengths(max(sizes.batches), sizes.shortest_s, sizes.longest_s)
    return pinned_speech(rig.device, base, lengths)


def _decode_all(rig: Rig, clips: Clips, mode: GraphMode) -> tuple[list[Array], list[Decoded]]:
    """Each clip's (N, J) frames, and its tokens. One run of both; the frames stay on the device."""
    longest = bucket_frames(max(clip.num_samples for clip in clips.clips))
    frames, num_frames = encode(rig, Bucket(len(clips.clips), longest), clips.clips)
    ticket = rig.decoder.enqueue(frames, whole_rows(rig, num_frames), mode)
    host = rig.device.download(frames)
    decoded = rig.decoder.results(ticket)
    return [row[:count] for row, count in zip(host, num_frames, strict=True)], decoded


def _compare_decoder(
    rig: Rig,
    frames: Sequence[Array],
    truth: Sequence[list[Said]],
    weights: DecoderWeights,
    sizes: CorrectSizes,
) -> tuple[list[dict[str, Any]], Table]:
    """Every mode and batch on the same frames."""
    padded = np.zeros((len(frames), max(map(len, frames)), weights.width), np.float32)
    for place, row in zip(padded, frames, strict=True):
        place[: len(row)] = row
    on_device = rig.device.upload(padded)
    results = []
    for mode in sizes.modes:
        rig.decoder.prepare(mode)
        for batch in sizes.batches:
            rows = whole_rows(rig, [len(row) for row in frames[:batch]])
            ticket = rig.decoder.enqueue(on_device.rows(0, batch), rows, mode)
            rig.device.synchronize()
            found = [said_by_device(row) for row in rig.decoder.results(ticket)]
            compared = _compared(found, truth[:batch], frames[:batch], weights)
            results.append({"mode": mode.value, "batch": batch, **compared})
    columns = ("mode", "batch", "rows", "tokens", "rows that differ", "tokens that differ",
               "largest margin there")  # fmt: skip
    rows_ = [
        [r["mode"], r["batch"], r["rows"], r["tokens"], r["rows_differing"],
         r["tokens_differing"], max(r["margins"], default=None)]
        for r in results
    ]  # fmt: skip
    return results, Table("decoder against the oracle, on the same frames", columns, rows_)


def _compared(
    found: Sequence[list[Said]],
    truth: Sequence[list[Said]],
    frames: Sequence[Array],
    weights: DecoderWeights,
) -> dict[str, Any]:
    """Rows and tokens that differ, and the oracle's margins where they begin to."""
    margins = []
    for ours, row, row_frames in zip(found, truth, frames, strict=True):
        index = first_difference(ours, row)
        if index is not None:
            margins.append(margin_at(weights, row_frames, row, index))
    return {
        "rows": len(truth),
        "tokens": sum(map(len, truth)),
        "rows_differing": len(margins),
        "tokens_differing": sum(num_differing(*pair) for pair in zip(found, truth, strict=True)),
        "margins": margins,
    }


# -- precisions, end to end --------------------------------------------------------------------


def _compare_precisions(
    rig: Rig,
    exact: Exact,
    frames: Sequence[Array],
    truth: Sequence[list[Said]],
    weights: DecoderWeights,
) -> tuple[dict[str, Any], Table]:
    """Tokens of half precision, which are the oracle's, against those of single precision."""
    count = len(exact.frames)
    free = _compared(truth[:count], exact.rows, exact.frames, rig.decoder_weights)
    forced = NO_FLIPS
    with _threads() as threads:
        for found in threads.map(
            lambda single, half: flips(rig.decoder_weights, single, weights, half),
            exact.frames,
            frames[:count],
        ):
            forced += found
    margins = summarize(forced.margins)
    row = [
        free["rows"], free["tokens"], free["rows_differing"], free["tokens_differing"],
        forced.num_decisions, forced.count,
        margins and margins.p50, margins and margins.max,
    ]  # fmt: skip
    columns = ("", "rows", "tokens", "rows that differ", "tokens that differ", "decisions",
               "flips", "p50 margin", "largest margin")  # fmt: skip
    fields = {
        "free_running": free,
        "decisions": forced.num_decisions,
        "flips": forced.count,
        "flip_margins": margins and margins.as_fields(6),
    }
    title = "half against single precision; flips along the oracle's path, margins in logits"
    return fields, Table(title, columns, [["half", *row]])


def run_tiny(ours: Recognizer, cpu: Recognizer, base: Samples, sizes: CorrectSizes) -> Section:
    """Finals of the golden checkpoint by both engines: equal, token for token."""
    differing = tokens = 0
    for index, seconds in enumerate(sizes.tiny_seconds):
        samples = speech(base, 3 * index, round(seconds * SAMPLE_RATE_HZ))
        expected, found = (_final(recognizer, samples) for recognizer in (cpu, ours))
        tokens += len(expected)
        differing += expected != found
    row = ["single, tiny checkpoint", len(sizes.tiny_seconds), tokens, differing]
    columns = ("", "utterances", "tokens", "utterances that differ")
    return Section(
        {"utterances": len(sizes.tiny_seconds), "tokens": tokens, "differing": differing},
        [Table("end to end against the CPU engine", columns, [row])],
    )


def _final(recognizer: Recognizer, samples: Samples) -> list[Said]:
    handle = recognizer.open(SessionOptions())
    (final,) = recognizer.step([StepInput(handle, samples, Want.FINAL)])
    recognizer.close(handle)
    assert final is not None
    return said(final.tokens)
