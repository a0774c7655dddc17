"""Whisper's encoder and decoder on the device, laid out as kernels and products read them.

Made from a checkpoint tensor by tensor, so that no second copy of a large model is in the host's
memory. The keys and values that the decoder hears by are made at the encoder's end and belong here.
Matrices are in the storage type T of the precision; norms and positions are float32 always.

Knows layouts and dtypes, no kernel. Shapes: D width, F feed forward, M mel bands, N positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..weights.whisper_config import WhisperConfig
from .device import Device, DeviceArray
from .encoder_weights import STORAGE, VECTOR, Linear, Norm, Precision

Array = NDArray[np.float32]
Residual: TypeAlias = Literal["storage", "float32"]


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """x += out(attention(norm(x))); x += fc2(GELU(fc1(norm(x))))."""

    norm_attention: Norm
    qkv: Linear  # (3 D, D): the rows of q, of k (whose bias is zero), of v
    out: Linear  # (D, D), its bias of the residual's dtype
    norm_ffn: Norm
    fc1: Linear  # (F, D)
    fc2: Linear  # (D, F), its bias of the residual's dtype


@dataclass(frozen=True, slots=True)
class WhisperEncoderWeights:
    """All of it. `storage` is the dtype of T, `residual` that of the residual stream."""

    config: WhisperConfig
    precision: Precision
    residual: str
    conv1: Linear  # (D, 3 M): by tap and then by band
    conv2_even: DeviceArray  # (D, 2 D) T: the taps of a position's first two rows
    conv2_odd: Linear  # (D, D): the tap of its third; its bias float32
    positions: DeviceArray  # (N, D) float32
    layers: tuple[EncoderLayer, ...]
    norm: Norm
    cross: tuple[Linear, ...]  # (2 D, D) for each decoder layer: the rows of k, of v

    @property
    def storage(self) -> str:
        """dtype of T."""
        return STORAGE[self.precision]

    @property
    def defines(self) -> Mapping[str, str]:
        """The constants of kernels/whisper_encoder.cu, whisper_attention.cu and layers.cu."""
        return {
            "STORAGE_HALF": str(int(self.storage == "float16")),
            "RESIDUAL_HALF": str(int(self.residual == "float16")),
            "WIDTH": str(self.config.width),
            "NUM_HEADS": str(self.config.num_heads),
            "HEAD_WIDTH": str(self.config.head_width),
            "MEL_BANDS": str(self.config.num_mels),
            # layers.cu has a convolution beside its norms, which Whisper does not use.
            "CONV_KERNEL": "1",
            "CHANNELS": str(VECTOR),
        }


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """x += out(self(norm(x))); x += cross_out(cross(norm(x))); x += fc2(GELU(fc1(norm(x))))."""

    norm_self: Norm
    qkv: Linear  # (3 D, D)
    out: Linear  # (D, D), its bias of the residual's dtype, as those of cross_out and fc2
    norm_cross: Norm
    query: Linear  # (D, D); keys and values are the encoder's `cross`
    cross_out: Linear  # (D, D)
    norm_ffn: Norm
    fc1: Linear  # (F, D)
    fc2: Linear  # (D, F)


@dataclass(frozen=True, slots=True)
class WhisperDecoderWeights:
    """All of the decoder but what hears the audio."""

    tokens: DeviceArray  # (V, D) T: the embedding, and the head
    positions: DeviceArray  # (text positions, D) float32
    layers: tuple[DecoderLayer, ...]
    norm: Norm


def load_whisper_decoder(
    device: Device, checkpoint: WhisperCheckpoint, encoder: WhisperEncoderWeights
) -> WhisperDecoderWeights:
    """Upload the decoder, in the encoder's precision. Raises DeviceError."""
    loader = WeightLoader(device, checkpoint, encoder.storage, encoder.residual)
    tensor = checkpoint.tensor
    return WhisperDecoderWeights(
        tokens=loader.upload(tensor("decoder.embed_tokens.weight"), loader.storage),
        positions=loader.upload(tensor("decoder.embed_positions.weight"), "float32"),
        layers=tuple(
            _decoder_layer(loader, f"decoder.layers.{i}")
            for i in range(checkpoint.config.decoder_layers)
        ),
        norm=loader.norm("decoder.layer_norm"),
    )


def _decoder_layer(loader: WeightLoader, name: str) -> DecoderLayer:
    return DecoderLayer(
        norm_self=loader.norm(f"{name}.self_attn_layer_norm"),
        qkv=loader.attention_rows(f"{name}.self_attn", "qkv"),
        out=loader.linear(f"{name}.self_attn.out_proj", loader.residual),
        norm_cross=loader.norm(f"{name}.encoder_attn_layer_norm"),
        query=loader.linear(f"{name}.encoder_attn.q_proj", loader.storage),
        cross_out=loader.linear(f"{name}.encoder_attn.out_proj", loader.residual),
        norm_ffn=loader.norm(f"{name}.final_layer_norm"),
        fc1=loader.linear(f"{name}.fc1", loader.storage),
        fc2=loader.linear(f"{name}.fc2", loader.residual),
    )


def load_whisper_encoder(
    device: Device,
    checkpoint: WhisperCheckpoint,
    precision: Precision,
    residual: Residual = "float32",
) -> WhisperEncoderWeights:
    """Upload the encoder. Raises ValueError for sizes that are no multiples of 8, DeviceError."""
    config = checkpoint.config
    for name, size in (("head width", config.head_width), ("feed forward", config.ffn_width)):
        if size % VECTOR:
            raise ValueError(f"the model's {name} is {size}, no multiple of {VECTOR}")
    storage = STORAGE[precision]
    loader = WeightLoader(
        device, checkpoint, storage, storage if residual == "storage" else residual
    )
    taps = checkpoint.tensor("encoder.conv2.weight").transpose(0, 2, 1)  # (D, 3, D)
    first = checkpoint.tensor("encoder.conv1.weight").transpose(0, 2, 1)
    return WhisperEncoderWeights(
        config=config,
        precision=precision,
        residual=loader.residual,
        conv1=loader.joined(first.reshape(len(first), -1), checkpoint.tensor("encoder.conv1.bias")),
        conv2_even=loader.upload(taps[:, :2].reshape(len(taps), -1), storage),
        conv2_odd=Linear(
            loader.upload(taps[:, 2], storage), loader.vector("encoder.conv2.bias", "float32")
        ),
        positions=loader.upload(checkpoint.tensor("encoder.embed_positions.weight"), "float32"),
        layers=tuple(_layer(loader, f"encoder.layers.{i}") for i in range(config.encoder_layers)),
        norm=loader.norm("encoder.layer_norm"),
        cross=tuple(
            loader.attention_rows(f"decoder.layers.{i}.encoder_attn", "kv")
            for i in range(config.decoder_layers)
        ),
    )


def _layer(loader: WeightLoader, name: str) -> EncoderLayer:
    return EncoderLayer(
        norm_attention=loader.norm(f"{name}.self_attn_layer_norm"),
        qkv=loader.attention_rows(f"{name}.self_attn", "qkv"),
        out=loader.linear(f"{name}.self_attn.out_proj", loader.residual),
        norm_ffn=loader.norm(f"{name}.final_layer_norm"),
        fc1=loader.linear(f"{name}.fc1", loader.storage),
        fc2=loader.linear(f"{name}.fc2", loader.residual),
    )


@dataclass(frozen=True, slots=True)
class WeightLoader:
    """Puts tensors of a checkpoint on the device, one at a time."""

    device: Device
    checkpoint: WhisperCheckpoint
    storage: str
    residual: str

    def upload(self, array: Array, dtype: str) -> DeviceArray:
        """As `dtype`, in C order."""
        return self.device.upload(np.ascontiguousarray(array.astype(dtype, copy=False)))

    def vector(self, name: str, dtype: str) -> DeviceArray:
        """A bias."""
        return self.upload(self.checkpoint.tensor(name), dtype)

    def norm(self, name: str) -> Norm:
        """In float32."""
        return Norm(
            self.vector(f"{name}.weight", "float32"), self.vector(f"{name}.bias", "float32")
        )

    def linear(self, name: str, bias_dtype: str) -> Linear:
        """As it is."""
        weight = self.upload(self.checkpoint.tensor(f"{name}.weight"), self.storage)
        return Linear(weight, self.vector(f"{name}.bias", bias_dtype))

    def joined(self, weight: Array, bias: Array) -> Linear:
        """Made of several, its bias of the storage type."""
        return Linear(self.upload(weight, self.storage), self.upload(bias, self.storage))

    def attention_rows(self, name: str, parts: str) -> Linear:
        """Some of q, k and v one below the other; keys have no bias."""
        tensor = self.checkpoint.tensor
        weights = [tensor(f"{name}.{part}_proj.weight") for part in parts]
        biases = [
            np.zeros(len(weights[0]), np.float32)
            if part == "k"
            else tensor(f"{name}.{part}_proj.bias")
            for part in parts
        ]
        return self.joined(np.concatenate(weights), np.concatenate(biases))
