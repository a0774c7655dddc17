"""The decoder on a device beside its oracle on the host, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.decoding.hotwords import HotwordTrie
from gpu_service.decoding.tdt import TdtDecoder, Token
from gpu_service.decoding.tdt_state import TdtState
from gpu_service.decoding.tdt_weights import DecoderWeights
from gpu_service.gpu.device import Device, DeviceArray
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.tdt import DecodeRow, GpuTdtDecoder
from gpu_service.gpu.tdt_results import Decoded
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.gpu.tdt_weights import rounded

from ..decoding.networks import random_frames, random_weights

WIDTH = 48  # three steps of 16, of which the four warps of a tile can not get one each
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")

Array = NDArray[np.float32]


def small_weights(seed: int, *, num_layers: int = 2, width: int = WIDTH) -> DecoderWeights:
    """41 labels and 5 durations: the last tile of the head has both, and rows that are neither."""
    return random_weights(seed, num_tokens=40, width=width, num_layers=num_layers)


def make_decoder(
    device: Device, weights: DecoderWeights, precision: Precision = "fp16", **options: Any
) -> GpuTdtDecoder:
    """States for a dozen utterances, 24 rows."""
    sizes = {"num_states": 12, "max_batch": 24, "max_outstanding_frames": 1000, **options}
    return GpuTdtDecoder(device, weights, precision, **sizes)


def make_oracle(weights: DecoderWeights, precision: Precision = "fp16") -> TdtDecoder:
    return TdtDecoder(rounded(weights, precision))


def upload_frames(device: Device, lengths: Sequence[int], seed: int) -> tuple[Array, DeviceArray]:
    """(B, N, J) of random frames, of which each row's own length is meant to be read."""
    longest = max(lengths, default=0)
    frames = np.stack([random_frames(seed + i, longest, WIDTH) for i in range(len(lengths))])
    return frames, device.upload(frames)


def run(
    device: Device,
    decoder: GpuTdtDecoder,
    frames: DeviceArray,
    rows: Sequence[DecodeRow],
    mode: GraphMode | None = None,
) -> list[Decoded]:
    ticket = decoder.enqueue(frames, rows, mode)
    device.synchronize()
    return decoder.results(ticket)


def said(decoded: Decoded) -> list[tuple[int, int, int]]:
    columns = (decoded.ids, decoded.frames, decoded.durations)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_said(decoded: Decoded, tokens: Sequence[Token]) -> None:
    """Tokens, frames and durations are equal, confidences nearly."""
    assert said(decoded) == [(t.id, t.frame, t.duration) for t in tokens]
    confidences = [token.confidence for token in tokens]
    np.testing.assert_allclose(decoded.confidences, confidences, atol=1e-4)


def assert_state(state: TdtState, expected: TdtState) -> None:
    for name in ("label", "overshoot", "hotword_node"):
        assert getattr(state, name) == getattr(expected, name)
    for name in ("hidden", "cell", "predicted"):
        np.testing.assert_allclose(getattr(state, name), getattr(expected, name), atol=1e-5)


def bits(decoded: Decoded) -> tuple[bytes, ...]:
    arrays = (decoded.ids, decoded.frames, decoded.durations, decoded.confidences)
    return tuple(array.tobytes() for array in arrays)


def tries(count: int) -> list[HotwordTrie]:
    """Phrases that overlap: inside each other, at each other's ends, with common beginnings."""
    phrases = [
        [(1, 2), (2, 3, 4), (2, 3), (5,)],
        [(7, 7, 7), (7, 8), (8, 7, 9), (9, 9)],
        [tuple(range(20, 40)), (21, 23), (23, 21, 22), *((n, n + 1) for n in range(19))],
    ]
    return [HotwordTrie(phrases[i % 3], 1.5 + i) for i in range(count)]
