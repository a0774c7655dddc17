"""Parakeet's encoder as a TensorRT network, through the network API: no ONNX, no torch.

The network of gpu_service/cpu/parakeet_graph.py for whole utterances, written for buckets of fixed
shapes. No layer computes with a shape: reshapes keep sizes or infer one, masks and index tables
come in as inputs (gpu/trt_inputs.py). So one network, and one copy of its weights, serves many
optimisation profiles, and an execution can be captured in a CUDA graph, which shape arithmetic
prevents (TensorRT 8.6 copies shapes through pinned host memory then). Relative positions are
shifted by gathering from the flattened scores: row i of (N, P) wants its columns N - 1 - i and on.

Scores behind the products are float32; the rest of the precisions is network_layers.py's. Shapes: B
utterances, N frames, F mel bands, C channels, D width, H heads, E = D / H, P = 2N - 1, J output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..gpu.trt_inputs import (
    FEATURES,
    FRAME_MASK,
    HALF_MASK,
    INPUTS,
    KEY_MASK,
    POSITION_ROWS,
    PROJECTED,
    QUARTER_MASK,
    SHIFT_INDEX,
    TABLE_INPUTS,
)
from ..weights.parakeet_config import ParakeetConfig
from .network_layers import NetworkLayers

RUNTIME_SIZE = -1


@dataclass(slots=True)
class EncoderNetwork(NetworkLayers):
    """Puts the encoder into an empty network, of the weights of network_weights.py."""

    config: ParakeetConfig

    def build(self) -> None:
        """All of it. Raises NetworkError."""
        inputs = {name: self.input(name) for name in INPUTS}
        masks = {
            name: self.stored(inputs[name], f"{name}.stored")
            for name in (HALF_MASK, QUARTER_MASK, FRAME_MASK)
        }
        frames = self.subsampling(self.stored(inputs[FEATURES], "features.stored"), masks)
        x = self.cast(frames, "fp32", "subsampling.float32")
        for layer in range(self.config.num_layers):
            name = f"layers.{layer}"
            x = self.feed_forward(x, name, 1)
            x = self.attention(x, name, inputs)
            x = self.convolution(x, name, masks[FRAME_MASK])
            x = self.feed_forward(x, name, 2)
            x = self.norm_wide(x, f"{name}.norm_out")
        encoded = self.stored(x, "encoded.stored")
        projected = self.add_weight(self.linear(encoded, "projector"), "projector.bias")
        self.output(self.cast(projected, "fp32", "projected.float32"))

    # -- inputs and outputs ----------------------------------------------------------------

    def input(self, name: str) -> Any:
        """One of INPUTS, the sizes that differ between buckets named."""
        kind = self.trt.int32 if name in TABLE_INPUTS else self.trt.float32
        dims = [self.config.num_mels if dim == "mels" else dim for dim in INPUTS[name]]
        shape = tuple(RUNTIME_SIZE if isinstance(dim, str) else dim for dim in dims)
        tensor = self.checked(self.network.add_input(name, kind, shape), name)
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                tensor.set_dimension_name(axis, dim)
        return tensor

    def output(self, tensor: Any) -> None:
        """(B, N, J) float32."""
        tensor.name = PROJECTED
        self.network.mark_output(tensor)

    # -- parts of the encoder --------------------------------------------------------------

    def subsampling(self, features: Any, masks: Mapping[str, Any]) -> Any:
        """(B, 1, 8N, F) -> (B, N, D).

        What a convolution finds beyond the real rows has to be zero, before each of them: the
        features come so, and behind each convolution a mask makes it so.
        """
        channels = self.config.subsampling_channels
        x = self.halve(features, 0, 1)
        x = self.multiply(x, masks[HALF_MASK], "subsampling.0.mask")
        x = self.convolve(self.halve(x, 2, channels, relu=False), "subsampling.3")
        x = self.relu(x, "subsampling.3.relu")
        x = self.multiply(x, masks[QUARTER_MASK], "subsampling.3.mask")
        x = self.convolve(self.halve(x, 5, channels, relu=False), "subsampling.6")
        x = self.relu(x, "subsampling.6.relu")
        width = self.config.subsampled_width
        frames = self.shuffle(x, "subsampling.frames", before=(0, 2, 1, 3), shape=(0, 0, width))
        frames = self.multiply(frames, masks[FRAME_MASK], "subsampling.6.mask")
        return self.add_weight(self.linear(frames, "subsampling.linear"), "subsampling.linear.bias")

    def halve(self, x: Any, number: int, num_groups: int, *, relu: bool = True) -> Any:
        """A 3 x 3 convolution with stride 2 in time and frequency."""
        name = f"subsampling.{number}"
        x = self.convolve(x, name, stride=(2, 2), padding=(1, 1), num_groups=num_groups)
        return self.relu(x, f"{name}.relu") if relu else x

    def feed_forward(self, x: Any, layer: str, number: int) -> Any:
        """The half step is in the weights of linear2."""
        name = f"{layer}.feed_forward{number}"
        hidden = self.norm(x, f"{layer}.norm_feed_forward{number}")
        hidden = self.silu(self.linear(hidden, f"{name}.linear1"), f"{name}.silu")
        return self.residual(x, self.linear(hidden, f"{name}.linear2"), name)

    def heads(self, x: Any, name: str) -> Any:
        """(B, N, D) -> (B, H, N, E)."""
        shape = (0, 0, self.config.num_heads, self.config.head_width)
        return self.shuffle(x, f"{name}.heads", shape=shape, after=(0, 2, 1, 3))

    def by_position(self, query: Any, name: str, inputs: Mapping[str, Any]) -> Any:
        """(B, N, D) queries -> (B, H, N, N) scores by relative position, each at its key."""
        biased = self.add_weight(query, f"{name}.bias_v")
        table = self.weight(f"{name}.positions")
        rows = self.gather(table, inputs[POSITION_ROWS], 2, f"{name}.position_rows")
        raw = self.product(self.heads(biased, f"{name}.bias_v"), rows, f"{name}.by_position")
        flat = self.shuffle(raw, f"{name}.flat", shape=(0, 0, -1))
        return self.gather(flat, inputs[SHIFT_INDEX], 2, f"{name}.shift")

    def attention(self, x: Any, layer: str, inputs: Mapping[str, Any]) -> Any:
        """Attention by relative position. The scale of the scores is in the queries' weights."""
        name = f"{layer}.self_attn"
        hidden = self.norm(x, f"{layer}.norm_self_att")
        query, key, value = (
            self.linear(hidden, f"{name}.{kind}") for kind in ("query", "key", "value")
        )
        biased = self.add_weight(query, f"{name}.bias_u")
        by_content = self.product(
            self.heads(biased, f"{name}.bias_u"), self.heads(key, f"{name}.key"), f"{name}.by_key"
        )
        wide = self.cast(by_content, "fp32", f"{name}.by_key.float32")
        shifted = self.cast(self.by_position(query, name, inputs), "fp32", f"{name}.shift.float32")
        scores = self.add(wide, shifted, f"{name}.scores", "fp32")
        scores = self.add(scores, inputs[KEY_MASK], f"{name}.masked", "fp32")
        softmax = self.network.add_softmax(scores)
        softmax.axes = 1 << 3
        weights = self.stored(self.computed(softmax, f"{name}.softmax", "fp32"), f"{name}.stored")
        heard = self.product(
            weights, self.heads(value, f"{name}.value"), f"{name}.heard", transposed=False
        )
        merged = self.shuffle(
            heard, f"{name}.merged", before=(0, 2, 1, 3), shape=(0, 0, self.config.width)
        )
        return self.residual(x, self.linear(merged, f"{name}.o_proj"), name)

    def convolution(self, x: Any, layer: str, frame_mask: Any) -> Any:
        """Gate, convolution in time for each of D alone, and a mix of D."""
        name, width = f"{layer}.conv", self.config.width
        hidden = self.norm(x, f"{layer}.norm_conv")
        gate = self.sigmoid(self.linear(hidden, f"{name}.gate"), f"{name}.sigmoid")
        gated = self.multiply(self.linear(hidden, f"{name}.value"), gate, f"{name}.gated")
        rows = self.multiply(gated, frame_mask, f"{name}.mask")
        # TensorRT convolves images: time becomes the height of one that is one wide.
        image = self.shuffle(rows, f"{name}.image", before=(0, 2, 1), shape=(0, 0, 0, 1))
        half = self.config.conv_kernel // 2
        image = self.convolve(image, f"{name}.depthwise", padding=(half, 0), num_groups=width)
        image = self.silu(image, f"{name}.silu")
        rows = self.shuffle(image, f"{name}.rows", before=(0, 2, 1, 3), shape=(0, 0, width))
        return self.residual(x, self.linear(rows, f"{name}.pointwise2"), name)
