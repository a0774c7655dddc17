"""The parts of tensorrt_probe.py: weights, and its children: a reference, a plan, plans compared.

Each imports what its Python has: the reference onnxruntime, the others TensorRT and cuda-python.
What they find goes into JSON files of the folder that they were given.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINY = "tests/fixtures/parakeet/tiny"
MAX_FRAMES = 400
NUM_TIMED = 30
NUM_DISTINCT = 2  # utterances of a batch; the others repeat them
GROUPS = ("tiny", "wide", "full", "bulk")  # what a job's name begins with
NODE = "Timing Runner: {ForeignNode"  # how TensorRT's log tells that it is a part further
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """One plan."""

    name: str
    model: str  # tiny, wide or full
    precision: str
    buckets: tuple[tuple[int, int], ...]
    level: int = 0


def jobs(only: Sequence[str] = GROUPS, level: int = 0) -> list[Job]:
    """Everything that is built. Inputs of 0.2, 1, 5 and 15 s are 3, 13, 63 and 188 frames."""
    several = ((1, 8), (4, 8), (4, 40))
    every = [
        Job("tiny-fp32", "tiny", "fp32", several),
        Job("tiny-fp16", "tiny", "fp16", several),
        Job("wide-fp16", "wide", "fp16", ((1, 3), (1, 63), (1, 188), (16, 200))),
        Job("full-fp16-3-188", "full", "fp16", ((1, 3), (1, 188)), level),
        Job("full-fp16-13-63", "full", "fp16", ((1, 13), (1, 63)), level),
        Job("bulk-fp16", "full", "fp16", ((64, 200),), level),
    ]
    return [job for job in every if job.name.partition("-")[0] in only]


# -- models and utterances -------------------------------------------------------------------------


def save_weights(work: Path, model: str) -> None:
    """The encoder's prepared weights, into a file that every process maps."""
    from safetensors.numpy import save_file

    from gpu_service.weights.parakeet_checkpoint import load_checkpoint
    from gpu_service.weights.parakeet_weights import prepare
    from tests.gpu_service.cpu.parakeet_random import random_checkpoint

    checkpoint = load_checkpoint(TINY) if model == "tiny" else random_checkpoint(config_of(model))
    encoder = prepare(checkpoint, MAX_FRAMES).encoder
    arrays = {name: np.ascontiguousarray(array) for name, array in encoder.items()}
    save_file(arrays, work / f"{model}.safetensors")


def load_weights(work: Path, model: str) -> Any:
    """ParakeetWeights without a decoder."""
    from gpu_service.weights.parakeet_weights import ParakeetWeights
    from gpu_service.weights.safetensors_file import read_safetensors

    tensors = read_safetensors(work / f"{model}.safetensors")
    encoder = {name: tensor.to_float32() for name, tensor in tensors.items()}
    decoder: Any = None
    return ParakeetWeights(config_of(model), MAX_FRAMES, encoder, decoder, None)


def config_of(model: str) -> Any:
    """ParakeetConfig."""
    from gpu_service.weights.parakeet_checkpoint import load_checkpoint
    from tests.gpu_service.cpu.parakeet_random import FULL

    if model == "tiny":
        return load_checkpoint(TINY).config
    return replace(FULL, num_layers=2) if model == "wide" else FULL


def rows_of(job: Job) -> list[int]:
    """Mel rows of the utterances that a plan's buckets are checked with."""
    return [rows for _, frames in job.buckets for rows in rows_for(frames)]


def rows_for(frames: int) -> list[int]:
    """Mel rows of the utterances for a bucket of so many frames."""
    return [8 * frames - 3, 5 * frames][:NUM_DISTINCT]


def features_of(num_rows: int) -> Array:
    """(T, F), the same in every process."""
    from tests.gpu_service.cpu.parakeet_random import random_features

    return random_features(num_rows, seed=num_rows)


# -- the children ----------------------------------------------------------------------------------


def reference(work: Path, wanted: dict[str, list[int]]) -> None:
    """Under python3: the CPU engine's answers."""
    from gpu_service.cpu.parakeet_encoder import ParakeetEncoder

    for model, lengths in wanted.items():
        encoder = ParakeetEncoder(load_weights(work, model), os.cpu_count() or 1)
        answers = {str(rows): encoder.encode_exact(features_of(rows)) for rows in lengths}
        np.savez(work / f"{model}.partial.npz", **answers)
        (work / f"{model}.partial.npz").rename(work / f"{model}.npz")


class Notes(logging.Handler):
    """What TensorRT says about capturing, which it only does at length, and how far a build is."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: set[str] = set()
        self.num_nodes = 0
        self._begun = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the few lines."""
        text = record.getMessage()
        if NODE in text:  # of a late build the last of these is what is known
            self.num_nodes += 1
            print(f"{time.monotonic() - self._begun:.1f} s: part {self.num_nodes}", flush=True)
        if "capturable" in text or record.levelno >= logging.WARNING:
            self.lines.add(text[:200])


def listen() -> Notes:
    """Attach to TensorRT's log."""
    notes = Notes()
    logger = logging.getLogger("earwire.tensorrt")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(notes)
    logger.propagate = False
    return notes


def build(work: Path, job: Job) -> None:
    """One plan, into work/NAME.plan and NAME.json."""
    import tensorrt as trt

    from gpu_service.builder.network_weights import network_weights
    from gpu_service.builder.tensorrt_plan import build_plan
    from gpu_service.gpu.encoder_layers import Bucket

    notes = listen()
    precision: Any = job.precision
    weights = load_weights(work, job.model)
    buckets = [Bucket(*bucket) for bucket in job.buckets]
    begun = time.monotonic()
    result: dict[str, Any] = {"name": job.name}
    try:
        arrays = network_weights(weights, precision)
        built = build_plan(trt, weights.config, arrays, buckets, precision, job.level)
        (work / f"{job.name}.plan").write_bytes(built.data)
        result["plan_mb"] = round(len(built.data) / 1e6, 1)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:600]
    result |= {
        "build_s": round(time.monotonic() - begun, 1),
        "parts": notes.num_nodes,
        "notes": sorted(notes.lines)[:8],
    }
    write_json(work / f"{job.name}.json", result)


class Slots:
    """Features in a store's layout, normalised already."""

    def __init__(self, device: Any, utterances: Sequence[Array]) -> None:
        count, longest = len(utterances), max(map(len, utterances))
        mel = np.zeros((count, longest, 128), np.float32)
        for slot, features in enumerate(utterances):
            mel[slot, : len(features)] = features
        self.mel = device.upload(mel)
        self.mean = device.zeros((count, 128), np.float32)
        self.scale = device.upload(np.ones((count, 128), np.float32))


def run(work: Path, model: str, chosen: Sequence[Job]) -> None:
    """Load the plans of one model, compare and time; one engine that fails spoils no other."""
    from gpu_service.gpu.cuda import CudaDevice

    notes = listen()
    device = CudaDevice()
    path = work / f"{model}.npz"
    expected = np.load(path) if path.is_file() else {}
    lengths = sorted({rows for job in chosen for rows in rows_of(job)})
    slots = Slots(device, [features_of(rows) for rows in lengths])
    results = []
    for job in chosen:
        results += run_plan(device, work, job, config_of(model), slots, lengths, expected)
    write_json(
        work / f"run-{model}.json",
        {
            "device": device.name, "driver": device.driver_version,
            "reference": "compared" if path.is_file() else "no reference", "results": results,
            "allocated_mb": round(device.num_allocated_bytes / 1e6),
            "notes": sorted(notes.lines)[:12],
        },
    )  # fmt: skip


def run_plan(
    device: Any, work: Path, job: Job, config: Any, slots: Slots, lengths: list[int], expected: Any
) -> list[dict[str, Any]]:
    """Every bucket of a plan."""
    import tensorrt as trt

    from gpu_service.gpu.encoder_layers import Bucket
    from gpu_service.gpu.trt import TensorRtEncoder

    try:
        encoder = TensorRtEncoder(
            trt, device, (work / f"{job.name}.plan").read_bytes(),
            [Bucket(*bucket) for bucket in job.buckets], slots,
            max_frames=MAX_FRAMES, output_width=config.decoder_width,
        )  # fmt: skip
    except Exception as error:
        return [{"name": job.name, "error": f"{type(error).__name__}: {error}"[:600]}]
    return [
        {"name": job.name, **run_bucket(device, encoder, bucket, lengths, expected)}
        for bucket in encoder.buckets
    ]


def run_bucket(
    device: Any, encoder: Any, bucket: Any, lengths: list[int], expected: Any
) -> dict[str, Any]:
    """How one bucket did."""
    from gpu_service.gpu.encoder import Utterance

    own = [lengths.index(rows) for rows in rows_for(bucket.frames)]
    batch = [Utterance(own[i % len(own)], lengths[own[i % len(own)]]) for i in range(bucket.batch)]
    result: dict[str, Any] = {"bucket": [bucket.batch, bucket.frames]}
    try:
        found = device.download(encoder.encode(bucket, batch))
        result["captured"] = encoder.is_captured(bucket)
        result["ms"] = timed(device, encoder, bucket, batch)
        again = device.download(encoder.encode(bucket, batch))
        result["repeats"] = bool(np.array_equal(found, again))
        result |= errors(found, batch, expected)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:600]
    return result


def errors(found: Array, batch: Sequence[Any], expected: Any) -> dict[str, Any]:
    """The worst row's relative error and cosine."""
    worst = {"relative_error": 0.0, "cosine": 1.0}
    for row, utterance in enumerate(batch):
        if str(utterance.num_rows) not in expected:
            return {}
        truth = expected[str(utterance.num_rows)]
        ours = found[row, : len(truth)]
        norms = float(np.linalg.norm(truth)), float(np.linalg.norm(ours))
        relative = float(np.linalg.norm(ours - truth)) / norms[0]
        cosine = float((ours * truth).sum()) / (norms[0] * norms[1] or 1.0)
        worst["relative_error"] = max(worst["relative_error"], relative)
        worst["cosine"] = min(worst["cosine"], cosine)
    return worst


def timed(device: Any, encoder: Any, bucket: Any, batch: Sequence[Any]) -> float:
    """Median milliseconds on the device, the gathering of features included."""
    times = []
    for _ in range(NUM_TIMED):
        start = device.record()
        encoder.encode(bucket, batch)
        end = device.record()
        device.wait(end)
        times.append(device.elapsed_ms(start, end))
    return round(statistics.median(times), 3)


def write_json(path: Path, values: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values))
    partial.rename(path)
