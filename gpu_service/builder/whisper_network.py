"""Whisper's encoder as a TensorRT network, through the network API: no ONNX, no torch.

Whole windows in batches of any size; nothing else differs between profiles. From log-mel rows to
the residual stream behind the last layer, which is float32 as in our own encoder
(gpu/whisper_encoder.py): the final norm and the decoder's keys and values are computed there. GELU
is by erf, of single operations that every version has.

Shapes: B windows, R rows, M mel bands, N = R / 2 positions, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gpu.trt_compat import TrtPrecision
from ..gpu.trt_window import FEATURES, RESIDUAL
from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..weights.whisper_config import WhisperConfig
from .network_layers import NetworkLayers
from .network_weights import NetworkWeight, stored

Array = NDArray[np.float32]

ROOT_HALF = 0.7071067811865476
ANY_BATCH = -1
RANKS = (3, 4)  # of what GELU is taken of


@dataclass(slots=True)
class WhisperNetwork(NetworkLayers):
    """Puts the encoder into an empty network, of the weights of whisper_network_weights()."""

    config: WhisperConfig

    def build(self, positions: int) -> None:
        """All of it. Raises NetworkError."""
        shape = (ANY_BATCH, 2 * positions, self.config.num_mels)
        features = self.checked(self.network.add_input(FEATURES, self.trt.float32, shape), FEATURES)
        features.set_dimension_name(0, "batch")
        x = self.embedded(self.stored(features, "features.stored"))
        for layer in range(self.config.encoder_layers):
            name = f"layers.{layer}"
            x = self.attention(x, name)
            x = self.feed_forward(x, name)
        x.name = RESIDUAL
        self.network.mark_output(x)

    def embedded(self, features: Any) -> Any:
        """(B, R, M) -> (B, N, D) float32."""
        # TensorRT convolves images: time becomes the height of one that is one wide.
        image = self.shuffle(features, "image", before=(0, 2, 1), shape=(0, 0, 0, 1))
        image = self.gelu(self.convolve(image, "conv1", padding=(1, 0)), "conv1.gelu", 4)
        image = self.convolve(image, "conv2", stride=(2, 1), padding=(1, 0))
        image = self.gelu(image, "conv2.gelu", 4)
        rows = self.shuffle(image, "rows", before=(0, 2, 1, 3), shape=(0, 0, self.config.width))
        wide = self.cast(rows, "fp32", "rows.float32")
        return self.add(wide, self.weight("positions"), "embedded", "fp32")

    def gelu(self, x: Any, name: str, rank: int) -> Any:
        """x/2 + x/2 erf(x / sqrt 2)."""
        # A constant is a layer, and layers have names of their own: one of each for each GELU.
        root = self.constant(f"gelu.{rank}.root", f"{name}.root")
        half = self.constant(f"gelu.{rank}.half", f"{name}.half")
        scaled = self.multiply(x, root, f"{name}.scaled")
        layer = self.network.add_unary(scaled, self.trt.UnaryOperation.ERF)
        erf = self.computed(layer, f"{name}.erf", self.precision)
        halved = self.multiply(x, half, f"{name}.halved")
        return self.add(halved, self.multiply(halved, erf, f"{name}.turned"), name)

    def constant(self, weight: str, name: str) -> Any:
        """An array as a tensor, under another name."""
        layer = self.network.add_constant(self.weights[weight].shape, self.kernel(weight))
        return self.named(layer, name).get_output(0)

    def biased(self, x: Any, name: str) -> Any:
        """x W^T + b."""
        return self.add_weight(self.linear(x, name), f"{name}.bias")

    def heads(self, x: Any, name: str) -> Any:
        """(B, N, D) -> (B, H, N, E)."""
        shape = (0, 0, self.config.num_heads, self.config.head_width)
        return self.shuffle(x, f"{name}.heads", shape=shape, after=(0, 2, 1, 3))

    def attention(self, x: Any, layer: str) -> Any:
        """x + out(attention(norm(x))). The scale of the scores is in the queries' weights."""
        name = f"{layer}.attention"
        hidden = self.norm(x, f"{layer}.norm_attention")
        query = self.heads(self.biased(hidden, f"{name}.query"), f"{name}.query")
        key = self.heads(self.linear(hidden, f"{name}.key"), f"{name}.key")
        value = self.heads(self.biased(hidden, f"{name}.value"), f"{name}.value")
        scores = self.product(query, key, f"{name}.scores")
        softmax = self.network.add_softmax(self.cast(scores, "fp32", f"{name}.scores.float32"))
        softmax.axes = 1 << 3
        weights = self.stored(self.computed(softmax, f"{name}.softmax", "fp32"), f"{name}.stored")
        heard = self.product(weights, value, f"{name}.heard", transposed=False)
        merged = self.shuffle(
            heard, f"{name}.merged", before=(0, 2, 1, 3), shape=(0, 0, self.config.width)
        )
        return self.residual(x, self.biased(merged, f"{name}.out"), name)

    def feed_forward(self, x: Any, layer: str) -> Any:
        """x + fc2(GELU(fc1(norm(x))))."""
        hidden = self.norm(x, f"{layer}.norm_ffn")
        hidden = self.gelu(self.biased(hidden, f"{layer}.fc1"), f"{layer}.gelu", 3)
        return self.residual(x, self.biased(hidden, f"{layer}.fc2"), f"{layer}.ffn")


# ------------------------------------------------------------------------------ weights


def whisper_network_weights(
    checkpoint: WhisperCheckpoint, precision: TrtPrecision, positions: int
) -> dict[str, NetworkWeight]:
    """Every array that the network names, in its arrangement and precision.

    conv{1,2}.weight, .bias                      (D, in, 3, 1), (D,)
    positions                                    (1, N, D) float32
    layers.L.norm_{attention,ffn}.weight, .bias  (1, 1, D) float32
    layers.L.attention.{query,key,value,out}     .weight (1, D, D), .bias (1, 1, D), key has none
    layers.L.fc{1,2}                             .weight (1, out, in), .bias (1, 1, out)
    gelu.{3,4}.{root,half}                       of one element, in so many dimensions
    """
    arrays = {}
    for name, values in _named(checkpoint, positions):
        kept: TrtPrecision = "fp32" if ".norm_" in name or name == "positions" else precision
        arrays[name] = NetworkWeight(stored(values, kept), kept)
    return arrays


def _named(checkpoint: WhisperCheckpoint, positions: int) -> Iterator[tuple[str, Array]]:
    tensor = checkpoint.tensor
    for rank in RANKS:
        shape = (1,) * rank
        yield f"gelu.{rank}.root", np.full(shape, ROOT_HALF, np.float32)
        yield f"gelu.{rank}.half", np.full(shape, 0.5, np.float32)
    for name in ("conv1", "conv2"):
        yield f"{name}.weight", tensor(f"encoder.{name}.weight")[..., None]
        yield f"{name}.bias", tensor(f"encoder.{name}.bias")
    yield "positions", tensor("encoder.embed_positions.weight")[None, :positions]
    for layer in range(checkpoint.config.encoder_layers):
        yield from _layer(checkpoint, layer)


def _layer(checkpoint: WhisperCheckpoint, layer: int) -> Iterator[tuple[str, Array]]:
    tensor, source, name = checkpoint.tensor, f"encoder.layers.{layer}", f"layers.{layer}"
    norms = {"norm_attention": "self_attn_layer_norm", "norm_ffn": "final_layer_norm"}
    for ours, theirs in norms.items():
        for kind in ("weight", "bias"):
            yield f"{name}.{ours}.{kind}", tensor(f"{source}.{theirs}.{kind}")[None, None]
    scale = np.float32(checkpoint.config.head_width**-0.5)
    parts = {"query": "q", "key": "k", "value": "v", "out": "out"}
    for ours, theirs in parts.items():
        factor = scale if ours == "query" else np.float32(1.0)
        linear = f"{source}.self_attn.{theirs}_proj"
        yield f"{name}.attention.{ours}.weight", factor * tensor(f"{linear}.weight")[None]
        if ours != "key":
            yield f"{name}.attention.{ours}.bias", factor * tensor(f"{linear}.bias")[None, None]
    for linear in ("fc1", "fc2"):
        yield f"{name}.{linear}.weight", tensor(f"{source}.{linear}.weight")[None]
        yield f"{name}.{linear}.bias", tensor(f"{source}.{linear}.bias")[None, None]
