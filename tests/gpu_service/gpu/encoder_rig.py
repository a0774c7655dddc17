"""The GPU encoder on small random models, with mel rows put where the feature store keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_service.gpu.device import Device, DeviceArray
from gpu_service.gpu.encoder import GpuEncoder
from gpu_service.gpu.encoder_layers import LayerStack
from gpu_service.gpu.encoder_subsampling import Subsampling
from gpu_service.gpu.encoder_weights import Precision, load_encoder
from gpu_service.gpu.gemm import Gemms
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint

Array = NDArray[np.float32]

MAX_FRAMES = 32
MAX_ROWS = 96
# Rows of the GPU are whole vectors of 8: the least there is, and what is no multiple of a warp's.
NARROW = replace(SMALL, subsampling_channels=8, decoder_width=16)
EVEN = replace(NARROW, width=64, num_heads=2)  # in half, attention is one kernel
WIDE = replace(
    SMALL, width=272, num_heads=2, num_layers=1, ffn_width=48, conv_kernel=9,
    subsampling_channels=264, decoder_width=8,
)  # fmt: skip
TOLERANCE = 1e-4  # in fp32; outputs are of order 1
HALF_TOLERANCE = 1e-2  # in fp16, of the norm of the output


@dataclass(frozen=True, slots=True)
class Store:
    """See MelStore. Slot 0 stays empty, so that nobody's descriptor reads nobody's rows."""

    mel: DeviceArray
    mean: DeviceArray
    scale: DeviceArray

    @classmethod
    def of(cls, device: Device, utterances: Sequence[Array], seed: int = 0) -> Store:
        """Slot i + 1 gives utterance i (T, 128) when it is read; what is behind its rows is NaN."""
        random = np.random.default_rng(seed)
        num_slots, num_bands = len(utterances) + 1, 128
        num_rows = max(len(features) for features in utterances)
        mean = random.standard_normal((num_slots, num_bands), np.float32)
        scale = random.uniform(0.5, 2.0, (num_slots, num_bands)).astype(np.float32)
        mel = np.full((num_slots, num_rows, num_bands), np.nan, np.float32)
        for slot, features in enumerate(utterances, 1):
            mel[slot, : len(features)] = features * scale[slot] + mean[slot]
        return cls(*(device.upload(array) for array in (mel, mean, scale)))


def prepared(config: object = NARROW, max_frames: int = MAX_FRAMES) -> ParakeetWeights:
    """Random weights of some sizes."""
    return prepare(random_checkpoint(config), max_frames)  # type: ignore[arg-type]


def make_encoder(
    device: Device,
    gemms: Gemms,
    weights: ParakeetWeights,
    store: Store,
    precision: Precision = "fp32",
) -> GpuEncoder:
    """An encoder for buckets of up to MAX_ROWS rows and MAX_FRAMES frames."""
    loaded = load_encoder(device, weights, precision)
    layers = LayerStack(device, gemms, loaded, MAX_ROWS)
    subsampling = Subsampling(device, gemms, loaded, store, MAX_ROWS, MAX_FRAMES)
    return GpuEncoder(device, gemms, layers, subsampling, max_batch=12, max_frames=MAX_FRAMES)


def relative_error(answer: Array, expected: Array) -> float:
    """Of the norms."""
    return float(np.linalg.norm(answer - expected) / np.linalg.norm(expected))
