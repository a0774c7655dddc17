"""Section `profile`: where the encoder's time goes, and what its matrix products alone would take.

Every launch of one pass gets an event before and behind it. Some passes as graphs are enqueued
first, so that the device never waits for the host and what lies between two events is the kernel.
The floor is a graph of the pass's products, in their order and on their operands, with nothing
between them.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Samples, pinned_speech
from .gpu_probe import Span
from .gpu_rig import Rig, bucket_frames, device_ms, hear
from .gpu_section import Progress, Section, Table

# A kernel that is not here is its own class, so that none is forgotten.
CLASSES = {
    "product": "products",
    "attend": "attention", "add_position_biases": "attention", "softmax_scores": "attention",
    "normalise": "norms", "normalise_twice": "norms",
    "silu": "SiLU",
    "gate_depthwise": "convolution",
    "subsample_first": "subsampling", "subsample_second": "subsampling",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProfileSizes:
    """What is profiled."""

    batch: int = 128
    seconds: float = 16.0
    passes_before: int = 3  # enqueued before the one that is looked at
    runs: int = 5


@dataclass(slots=True)
class Sum:
    """Launches of one kind."""

    count: int = 0
    ms: float = 0.0
    flops: int = 0


def sums(spans: Sequence[Span], *, by_class: bool) -> dict[str, Sum]:
    """Spans by class, or by kernel and sizes, the longest first."""
    found: dict[str, Sum] = defaultdict(Sum)
    for span in spans:
        name = span.name
        if by_class:
            name = CLASSES.get(name, name)
        elif span.product is not None:
            p = span.product
            name = f"product {p.m} x {p.n} x {p.k}" + (
                f", batch of {p.batch}" if p.batch > 1 else ""
            )
        one = found[name]
        one.count += 1
        one.ms += span.ms
        one.flops += span.product.flops if span.product is not None else 0
    return dict(sorted(found.items(), key=lambda item: -item[1].ms))


def profile(rig: Rig, base: Samples, sizes: ProfileSizes) -> tuple[list[Span], float, float]:
    """Launches of one pass; ms of a pass as a graph; ms of its products alone."""
    length = round(sizes.seconds * SAMPLE_RATE_HZ)
    clips = pinned_speech(rig.device, base, [length] * sizes.batch)
    utterances = hear(rig, clips.clips)
    bucket = Bucket(sizes.batch, bucket_frames(length))
    graph_ms = device_ms(rig.device, lambda: rig.encoder.encode(bucket, utterances), sizes.runs)
    for _ in range(sizes.passes_before):
        rig.encoder.encode(bucket, utterances)
    rig.probe.start()
    rig.encoder._enqueue(bucket)  # measured from inside, on purpose: what the graph was made of
    spans = rig.probe.stop()
    with rig.device.capture() as capture:
        for run_product in rig.probe.products:
            run_product()
    floor_ms = device_ms(rig.device, capture.graph.launch, sizes.runs)
    rig.probe.products.clear()
    return spans, statistics.median(graph_ms), statistics.median(floor_ms)


def run(rig: Rig, base: Samples, sizes: ProfileSizes, progress: Progress) -> Section:
    """See the top of this file."""
    spans, graph_ms, floor_ms = profile(rig, base, sizes)
    progress.say(f"profile: {graph_ms:.2f} ms a pass, products alone {floor_ms:.2f} ms")
    by_class, by_kernel = sums(spans, by_class=True), sums(spans, by_class=False)
    total_ms = sum(one.ms for one in by_class.values())
    audio_s = sizes.batch * sizes.seconds
    fields = {
        "batch": sizes.batch,
        "seconds": sizes.seconds,
        "graph_ms": graph_ms,
        "launches_ms": total_ms,
        "products_alone_ms": floor_ms,
        "products_alone_audio_s_per_s": audio_s / floor_ms * 1e3,
        "audio_s_per_s": audio_s / graph_ms * 1e3,
        "classes": _fields(by_class, total_ms),
        "kernels": _fields(by_kernel, total_ms),
    }
    title = (
        f"encoder, {sizes.batch} x {sizes.seconds:g} s: {graph_ms:.2f} ms as a graph, "
        f"{total_ms:.2f} ms launch by launch, products alone {floor_ms:.2f} ms"
    )
    columns = ("", "launches", "ms", "share", "TFLOP/s")
    tables = [
        Table(title, columns, _rows(by_class, total_ms)),
        Table("by kernel and sizes (m x n x k)", columns, _rows(by_kernel, total_ms)),
    ]
    return Section(fields, tables)


def _fields(found: dict[str, Sum], total_ms: float) -> dict[str, Any]:
    return {
        name: {"launches": one.count, "ms": one.ms, "share": one.ms / total_ms}
        for name, one in found.items()
    }


def _rows(found: dict[str, Sum], total_ms: float) -> list[list[object]]:
    return [
        [name, one.count, one.ms, one.ms / total_ms,
         round(one.flops / one.ms / 1e9) if one.flops and one.ms else None]
        for name, one in found.items()
    ]  # fmt: skip
