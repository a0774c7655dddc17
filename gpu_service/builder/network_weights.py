"""What the TensorRT network computes with: prepared weights in its arrangement and precision.

Every array that the network names, made from ParakeetWeights: matrices in the storage type, and in
float32 what the network computes in float32. The queries' matrix and biases carry the 1 / sqrt(E)
of the scores, q, k and v are three matrices again, and so are value and gate of the convolution:
the network then slices nothing whose size differs between buckets.

encoder_network.py makes constants of them. Shapes: D width, H heads, E = D / H, P table of relative
positions, K kernel, C channels, J output width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gpu.trt_compat import TrtPrecision
from ..weights.parakeet_weights import ParakeetWeights

Array = NDArray[np.float32]

CONVOLUTIONS = ("subsampling.0", "subsampling.2", "subsampling.3", "subsampling.5", "subsampling.6")
NORMS = ("feed_forward1", "self_att", "conv", "feed_forward2", "out")


@dataclass(frozen=True, slots=True)
class NetworkWeight:
    """One array. bfloat16 goes as the uint16 of its bits, for numpy has no such type."""

    values: NDArray[Any]
    precision: TrtPrecision

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `values`."""
        return self.values.shape


def network_weights(weights: ParakeetWeights, precision: TrtPrecision) -> dict[str, NetworkWeight]:
    """Every array by its name, N being the number of a layer, M 1 or 2, X one of NORMS.

    subsampling.{0,2,3,5,6}.weight, .bias                (out, in / groups, k, k), (C,)
    subsampling.linear.weight, projector.weight          (1, out, in);  .bias (1, 1, out)
    layers.N.norm_X.weight, .bias                        (1, 1, D) float32
    layers.N.feed_forwardM.linearM.weight                (1, out, in)
    layers.N.self_attn.{query,key,value,o_proj}.weight   (1, D, D)
    layers.N.self_attn.{bias_u,bias_v}                   (1, 1, D)
    layers.N.self_attn.positions                         (1, H, P, E)
    layers.N.conv.{value,gate,pointwise2}.weight         (1, D, D)
    layers.N.conv.depthwise.weight, .bias                (D, 1, K, 1), (D,)
    """
    arrays = {}
    for name, values in _named(weights):
        kept = precision if _is_stored(name) else "fp32"
        arrays[name] = NetworkWeight(stored(values, kept), kept)
    return arrays


def stored(values: Array, precision: TrtPrecision) -> NDArray[Any]:
    """The array in a precision, C-contiguous; bfloat16 rounded to nearest even."""
    if precision == "fp16":
        return np.ascontiguousarray(values, np.float16)
    if precision == "fp32":
        return np.ascontiguousarray(values, np.float32)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    return np.asarray(rounded >> 16, np.uint16)


def _is_stored(name: str) -> bool:
    """Whether it is in the storage type: all but the layer normalisations, which are float32."""
    return ".norm_" not in name


def _named(weights: ParakeetWeights) -> Iterator[tuple[str, Array]]:
    encoder = weights.encoder
    for name in CONVOLUTIONS:
        yield f"{name}.weight", encoder[f"{name}.weight"]
        yield f"{name}.bias", encoder[f"{name}.bias"]
    yield from _linear(encoder, "subsampling.linear")
    for layer in range(weights.config.num_layers):
        yield from _layer(encoder, f"layers.{layer}", weights.config.num_heads)
    yield from _linear(encoder, "projector")


def _linear(encoder: Mapping[str, Array], name: str) -> Iterator[tuple[str, Array]]:
    yield f"{name}.weight", encoder[f"{name}.weight"][None]
    yield f"{name}.bias", encoder[f"{name}.bias"][None, None]


def _layer(encoder: Mapping[str, Array], layer: str, num_heads: int) -> Iterator[tuple[str, Array]]:
    for norm in NORMS:
        for kind in ("weight", "bias"):
            name = f"{layer}.norm_{norm}.{kind}"
            yield name, encoder[name][None, None]
    for number in (1, 2):
        for linear in ("linear1", "linear2"):
            name = f"{layer}.feed_forward{number}.{linear}.weight"
            yield name, encoder[name][None]
    yield from _attention(encoder, f"{layer}.self_attn", num_heads)
    both = encoder[f"{layer}.conv.pointwise1.weight"]
    value, gate = np.split(both, 2)
    yield f"{layer}.conv.value.weight", value[None]
    yield f"{layer}.conv.gate.weight", gate[None]
    depthwise = f"{layer}.conv.depthwise"
    yield f"{depthwise}.weight", encoder[f"{depthwise}.weight"][:, None, :, None]
    yield f"{depthwise}.bias", encoder[f"{depthwise}.bias"]
    yield f"{layer}.conv.pointwise2.weight", encoder[f"{layer}.conv.pointwise2.weight"][None]


def _attention(
    encoder: Mapping[str, Array], name: str, num_heads: int
) -> Iterator[tuple[str, Array]]:
    query, key, value = np.split(encoder[f"{name}.qkv.weight"], 3)
    width = len(query)
    scale = np.float32((width // num_heads) ** -0.5)
    yield f"{name}.query.weight", (scale * query)[None]
    yield f"{name}.key.weight", key[None]
    yield f"{name}.value.weight", value[None]
    for bias in ("bias_u", "bias_v"):
        yield f"{name}.{bias}", scale * encoder[f"{name}.{bias}"].reshape(1, 1, width)
    positions = encoder[f"{name}.positions"]
    by_head = positions.reshape(len(positions), num_heads, -1).transpose(1, 0, 2)
    yield f"{name}.positions", by_head[None]
    yield f"{name}.o_proj.weight", encoder[f"{name}.o_proj.weight"][None]
