"""Parts: everything of Parakeet-TDT that lies on the device, made once and shared by all sessions.

load_parts() uploads a model and allocates what the settings' buckets and slots need; nothing is
allocated after prepare_parts(). Knows what is put together, and no session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from ..weights.parakeet_weights import ParakeetWeights
from .device import Device, DeviceArray
from .encoder import GpuEncoder, Utterance
from .encoder_layers import Bucket, LayerStack
from .encoder_subsampling import MelStore, Subsampling
from .encoder_weights import load_encoder
from .features import FeatureStore
from .gemm import Gemms
from .increments import IncrementEncoder
from .memory_room import room_for
from .parakeet_settings import GpuParakeetSettings
from .tdt import GpuTdtDecoder
from .tdt_search import GraphMode

MAX_TICKETS = 256  # launches of the decoder in one step


class WholeEncoder(Protocol):
    """An encoder of whole utterances: encoder.GpuEncoder, trt.TensorRtEncoder."""

    def prepare(self, bucket: Bucket) -> None: ...

    def encode(self, bucket: Bucket, utterances: Sequence[Utterance]) -> DeviceArray: ...


EncoderOpener: TypeAlias = Callable[[MelStore], WholeEncoder]


@dataclass(frozen=True, slots=True)
class Parts:
    """See the module text. States of the decoder: two for each slot, one for each final."""

    device: Device
    store: FeatureStore
    encoder: WholeEncoder  # of finals
    window_encoder: WholeEncoder  # of window drafts
    increments: IncrementEncoder
    decoder: GpuTdtDecoder
    gathered: DeviceArray  # (finals of a step, N, J) float32: their frames, to be decoded together
    num_slots: int

    def own_state(self, slot: int) -> int:
        """The decoder's state behind the committed frames of a slot's drafts."""
        return slot

    def carried_state(self, slot: int) -> int:
        """The decoder's state at the cut where a slot's utterance begins."""
        return self.num_slots + slot

    def final_state(self, index: int) -> int:
        """The decoder's state behind a final of this step."""
        return 2 * self.num_slots + index


def load_parts(
    device: Device,
    gemms: Gemms,
    weights: ParakeetWeights,
    settings: GpuParakeetSettings,
    mode: GraphMode = GraphMode.PERSISTENT,
    open_encoder: EncoderOpener | None = None,
) -> Parts:
    """Upload, allocate, compile.

    Args:
        weights: prepared for `settings.most_frames` or more.
        open_encoder: makes the encoder of finals, where it is not GpuEncoder.

    Raises ModelError where memory is too little, DeviceError, ValueError.
    """
    num_slots, max_frames = settings.num_slots, settings.max_bucket_frames
    max_batch = max(settings.final_batch, settings.max_drafts)
    with room_for(f"{num_slots} sessions", "lower --max-sessions or --max-utterance-ms"):
        store = FeatureStore(device, num_slots, settings.max_samples, max_batch)
    with room_for(f"the model in {settings.precision}", "use --precision fp16"):
        encoder_weights = load_encoder(device, weights, settings.precision)
    largest = max(settings.buckets(), key=lambda bucket: bucket.rows)
    with room_for_bucket(largest, settings):
        layers = LayerStack(device, gemms, encoder_weights, largest.rows)
        subsampling = Subsampling(device, gemms, encoder_weights, store, largest.rows, max_frames)
        own = GpuEncoder(device, gemms, layers, subsampling, max_batch, max_frames)
        encoder = own if open_encoder is None else open_encoder(store)
    with room_for(f"the caches of {num_slots} sessions", "lower --max-sessions"):
        increments = IncrementEncoder(
            device, layers, subsampling, num_slots, settings.left_frames, settings.max_drafts
        )
        decoder = _load_decoder(device, weights, settings, mode)
        shape = (settings.max_finals, max_frames, weights.config.decoder_width)
        gathered = device.empty(shape, np.float32)
    return Parts(device, store, encoder, own, increments, decoder, gathered, num_slots)


def prepare_parts(parts: Parts, settings: GpuParakeetSettings) -> None:
    """Record every bucket's graph. Raises ModelError where memory is too little, DeviceError."""
    windows = parts.window_encoder if settings.draft == "window" else parts.increments
    pairs = [
        *((parts.encoder, bucket) for bucket in settings.final_buckets()),
        *((windows, bucket) for bucket in settings.draft_buckets()),
    ]
    for encoder, bucket in pairs:
        with room_for_bucket(bucket, settings):
            encoder.prepare(bucket)


def room_for_bucket(bucket: Bucket, settings: GpuParakeetSettings) -> AbstractContextManager[None]:
    """room_for() a bucket, and how to do without it."""
    what = f"the bucket of {bucket.batch} x {bucket.frames} frames"
    if bucket in settings.final_buckets() or bucket.batch == 1:
        return room_for(what, "lower --max-utterance-ms")
    return room_for(what, f"drafts go in smaller batches with --max-sessions {bucket.batch // 2}")


def _load_decoder(
    device: Device, weights: ParakeetWeights, settings: GpuParakeetSettings, mode: GraphMode
) -> GpuTdtDecoder:
    return GpuTdtDecoder(
        device,
        weights.decoder,
        settings.precision,
        num_states=2 * settings.num_slots + settings.max_finals,
        max_batch=max(settings.max_drafts, settings.max_finals),
        max_outstanding_frames=_outstanding_frames(settings),
        num_hotwords=settings.num_slots if settings.hotword_weight else 0,
        max_tickets=MAX_TICKETS,
        mode=mode,
    )


def _outstanding_frames(settings: GpuParakeetSettings) -> int:
    """The most that a step decodes, and once more its largest launch: the memory goes round."""
    longest = settings.max_bucket_frames
    finals = settings.max_finals * longest
    return settings.max_drafts * longest + finals + max(finals, settings.draft_rows)
