"""Attention of whole utterances, both ways, against its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_attention import (
    FusedAttention,
    ProductAttention,
    WholeAttention,
    is_fusable,
)
from gpu_service.gpu.encoder_layers import Bucket, LayerBuffers
from gpu_service.gpu.encoder_weights import EncoderWeights, Precision, load_encoder
from gpu_service.gpu.gemm import Gemms
from gpu_service.weights.parakeet_config import ParakeetConfig
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint

Array = NDArray[np.float64]

MAX_FRAMES = 152
LENGTHS = [152, 1, 64, 0, 65, 130]  # frames
BUCKET = Bucket(len(LENGTHS), 152)  # three blocks of queries, the last of them with a part only
TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3}  # values are of order 1
LAYER = 1


def of_heads(num_heads: int, head_width: int) -> ParakeetConfig:
    width = num_heads * head_width
    return replace(
        SMALL, width=width, num_heads=num_heads, num_layers=2, ffn_width=8,
        subsampling_channels=8, decoder_width=8,
    )  # fmt: skip


def formula(weights: ParakeetWeights, qkv: Array, length: int, num_heads: int) -> Array:
    """(N, 3 D) -> (length, D)."""
    name = f"layers.{LAYER}.self_attn"
    q, k, v = (
        part.reshape(len(qkv), num_heads, -1).transpose(1, 0, 2)[:, :length]
        for part in np.split(qkv, 3, axis=1)
    )
    table = weights.encoder[f"{name}.positions"].astype(np.float64)
    table = table.reshape(len(table), num_heads, -1).transpose(1, 0, 2)
    bias_u, bias_v = (weights.encoder[f"{name}.bias_{kind}"][:, None] for kind in "uv")
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    position = (q + bias_v) @ table.transpose(0, 2, 1)
    position = position[:, np.arange(length)[:, None], weights.max_frames - 1 - distance]
    scores = ((q + bias_u) @ k.transpose(0, 2, 1) + position) / np.sqrt(q.shape[2])
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return np.asarray((shares @ v).transpose(1, 0, 2).reshape(length, -1))


def attention_of(
    kind: str, device: Device, gemms: Gemms, weights: EncoderWeights, buffers: LayerBuffers
) -> WholeAttention:
    if kind == "fused":
        assert is_fusable(weights)
        return FusedAttention(device, weights)
    return ProductAttention(device, gemms, weights, buffers, MAX_FRAMES)


@pytest.mark.parametrize(
    ("kind", "precision", "config"),
    [
        ("products", "fp32", of_heads(2, 32)),
        ("products", "fp16", of_heads(2, 32)),
        ("products", "fp32", of_heads(7, 8)),  # fewer heads than utterances, and more below
        ("fused", "fp16", of_heads(2, 32)),
        ("fused", "fp16", of_heads(1, 64)),
        ("fused", "fp16", of_heads(1, 96)),
        ("fused", "fp16", of_heads(1, 128)),
    ],
)
def test_attention_equals_the_formula(
    device: Device, gemms: Gemms, kind: str, precision: Precision, config: ParakeetConfig
) -> None:
    weights = prepare(random_checkpoint(config), MAX_FRAMES + 3)
    loaded = load_encoder(device, weights, precision)
    buffers = LayerBuffers.make(device, loaded, BUCKET.rows)
    attention = attention_of(kind, device, gemms, loaded, buffers)
    random = np.random.default_rng(0)
    qkv = random.standard_normal((BUCKET.rows, 3 * config.width)).astype(loaded.storage)
    rows = np.array([(0, 16, 0, 16 + 8 * length) for length in LENGTHS], np.int32)
    heard = buffers.heard.first(BUCKET.rows, config.width)
    attention.attend(BUCKET, device.upload(rows), LAYER, device.upload(qkv), heard)
    answer = device.download(heard).reshape(BUCKET.batch, BUCKET.frames, -1)
    assert np.isfinite(answer.astype(np.float32)).all()
    for index, length in enumerate(LENGTHS):
        if length == 0:
            continue
        own = qkv.reshape(BUCKET.batch, BUCKET.frames, -1)[index].astype(np.float64)
        expected = formula(weights, own, length, config.num_heads)
        np.testing.assert_allclose(
            answer[index, :length].astype(np.float64), expected, atol=TOLERANCE[precision]
        )
