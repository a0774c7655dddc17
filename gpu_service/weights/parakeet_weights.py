"""ParakeetWeights: what encoder and decoder compute with, made once from a checkpoint.

`prepare()` folds what does not change at run time: the half step of the feed-forward residuals, the
batch norm behind the depthwise convolution, the projection of the position table, the two biases
of an LSTM; q, k and v become one matrix. What needs no folding stays a view of the file. Engines
take these names; no engine sees a checkpoint. Knows the arithmetic, and no file.

Shapes: D width, H heads, E = D / H, C subsampling channels, F8 = mels / 8, K kernel, J decoder
width, V tokens, R durations, P = 2 * max_frames - 1 relative positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decoding.tdt_weights import DecoderWeights, LstmLayer
from .parakeet_checkpoint import ParakeetCheckpoint
from .parakeet_config import ParakeetConfig

BATCH_NORM_EPSILON = 1e-5
POSITION_BASE = 10_000.0
HALF_STEP = np.float32(0.5)  # a power of two: folding it rounds nothing

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ParakeetWeights:
    """All of one model, in float32. The encoder's names, N being the number of a layer:

    subsampling.{0,2,3,5,6}.weight, .bias     (out, in / groups, k, k), (C,)
    subsampling.linear.weight, .bias          (D, C * F8), (D,)
    layers.N.norm_{feed_forward1,self_att,conv,feed_forward2,out}.weight, .bias     (D,)
    layers.N.feed_forward{1,2}.linear1.weight (FFN, D)
    layers.N.feed_forward{1,2}.linear2.weight (D, FFN), half of the checkpoint's
    layers.N.self_attn.qkv.weight             (3 D, D): the rows of q, of k, of v
    layers.N.self_attn.bias_u, .bias_v        (H, E)
    layers.N.self_attn.o_proj.weight          (D, D)
    layers.N.self_attn.positions              (P, D); row r is relative position max_frames - 1 - r
    layers.N.conv.pointwise1.weight           (2 D, D)
    layers.N.conv.depthwise.weight, .bias     (D, K), (D,), with the batch norm
    layers.N.conv.pointwise2.weight           (D, D)
    projector.weight, .bias                   (J, D), (J,)
    """

    config: ParakeetConfig
    max_frames: int  # the longest sequence that `positions` serves
    encoder: Mapping[str, Array]
    decoder: DecoderWeights
    vocabulary: tuple[str, ...] | None  # (V,) pieces by id

    @property
    def num_bytes(self) -> int:
        """Of the encoder, as mapped or in memory."""
        return sum(array.nbytes for array in self.encoder.values())


def prepare(checkpoint: ParakeetCheckpoint, max_frames: int) -> ParakeetWeights:
    """Everything that is made once; sequences of up to `max_frames` encoder frames will fit."""
    if max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}")
    config = checkpoint.config
    encoder = _subsampling(checkpoint)
    positions = position_table(max_frames, config.width)
    for layer in range(config.num_layers):
        encoder |= _layer(checkpoint, layer, positions)
    encoder["projector.weight"] = checkpoint.tensor("encoder_projector.weight")
    encoder["projector.bias"] = checkpoint.tensor("encoder_projector.bias")
    decoder = _decoder(checkpoint)
    return ParakeetWeights(config, max_frames, encoder, decoder, checkpoint.vocabulary)


def position_table(max_frames: int, width: int) -> Array:
    """(P, D): sine and cosine in turn, of relative positions max_frames - 1 ... -(max_frames - 1).

    In float64 until the end: a float32 angle of 400 radians is already wrong by 2e-5.
    """
    position = np.arange(max_frames - 1, -max_frames, -1, dtype=np.float64)
    frequency = POSITION_BASE ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    angle = position[:, None] * frequency
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, width).astype(np.float32)


def _subsampling(checkpoint: ParakeetCheckpoint) -> dict[str, Array]:
    arrays = {}
    for module in ("layers.0", "layers.2", "layers.3", "layers.5", "layers.6", "linear"):
        for kind in ("weight", "bias"):
            name = f"subsampling.{module.removeprefix('layers.')}.{kind}"
            arrays[name] = checkpoint.tensor(f"encoder.subsampling.{module}.{kind}")
    return arrays


def _layer(checkpoint: ParakeetCheckpoint, layer: int, positions: Array) -> dict[str, Array]:
    source, target = f"encoder.layers.{layer}.", f"layers.{layer}."

    def tensor(name: str) -> Array:
        return checkpoint.tensor(source + name)

    arrays: dict[str, Array] = {}
    for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
        arrays[f"norm_{norm}.weight"] = tensor(f"norm_{norm}.weight")
        arrays[f"norm_{norm}.bias"] = tensor(f"norm_{norm}.bias")
    for name in ("feed_forward1", "feed_forward2"):
        arrays[f"{name}.linear1.weight"] = tensor(f"{name}.linear1.weight")
        arrays[f"{name}.linear2.weight"] = HALF_STEP * tensor(f"{name}.linear2.weight")
    qkv = [tensor(f"self_attn.{name}_proj.weight") for name in "qkv"]
    arrays["self_attn.qkv.weight"] = np.concatenate(qkv)
    for name in ("bias_u", "bias_v", "o_proj.weight"):
        arrays[f"self_attn.{name}"] = tensor(f"self_attn.{name}")
    arrays["self_attn.positions"] = positions @ tensor("self_attn.relative_k_proj.weight").T
    for number in (1, 2):
        kernel = tensor(f"conv.pointwise_conv{number}.weight")
        arrays[f"conv.pointwise{number}.weight"] = kernel[:, :, 0]
    weight, bias = _folded_depthwise(checkpoint, source)
    arrays["conv.depthwise.weight"], arrays["conv.depthwise.bias"] = weight, bias
    return {target + name: array for name, array in arrays.items()}


def _folded_depthwise(checkpoint: ParakeetCheckpoint, source: str) -> tuple[Array, Array]:
    """(D, K) and (D,): the convolution with the batch norm behind it."""
    norm = {
        name: checkpoint.tensor(f"{source}conv.norm.{name}").astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    kernel = checkpoint.tensor(f"{source}conv.depthwise_conv.weight")[:, 0, :]
    scale = norm["weight"] / np.sqrt(norm["running_var"] + BATCH_NORM_EPSILON)
    weight = (kernel * scale[:, None]).astype(np.float32)
    bias = (norm["bias"] - norm["running_mean"] * scale).astype(np.float32)
    return weight, bias


def _decoder(checkpoint: ParakeetCheckpoint) -> DecoderWeights:
    config, tensor = checkpoint.config, checkpoint.tensor
    layers = tuple(
        LstmLayer(
            w_input=tensor(f"decoder.lstm.weight_ih_l{layer}"),
            w_hidden=tensor(f"decoder.lstm.weight_hh_l{layer}"),
            bias=tensor(f"decoder.lstm.bias_ih_l{layer}")
            + tensor(f"decoder.lstm.bias_hh_l{layer}"),
        )
        for layer in range(config.decoder_layers)
    )
    return DecoderWeights(
        embedding=tensor("decoder.embedding.weight"),
        lstm=layers,
        projector_weight=tensor("decoder.decoder_projector.weight"),
        projector_bias=tensor("decoder.decoder_projector.bias"),
        head_weight=tensor("joint.head.weight"),
        head_bias=tensor("joint.head.bias"),
        blank_id=config.blank_id,
        durations=config.durations,
        max_symbols=config.max_symbols,
    )
