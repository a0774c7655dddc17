"""The Whisper decoder as ONNX graphs, for drafts: many known tokens in one pass, then one by one.

CTranslate2 feeds the tokens behind <|notimestamps|> one at a time even if they are known, 5 ms
each; a draft knows nearly all of its tokens from the draft before. Weights are int8, as
CTranslate2 has them. Architecture: openai/whisper, whisper/model.py, TextDecoder.

Knows shapes and weights; draft_decoder.py runs the graphs. Shapes: T tokens now, P tokens before,
N positions, V vocabulary, D width, H heads, E = D / H.

    decoder: tokens (1, T) int64, num_past (1,) int64 = P,
             past_key_i, past_value_i (1, H, P, E), cross_key_i, cross_value_i (1, H, 1500, E)
          -> top_tokens (1, T, 3) int64, top_logs (1, T, 3) natural log probabilities,
             present_key_i, present_value_i (1, H, P + T, E), and where heads are aligned
             scores_i (1, A of that layer, T, N) of what they listen to
    cross:   states (1, N, D) -> cross_key_i, cross_value_i (1, H, N, E)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .ct2_weights import Ct2Weights
from .graph_builder import GraphBuilder, float_info, int_info
from .whisper_graph import EncoderShape, layer_names

Head = tuple[int, int]  # layer and head
NUM_TOP = 3  # the first token may not be a space or the end: one of three always remains
SUPPRESSED = -1e9


@dataclass(slots=True)
class _Decoder(GraphBuilder):
    """The decoder's parts."""

    shape: EncoderShape = field(kw_only=True)
    end: str = ""  # P + T, (1,) int64
    aligned: Sequence[Head] = ()  # layer and head whose scores come out

    def embed(self) -> str:
        """tokens -> (1, T, D) with positions."""
        table = self.weights.array("decoder/embeddings/weight").astype(np.float16)
        rows = self.add("Gather", [self.constant("embeddings", table), "tokens"])
        rows = self.add("Cast", [rows], to=1)
        length = self.add("Shape", ["tokens"], start=1, end=2)
        self.end = self.add("Add", ["num_past", length])
        positions = self.weight("decoder/position_encodings/encodings")
        return self.add(
            "Add", [rows, self.add("Slice", [positions, "num_past", self.end, self.integers(0)])]
        )

    def self_attention(self, x: str, layer: int) -> str:
        """Causal attention to the tokens before and to the ones of now."""
        name, width = f"decoder/layer_{layer}/self_attention", self.shape.width
        hidden = self.norm(x, f"{name}/layer_norm")
        query, key, value = (
            self.linear_int8(hidden, f"{name}/linear_0", slice(i * width, (i + 1) * width))
            for i in range(3)
        )
        heard = self.contrib(
            "MultiHeadAttention",
            [query, key, value, "", "", "", f"past_key_{layer}", f"past_value_{layer}"],
            [f"heard_{layer}", f"present_key_{layer}", f"present_value_{layer}"],
            num_heads=self.shape.num_heads,
            unidirectional=1,
        )
        return self.add("Add", [x, self.linear_int8(heard, f"{name}/linear_1")])

    def cross_attention(self, x: str, layer: int) -> str:
        """Attention to the audio."""
        name = f"decoder/layer_{layer}/attention"
        query = self.linear_int8(self.norm(x, f"{name}/layer_norm"), f"{name}/linear_0")
        heads = [head for at, head in self.aligned if at == layer]
        if heads:
            self.scores(query, layer, heads)
        heard = self.contrib(
            "MultiHeadAttention",
            [query, f"cross_key_{layer}", f"cross_value_{layer}"],
            [f"heard_audio_{layer}"],
            num_heads=self.shape.num_heads,
        )
        return self.add("Add", [x, self.linear_int8(heard, f"{name}/linear_2")])

    def scores(self, query: str, layer: int, heads: Sequence[int]) -> None:
        """scores_i (1, A, T, N) of some heads, before the softmax."""
        scaled = self.add(
            "Mul", [query, self.constant(f"scale_{layer}", np.float32(self.shape.head_width**-0.5))]
        )
        split = self.split_heads(scaled, self.shape.num_heads, self.shape.head_width)
        chosen = self.integers(*heads)
        queries = self.add("Gather", [split, chosen], axis=1)
        keys = self.add("Gather", [f"cross_key_{layer}", chosen], axis=1)
        turned = self.add("Transpose", [keys], perm=[0, 1, 3, 2])
        self.add("MatMul", [queries, turned], f"scores_{layer}")

    def feed_forward(self, x: str, layer: int) -> str:
        name = f"decoder/layer_{layer}/ffn"
        hidden = self.norm(x, f"{name}/layer_norm")
        hidden = self.add("Gelu", [self.linear_int8(hidden, f"{name}/linear_0")])
        return self.add("Add", [x, self.linear_int8(hidden, f"{name}/linear_1")])

    def rank(self, x: str, end: int, suppressed: Sequence[int]) -> None:
        """The most probable text tokens, or `end`; the projection is the embedding table."""
        table = self.weights.array("decoder/embeddings/weight")
        bias = np.zeros(len(table), np.float32)
        bias[[token for token in suppressed if token < len(bias)]] = SUPPRESSED
        bias[end + 1 :] = SUPPRESSED  # languages, tasks, timestamps
        bias[end] = 0.0
        hidden = self.norm(x, "decoder/layer_norm")
        logits = self.matmul_int8(hidden, "projection", table, bias)
        total = self.add("ReduceLogSumExp", [logits, self.integers(2)], keepdims=1)
        self.nodes.append(_top(logits, self.integers(NUM_TOP)))
        self.add("Sub", ["top_logits", total], "top_logs")


def _top(logits: str, count: str) -> object:
    from onnx import helper

    return helper.make_node("TopK", [logits, count], ["top_logits", "top_tokens"], axis=2)


def build_decoder(
    weights: Ct2Weights,
    shape: EncoderShape,
    end: int,
    suppressed: Sequence[int],
    aligned: Sequence[Head] = (),
) -> bytes:
    """The graph `decoder`; `suppressed` tokens and those above `end` never come out."""
    builder = _Decoder(weights, shape=shape, aligned=aligned)
    x = builder.embed()
    for layer in range(shape.num_layers):
        x = builder.self_attention(x, layer)
        x = builder.cross_attention(x, layer)
        x = builder.feed_forward(x, layer)
    builder.rank(x, end, suppressed)
    past: list[int | str] = [1, shape.num_heads, "P", shape.head_width]
    cross: list[int | str] = [1, shape.num_heads, "N", shape.head_width]
    present: list[int | str] = [1, shape.num_heads, "P+T", shape.head_width]
    names = layer_names(shape.num_layers)
    inputs = [int_info("tokens", [1, "T"]), int_info("num_past", [1])]
    inputs += [float_info(f"past_{name}", past) for name in names]
    inputs += [float_info(f"cross_{name}", cross) for name in names]
    outputs = [int_info("top_tokens", [1, "T", NUM_TOP]), float_info("top_logs", [1, "T", NUM_TOP])]
    outputs += [float_info(f"present_{name}", present) for name in names]
    for layer in aligned_layers(aligned):
        num_heads = sum(at == layer for at, _ in aligned)
        outputs.append(float_info(f"scores_{layer}", [1, num_heads, "T", "N"]))
    return builder.model("whisper_decoder", inputs, outputs)


def aligned_layers(aligned: Sequence[Head]) -> list[int]:
    """The layers that have such heads, in order."""
    return sorted({layer for layer, _ in aligned})


def build_cross(weights: Ct2Weights, shape: EncoderShape) -> bytes:
    """The graph `cross`: keys and values of the audio for every layer, in float32."""
    builder = GraphBuilder(weights)
    for layer in range(shape.num_layers):
        for index, kind in enumerate(("key", "value")):
            rows = slice(index * shape.width, (index + 1) * shape.width)
            projected = builder.linear("states", f"decoder/layer_{layer}/attention/linear_1", rows)
            builder.split_heads(
                projected, shape.num_heads, shape.head_width, f"cross_{kind}_{layer}"
            )
    cross: list[int | str] = [1, shape.num_heads, "N", shape.head_width]
    return builder.model(
        "whisper_cross",
        [float_info("states", [1, "N", shape.width])],
        [float_info(f"cross_{name}", cross) for name in layer_names(shape.num_layers)],
    )
