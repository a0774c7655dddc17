"""Rig: one model's GPU engine as bench/gpu.py drives it, below the recognizer and its settings.

Features, encoders and decoder of one precision, and a pass of some clips through them: audio in the
host's memory to tokens there, with an event between the stages. Knows no section of the benchmark.
Shapes: B clips, N frames of 80 ms, J width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu_service.decoding.tdt_weights import DecoderWeights
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.gpu.device import Device, DeviceArray, Event
from gpu_service.gpu.encoder import GpuEncoder, Utterance
from gpu_service.gpu.encoder_layers import Bucket, LayerStack
from gpu_service.gpu.encoder_subsampling import Subsampling
from gpu_service.gpu.encoder_weights import VECTOR, Precision, load_encoder
from gpu_service.gpu.features import FeatureStore
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.increments import IncrementEncoder
from gpu_service.gpu.slot_audio import NewAudio
from gpu_service.gpu.tdt import DecodeRow, GpuTdtDecoder
from gpu_service.gpu.tdt_results import Decoded, Ticket
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.parakeet_rules import LEFT_FRAMES, LOOK_AHEAD_FRAMES, MAX_PIECE_FRAMES
from gpu_service.weights.parakeet_weights import ParakeetWeights
from gpu_service.words import SAMPLE_RATE_HZ

from .gpu_audio import Clip
from .gpu_probe import Probe, probed

STAGES = ("features", "encoder", "decoder")
MOST_TOGETHER = 2  # batches that one launch of the decoder takes


@dataclass(frozen=True, slots=True)
class RigSizes:
    """How much there is room for."""

    max_samples: int = 30 * SAMPLE_RATE_HZ  # of a clip
    max_batch: int = 256  # clips of a run
    max_rows: int = 128 * 200  # frames of a run
    num_sessions: int = 2  # with the encoder's caches

    @property
    def max_frames(self) -> int:
        """Of the longest bucket."""
        return bucket_frames(self.max_samples)

    @property
    def most_positions(self) -> int:
        """The longest sequence that attention sees."""
        increment = MAX_PIECE_FRAMES + LOOK_AHEAD_FRAMES + 1
        return max(self.max_frames, LEFT_FRAMES + increment)


def bucket_frames(num_samples: int) -> int:
    """N of the smallest bucket that takes so much audio."""
    return -(-num_samples // FRAME_SAMPLES // VECTOR) * VECTOR


@dataclass(frozen=True, slots=True)
class Rig:
    """The engine's parts."""

    device: Device
    probe: Probe
    precision: Precision
    weights: ParakeetWeights
    sizes: RigSizes
    store: FeatureStore
    layers: LayerStack
    encoder: GpuEncoder
    increments: IncrementEncoder
    decoder: GpuTdtDecoder
    joined: DeviceArray  # (2 rows, J) frames of batches that are decoded together

    @property
    def decoder_weights(self) -> DecoderWeights:
        """As in the checkpoint, not rounded."""
        return self.weights.decoder


def make_rig(
    device: Device,
    gemms: Gemms,
    weights: ParakeetWeights,
    precision: Precision,
    sizes: RigSizes,
) -> Rig:
    """Upload, allocate, compile. Raises DeviceError, ValueError."""
    device, gemms, probe = probed(device, gemms)
    loaded = load_encoder(device, weights, precision)
    # Twice the slots of a run: see begin_ahead().
    store = FeatureStore(device, 2 * sizes.max_batch, sizes.max_samples, sizes.max_batch)
    layers = LayerStack(device, gemms, loaded, sizes.max_rows)
    subsampling = Subsampling(device, gemms, loaded, store, sizes.max_rows, sizes.max_frames)
    encoder = GpuEncoder(device, gemms, layers, subsampling, sizes.max_batch, sizes.max_frames)
    increments = IncrementEncoder(
        device, layers, subsampling, sizes.num_sessions, LEFT_FRAMES, sizes.num_sessions
    )
    decoder = GpuTdtDecoder(
        device,
        weights.decoder,
        precision,
        num_states=sizes.num_sessions,
        max_batch=sizes.max_batch,
        # Two passes under way, and the widest batch of the decoder alone.
        max_outstanding_frames=2 * MOST_TOGETHER * sizes.max_rows
        + sizes.max_batch * sizes.max_frames,
    )
    joined = device.empty((MOST_TOGETHER * sizes.max_rows, weights.decoder.width), np.float32)
    return Rig(
        device,
        probe,
        precision,
        weights,
        sizes,
        store,
        layers,
        encoder,
        increments,
        decoder,
        joined,
    )


class Running(NamedTuple):
    """A pass that was enqueued."""

    ticket: Ticket
    # At the start and the end of the features, of the encoder, and behind the decoder.
    events: tuple[Event, Event, Event, Event, Event]
    num_frames: list[int]  # of each clip


class Answer(NamedTuple):
    """What came of a pass."""

    rows: list[Decoded]
    num_turns: int  # of the decoder's loop
    num_frames: list[int]
    stage_ms: tuple[float, float, float]  # on the device, as STAGES

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def device_ms(self) -> float:
        """Of all stages."""
        return sum(self.stage_ms)


def hear(rig: Rig, clips: Sequence[Clip], first_slot: int = 0) -> list[Utterance]:
    """Enqueue the features of clips as the utterances of slots from `first_slot` on."""
    slots = range(first_slot, first_slot + len(clips))
    for slot in slots:
        rig.store.reset(slot)
    rig.store.append([NewAudio(slot, [clip]) for slot, clip in zip(slots, clips, strict=True)])
    return [Utterance(slot, rig.store.num_rows(slot)) for slot in slots]


def whole_rows(rig: Rig, num_frames: Sequence[int]) -> list[DecodeRow]:
    """To decode a batch of whole utterances."""
    start = rig.decoder.START
    return [
        DecodeRow(row, 0, count, start, rig.decoder.scratch(row))
        for row, count in enumerate(num_frames)
    ]


def begin(
    rig: Rig, bucket: Bucket, clips: Sequence[Clip], mode: GraphMode | None = None
) -> Running:
    """Enqueue a pass over at most B clips of at most N frames."""
    started = rig.device.record()
    utterances = hear(rig, clips)
    heard = rig.device.record()
    frames = rig.encoder.encode(bucket, utterances)
    num_frames = [utterance.num_frames for utterance in utterances]
    return _decode(rig, frames, num_frames, (started, heard, heard), mode)


def begin_ahead(rig: Rig, bucket: Bucket, batches: Sequence[Sequence[Clip]], turn: int) -> Running:
    """Enqueue a pass over at most MOST_TOGETHER batches, all but the last full: the encoder takes
    one behind the other, the decoder all at once, because a turn of its loop costs less than
    twice as much for twice as many rows.

    Features are made aside: most of their time is the bus, and what came before goes on
    meanwhile. Turns take the halves of the slots alternately: the pass before the last one must
    have been waited for.
    """
    device = rig.device
    slot = turn % 2 * rig.sizes.max_batch
    parts: list[list[Utterance]] = []
    with device.aside():
        events = [device.record()]
        for clips in batches:
            parts.append(hear(rig, clips, slot))
            slot += len(clips)
            events.append(device.record())
    device.follow(events[1])
    begun = device.record()
    for part, (utterances, heard) in enumerate(zip(parts, events[1:], strict=True)):
        device.follow(heard)
        frames = rig.encoder.encode(bucket, utterances)
        if len(parts) > 1:
            place = rig.joined.rows(part * bucket.rows, (part + 1) * bucket.rows)
            device.copy(place, frames.reshape(*place.shape))
    if len(parts) > 1:
        frames = rig.joined.first(len(parts) * bucket.batch, *frames.shape[1:])
    num_frames = [utterance.num_frames for utterances in parts for utterance in utterances]
    return _decode(rig, frames, num_frames, (events[0], events[-1], begun), None)


def _decode(
    rig: Rig,
    frames: DeviceArray,
    num_frames: list[int],
    events: tuple[Event, Event, Event],
    mode: GraphMode | None,
) -> Running:
    encoded = rig.device.record()
    ticket = rig.decoder.enqueue(frames, whole_rows(rig, num_frames), mode)
    return Running(ticket, (*events, encoded, rig.device.record()), num_frames)


def finish(rig: Rig, running: Running) -> Answer:
    """Wait for a pass."""
    rig.device.wait(running.events[-1])
    said = rig.decoder.read(running.ticket)
    started, heard, begun, encoded, decoded = running.events
    ms = rig.device.elapsed_ms
    stage_ms = ms(started, heard), ms(begun, encoded), ms(encoded, decoded)
    return Answer(said.rows(), said.num_turns, running.num_frames, stage_ms)


def encode(rig: Rig, bucket: Bucket, clips: Sequence[Clip]) -> tuple[DeviceArray, list[int]]:
    """(B, N, J) frames of clips, until the next run, and how many of each row are real."""
    utterances = hear(rig, clips)
    return rig.encoder.encode(bucket, utterances), [u.num_frames for u in utterances]


def device_ms(device: Device, work: Callable[[], object], runs: int = 5) -> list[float]:
    """How long the device was at something, of `runs` runs, the first of them thrown away."""
    times = []
    for _ in range(runs + 1):
        device.synchronize()
        start = device.record()
        work()
        end = device.record()
        device.wait(end)
        times.append(device.elapsed_ms(start, end))
    return times[1:]
