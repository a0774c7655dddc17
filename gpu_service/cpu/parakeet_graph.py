"""Parakeet's encoder (FastConformer) as one ONNX graph, for whole utterances and for increments.

An increment is given what the frames before it left behind: 8 mel rows for the convolutions of the
subsampling, keys and values for the attention, K//2 rows for the convolution of each layer. A whole
utterance is an increment with nothing before it. Masks keep padding out of every valid frame: in
the subsampling, in the attention, and before the convolution of each layer.

Knows shapes and prepared weights (gpu_service/weights), no audio; parakeet_encoder.py runs the
graph. Architecture: NVIDIA NeMo, ConformerEncoder, and Hugging Face, ParakeetEncoder.

Shapes: B utterances, F mel bands, T new mel rows of 10 ms, N = T / 8 rounded up new frames of
80 ms, L frames before them, P = L + 2N - 1 relative positions, D width, H heads, E = D / H,
C channels of the subsampling, K kernel of a layer's convolution, J width of the projected output.

    features    (B, 8 + T, F)      the 8 mel rows before, then the new ones
    first       (B,) int64         index of the first real row: 0, or 8 at the start of an utterance
    lengths     (B,) int64         index behind the last real row
    cached      (B,) int64         how many of the L frames are real: the last ones
    past_key_i, past_value_i  (B, L, D) for each layer i; past_conv_i (B, K//2, D)
 -> projected   (B, N, J)          for the joint; N >= MIN_FRAMES, L + N <= max_frames
    encoded     (B, N, D)
    key_i, value_i, conv_i         (B, N, D): what past_key_i, past_value_i, past_conv_i are made of
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from ..weights.parakeet_config import ParakeetConfig
from ..weights.parakeet_weights import ParakeetWeights
from .graph_builder import NodeList, float_info, int_info

MIN_FRAMES = 2  # of one run: see shift()
END = np.iinfo(np.int64).max  # of a Slice: up to the last
MASKED = -1e9  # added to scores: finite, so that a row with no valid key is no NaN
STATE_KINDS = ("key", "value", "conv")
SUBSAMPLING_CONVS = ((0, None), (2, 3), (5, 6))  # names: 3 x 3 convolution, then a pointwise one


@dataclass(slots=True)
class _Encoder(NodeList):
    """The encoder's parts. Masks are 1.0 for real and 0.0 for padding."""

    weights: Mapping[str, NDArray[np.float32]]
    config: ParakeetConfig
    max_frames: int

    def weight(self, name: str) -> str:
        """A prepared weight as it is."""
        return self.outside_constant(name, self.weights[name])

    def weight_as(self, name: str, *sizes: int) -> str:
        """A prepared weight in another shape."""
        return self.outside_constant(name, self.weights[name].reshape(sizes))

    def linear(self, x: str, name: str) -> str:
        """x W^T."""
        inputs = [x, self.weight(f"{name}.weight")]
        return self.contrib("FusedMatMul", inputs, [f"linear_{len(self.nodes)}"], transB=1)

    def linear_with_bias(self, x: str, name: str, output: str = "") -> str:
        """x W^T + b."""
        return self.add("Add", [self.linear(x, name), self.weight(f"{name}.bias")], output)

    def norm(self, x: str, name: str, output: str = "") -> str:
        """Layer normalisation over D."""
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("LayerNormalization", inputs, output, axis=-1, epsilon=1e-5)

    def silu(self, x: str) -> str:
        """x sigmoid(x)."""
        return self.contrib("QuickGelu", [x], [f"silu_{len(self.nodes)}"], alpha=1.0)

    def slice(self, x: str, start: str, end: str, axis: int, output: str = "") -> str:
        """x[start:end] along one axis."""
        return self.add("Slice", [x, start, end, self.integers(axis)], output)

    def split(self, x: str, outputs: list[str]) -> None:
        """Equal parts of the last axis."""
        self.nodes.append(
            helper.make_node("Split", [x], outputs, axis=-1, num_outputs=len(outputs))
        )

    def size(self, x: str, axis: int) -> str:
        """One size of x, (1,) int64."""
        return self.add("Shape", [x], start=axis, end=axis + 1)

    def column(self, x: str) -> str:
        """(B,) -> (B, 1)."""
        return self.add("Unsqueeze", [x, self.integers(1)])

    def indices(self, size: str) -> str:
        """0 .. size - 1 for a (1,) size."""
        scalar = self.add("Squeeze", [size, self.integers(0)])
        zero = self.constant("zero", np.array(0, np.int64))
        return self.add("Range", [zero, scalar, self.constant("one", np.array(1, np.int64))])

    def row_mask(self) -> str:
        """(B, 1, 8 + T, 1): the real mel rows."""
        rows = self.indices(self.size("features", 1))
        begun = self.add("GreaterOrEqual", [rows, self.column("first")])
        ended = self.add("Less", [rows, self.column("lengths")])
        mask = self.add("Cast", [self.add("And", [begun, ended])], to=1)
        return self.add("Unsqueeze", [mask, self.integers(1, 3)])

    def subsample(self) -> str:
        """features -> (B, N, D), and frame_mask (B, N). The tail's own frame is dropped.

        A convolution pads with zeros; so what lies beyond the real rows is zero before each.
        Output row r is centred on input row 2r, so it is real where that one is.
        """
        mask = self.row_mask()
        features = self.add("Unsqueeze", ["features", self.integers(1)])
        x = self.add("Mul", [features, mask])
        for conv, pointwise in SUBSAMPLING_CONVS:
            x = self.halve(x, conv, num_groups=1 if pointwise is None else self.channels)
            if pointwise is not None:
                x = self.conv(x, pointwise, kernel_shape=[1, 1])
            every_second = [self.integers(n) for n in (0, END, 2, 2)]  # start, end, axis, step
            mask = self.add("Slice", [mask, *every_second])
            x = self.add("Mul", [self.add("Relu", [x]), mask])
        frames = self.add("Transpose", [x], perm=[0, 2, 1, 3])
        frames = self.add("Reshape", [frames, self.integers(0, 0, -1)])
        frame_mask = self.add("Squeeze", [mask, self.integers(1, 3)])
        one, end = self.integers(1), self.integers(END)
        self.slice(frame_mask, one, end, 1, "frame_mask")
        return self.linear_with_bias(self.slice(frames, one, end, 1), "subsampling.linear")

    @property
    def channels(self) -> int:
        """C."""
        return self.config.subsampling_channels

    def halve(self, x: str, layer: int, num_groups: int) -> str:
        """A 3 x 3 convolution with stride 2 in time and frequency."""
        return self.conv(x, layer, pads=[1] * 4, strides=[2, 2], group=num_groups)

    def conv(self, x: str, layer: int, **attributes: Any) -> str:
        """A convolution over time and frequency."""
        name = f"subsampling.{layer}"
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("Conv", inputs, **attributes)

    def feed_forward(self, x: str, layer: int, index: int) -> str:
        """The half step is in the weights of linear2."""
        name = f"layers.{layer}.feed_forward{index}"
        hidden = self.norm(x, f"layers.{layer}.norm_feed_forward{index}")
        hidden = self.silu(self.linear(hidden, f"{name}.linear1"))
        return self.add("Add", [x, self.linear(hidden, f"{name}.linear2")])

    def heads(self, x: str) -> str:
        """(B, n, D) -> (B, H, n, E)."""
        num_heads = self.config.num_heads
        split = self.add("Reshape", [x, self.integers(0, 0, num_heads, -1)])
        return self.add("Transpose", [split], perm=[0, 2, 1, 3])

    def scores(self, query: str, bias: str, keys: str) -> str:
        """(query + bias) keys^T / sqrt(E)."""
        num_heads, width = self.config.num_heads, self.config.width
        bias = self.weight_as(bias, num_heads, 1, width // num_heads)
        inputs = [self.add("Add", [query, bias]), keys]
        scale = (width // num_heads) ** -0.5
        output = f"scores_{len(self.nodes)}"
        return self.contrib("FusedMatMul", inputs, [output], transB=1, alpha=scale)

    def shift(self, raw: str) -> str:
        """Scores by relative position (B, H, N, P) -> by key (B, H, N, L + N).

        Row i wants its columns N-1-i .. : in the flattened matrix each row then starts P - 1
        behind the one before. This needs P - 1 >= L + N, hence N >= 2.
        """
        flat = self.add("Reshape", [raw, self.integers(0, 0, -1)])
        flat = self.slice(flat, "last_frame", self.integers(-1), 2)
        rows = self.add("Reshape", [flat, "shifted_shape"])
        return self.slice(rows, self.integers(0), "num_keys", 3)

    def attention(self, x: str, layer: int) -> str:
        """Attention of N frames to themselves and to the L before them, by relative position."""
        name = f"layers.{layer}.self_attn"
        hidden = self.norm(x, f"layers.{layer}.norm_self_att")
        states = [f"query_{layer}", f"key_{layer}", f"value_{layer}"]
        self.split(self.linear(hidden, f"{name}.qkv"), states)
        query = self.heads(states[0])
        keys, values = (
            self.heads(self.add("Concat", [f"past_{state}", state], axis=1)) for state in states[1:]
        )
        table = self.slice(self.weight(f"{name}.positions"), "first_position", "end_position", 0)
        positions = self.heads(self.add("Unsqueeze", [table, self.integers(0)]))
        by_position = self.shift(self.scores(query, f"{name}.bias_v", positions))
        scores = self.add("Add", [self.scores(query, f"{name}.bias_u", keys), by_position])
        scores = self.add("Softmax", [self.add("Add", [scores, "key_mask"])], axis=-1)
        heard = self.add("Transpose", [self.add("MatMul", [scores, values])], perm=[0, 2, 1, 3])
        heard = self.add("Reshape", [heard, self.integers(0, 0, -1)])
        return self.add("Add", [x, self.linear(heard, f"{name}.o_proj")])

    def convolution(self, x: str, layer: int) -> str:
        """Gate, convolution in time for each of D alone, and a mix of D."""
        name = f"layers.{layer}.conv"
        hidden = self.linear(self.norm(x, f"layers.{layer}.norm_conv"), f"{name}.pointwise1")
        value, gate = f"gated_{layer}", f"gate_{layer}"
        self.split(hidden, [value, gate])
        gated = self.add("Mul", [value, self.add("Sigmoid", [gate])])
        rows = self.add("Mul", [gated, "frame_column"], f"conv_{layer}")
        rows = self.add("Concat", [f"past_conv_{layer}", rows], axis=1)
        hidden = self.silu(self.depthwise(rows, f"{name}.depthwise"))
        return self.add("Add", [x, self.linear(hidden, f"{name}.pointwise2")])

    def depthwise(self, rows: str, name: str) -> str:
        """(B, K//2 + N, D) -> (B, N, D)."""
        width, kernel = self.weights[f"{name}.weight"].shape
        inputs = [
            self.add("Transpose", [rows], perm=[0, 2, 1]),
            self.weight_as(f"{name}.weight", width, 1, kernel),
            self.weight(f"{name}.bias"),
        ]
        hidden = self.add("Conv", inputs, pads=[0, kernel // 2], group=width)
        return self.add("Transpose", [hidden], perm=[0, 2, 1])

    def measure(self, frames: str) -> None:
        """The sizes and masks that every layer uses."""
        num_new, num_past = self.size(frames, 1), self.size("past_key_0", 1)
        num_keys = self.add("Add", [num_past, num_new], "num_keys")
        self.add("Sub", [num_new, self.integers(1)], "last_frame")
        self.add("Sub", [self.integers(self.max_frames), num_keys], "first_position")
        self.add("Add", [self.integers(self.max_frames - 1), num_new], "end_position")
        self.add(
            "Concat", [self.integers(0, 0), num_new, self.integers(-1)], "shifted_shape", axis=0
        )
        self.add("Unsqueeze", ["frame_mask", self.integers(2)], "frame_column")
        first_past = self.add("Sub", [num_past, self.column("cached")])
        past = self.add("GreaterOrEqual", [self.indices(num_past), first_past])
        keys = self.add("Concat", [self.add("Cast", [past], to=1), "frame_mask"], axis=1)
        penalty = self.constant("masked", np.array(MASKED, np.float32))
        missing = self.add("Sub", [self.constant("real", np.array(1, np.float32)), keys])
        penalties = self.add("Mul", [missing, penalty])
        self.add("Unsqueeze", [penalties, self.integers(1, 2)], "key_mask")

    def encode(self) -> None:
        """The whole graph."""
        x = self.subsample()
        self.measure(x)
        for layer in range(self.config.num_layers):
            x = self.feed_forward(x, layer, 1)
            x = self.convolution(self.attention(x, layer), layer)
            x = self.feed_forward(x, layer, 2)
            is_last = layer == self.config.num_layers - 1
            x = self.norm(x, f"layers.{layer}.norm_out", "encoded" if is_last else "")
        self.linear_with_bias(x, "projector", "projected")


def build_encoder(weights: ParakeetWeights) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
    """The graph of the module's docstring, serialized, and the weights that are not in it."""
    config = weights.config
    builder = _Encoder(weights.encoder, config, weights.max_frames)
    builder.encode()
    kernel_rows = config.conv_kernel // 2
    inputs = [
        float_info("features", ["B", "R", config.num_mels]),
        *(int_info(name, ["B"]) for name in ("first", "lengths", "cached")),
    ]
    outputs = [
        float_info("projected", ["B", "N", config.decoder_width]),
        float_info("encoded", ["B", "N", config.width]),
    ]
    for kind in STATE_KINDS:
        num_rows = kernel_rows if kind == "conv" else "L"
        for name in state_names(kind, config.num_layers):
            inputs.append(float_info(f"past_{name}", ["B", num_rows, config.width]))
            outputs.append(float_info(name, ["B", "N", config.width]))
    return builder.model("parakeet_encoder", inputs, outputs), builder.outside


def state_names(kind: str, num_layers: int) -> list[str]:
    """key_0, key_1, ...: what one kind of state is called, lowest layer first."""
    return [f"{kind}_{layer}" for layer in range(num_layers)]
