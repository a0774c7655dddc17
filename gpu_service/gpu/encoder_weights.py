"""EncoderWeights: Parakeet's encoder on the device, laid out as the kernels and products read it.

Made once from prepared weights (gpu_service/weights) and shared by the encoder of whole utterances
and the one of increments. Matrices are in the storage type T of the precision; what elementwise
kernels read (norms, biases of attention, 3 x 3 and depthwise convolutions) is float32 always.

Knows layouts and dtypes, no kernel. Shapes: D width, H heads, E = D / H, FFN, C channels of the
subsampling, K kernel, J width of the projected output, P = 2 * max_frames - 1 relative positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..weights.parakeet_config import NUM_MELS, SUBSAMPLING_FACTOR, ParakeetConfig
from ..weights.parakeet_weights import ParakeetWeights
from .device import Device, DeviceArray

Precision: TypeAlias = Literal["fp16", "fp32"]

VECTOR = 8  # elements that a thread reads at once: every row is a whole number of them
STORAGE = {"fp16": "float16", "fp32": "float32"}
NUM_BANDS = NUM_MELS // SUBSAMPLING_FACTOR  # behind the subsampling


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalisation."""

    weight: DeviceArray  # (D,) float32
    bias: DeviceArray  # (D,) float32


@dataclass(frozen=True, slots=True)
class FeedForward:
    """x += SiLU(norm(x) linear1^T) linear2^T; the half step is in linear2."""

    norm: Norm
    linear1: DeviceArray  # (FFN, D) T
    linear2: DeviceArray  # (D, FFN) T


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer."""

    feed_forward1: FeedForward
    feed_forward2: FeedForward
    norm_self_att: Norm
    norm_conv: Norm
    norm_out: Norm
    qkv: DeviceArray  # (3 D, D) T: the rows of q, of k, of v
    bias_u: DeviceArray  # (D,) float32, head by head
    bias_v: DeviceArray  # (D,) float32
    positions: (
        DeviceArray  # (P + 1, D) T: row r is relative position max_frames - 1 - r; a zero row
    )
    o_proj: DeviceArray  # (D, D) T
    pointwise1: DeviceArray  # (2 D, D) T
    depthwise_weight: DeviceArray  # (K, D) float32: one tap a row
    depthwise_bias: DeviceArray  # (D,) float32
    pointwise2: DeviceArray  # (D, D) T


@dataclass(frozen=True, slots=True)
class Convolution2d:
    """3 x 3 in each channel alone."""

    weight: DeviceArray  # (9, C) float32: one tap a row
    bias: DeviceArray  # (C,) float32


@dataclass(frozen=True, slots=True)
class Linear:
    """x W^T + b."""

    weight: DeviceArray  # (out, in) T
    bias: DeviceArray  # (out,) of the result's dtype


@dataclass(frozen=True, slots=True)
class SubsamplingWeights:
    """Three convolutions, two mixes of channels, one linear layer."""

    first: Convolution2d
    second: Convolution2d
    mix2: Linear  # (C, C)
    third: Convolution2d
    mix3: Linear  # (C, C)
    linear: Linear  # (D, 16 C), its columns by band and then by channel


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """All of it. `storage` is the dtype of T."""

    config: ParakeetConfig
    max_frames: int  # the longest sequence that `positions` serves
    precision: Precision
    subsampling: SubsamplingWeights
    layers: tuple[Layer, ...]
    projector: Linear  # (J, D), its bias float32

    @property
    def storage(self) -> str:
        """dtype of T."""
        return STORAGE[self.precision]

    @property
    def defines(self) -> Mapping[str, str]:
        """The constants that the encoder's kernels are compiled with (kernels/encoder.cuh)."""
        config = self.config
        return {
            "STORAGE_HALF": str(int(self.storage == "float16")),
            "WIDTH": str(config.width),
            "NUM_HEADS": str(config.num_heads),
            "HEAD_WIDTH": str(config.head_width),
            "CONV_KERNEL": str(config.conv_kernel),
            "CHANNELS": str(config.subsampling_channels),
        }


def load_encoder(device: Device, weights: ParakeetWeights, precision: Precision) -> EncoderWeights:
    """Upload the encoder. Raises ValueError for sizes that are no multiples of 8, DeviceError."""
    config = weights.config
    _check_sizes(config)
    storage = STORAGE[precision]
    loader = _Loader(device, weights.encoder, storage)
    return EncoderWeights(
        config=config,
        max_frames=weights.max_frames,
        precision=precision,
        subsampling=loader.subsampling(config.subsampling_channels),
        layers=tuple(loader.layer(f"layers.{i}") for i in range(config.num_layers)),
        projector=loader.linear("projector", "float32"),
    )


def _check_sizes(config: ParakeetConfig) -> None:
    sizes = {
        "width": config.width,
        "head width": config.head_width,
        "feed forward width": config.ffn_width,
        "subsampling channels": config.subsampling_channels,
        "decoder width": config.decoder_width,
    }
    for name, size in sizes.items():
        if size % VECTOR:
            raise ValueError(f"the encoder's {name} is {size}, no multiple of {VECTOR}")


@dataclass(frozen=True, slots=True)
class _Loader:
    """Puts named arrays on the device."""

    device: Device
    arrays: Mapping[str, NDArray[np.float32]]
    storage: str

    def upload(self, array: NDArray[np.float32], dtype: str) -> DeviceArray:
        return self.device.upload(np.ascontiguousarray(array.astype(dtype, copy=False)))

    def matrix(self, name: str) -> DeviceArray:
        """As it is, in T."""
        return self.upload(self.arrays[f"{name}.weight"], self.storage)

    def vector(self, name: str) -> DeviceArray:
        """Flat, float32."""
        return self.upload(self.arrays[name].reshape(-1), "float32")

    def norm(self, name: str) -> Norm:
        return Norm(self.vector(f"{name}.weight"), self.vector(f"{name}.bias"))

    def linear(self, name: str, bias_dtype: str) -> Linear:
        """As it is; a pointwise convolution is one too."""
        weight = self.arrays[f"{name}.weight"]
        weight = weight.reshape(len(weight), -1)
        bias = self.upload(self.arrays[f"{name}.bias"], bias_dtype)
        return Linear(self.upload(weight, self.storage), bias)

    def convolution(self, name: str) -> Convolution2d:
        """(C, 1, 3, 3) -> (9, C)."""
        weight = self.arrays[f"{name}.weight"].reshape(-1, 9).T
        return Convolution2d(self.upload(weight, "float32"), self.vector(f"{name}.bias"))

    def subsampling(self, channels: int) -> SubsamplingWeights:
        weight = self.arrays["subsampling.linear.weight"]
        by_band = weight.reshape(len(weight), channels, NUM_BANDS).transpose(0, 2, 1)
        bias = self.upload(self.arrays["subsampling.linear.bias"], self.storage)
        return SubsamplingWeights(
            first=self.convolution("subsampling.0"),
            second=self.convolution("subsampling.2"),
            mix2=self.linear("subsampling.3", self.storage),
            third=self.convolution("subsampling.5"),
            mix3=self.linear("subsampling.6", self.storage),
            linear=Linear(self.upload(by_band.reshape(len(weight), -1), self.storage), bias),
        )

    def feed_forward(self, layer: str, number: int) -> FeedForward:
        name = f"{layer}.feed_forward{number}"
        norm = self.norm(f"{layer}.norm_feed_forward{number}")
        return FeedForward(norm, self.matrix(f"{name}.linear1"), self.matrix(f"{name}.linear2"))

    def layer(self, name: str) -> Layer:
        positions = self.arrays[f"{name}.self_attn.positions"]
        return Layer(
            feed_forward1=self.feed_forward(name, 1),
            feed_forward2=self.feed_forward(name, 2),
            norm_self_att=self.norm(f"{name}.norm_self_att"),
            norm_conv=self.norm(f"{name}.norm_conv"),
            norm_out=self.norm(f"{name}.norm_out"),
            qkv=self.matrix(f"{name}.self_attn.qkv"),
            bias_u=self.vector(f"{name}.self_attn.bias_u"),
            bias_v=self.vector(f"{name}.self_attn.bias_v"),
            positions=self.upload(np.pad(positions, ((0, 1), (0, 0))), self.storage),
            o_proj=self.matrix(f"{name}.self_attn.o_proj"),
            pointwise1=self.matrix(f"{name}.conv.pointwise1"),
            depthwise_weight=self.upload(self.arrays[f"{name}.conv.depthwise.weight"].T, "float32"),
            depthwise_bias=self.vector(f"{name}.conv.depthwise.bias"),
            pointwise2=self.matrix(f"{name}.conv.pointwise2"),
        )
