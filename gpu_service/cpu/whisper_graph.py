"""The Whisper encoder as an ONNX graph that can take part of its keys and values from outside.

Built from a CTranslate2 model's weights. Names inside the file (CTranslate2
fuses): self_attention/linear_0 = q, k, v stacked, linear_1 = out; ffn/linear_0, ffn/linear_1.
Architecture: openai/whisper, whisper/model.py, AudioEncoder (pre-norm, erf GELU).

Knows shapes and weights, no audio; whisper_encoder.py runs the graph. Shapes: B = 1, N positions
computed here (20 ms each), P positions given, N + P = 1500, M mel bands, D width, H heads, E = D/H.

    mel            (1, M, 2N + 2), or 2N where N = 1500     features
    num_positions  (1,) int64                               N
    pad_key_i      (1, H, P, E) for each layer i            keys of the positions N..1499
    pad_value_i    (1, H, P, E)                             their values
 -> states         (1, N, D)                                encoder output
    key_i, value_i (1, H, N, E)                             what pad_key_i, pad_value_i are made of
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelFileError
from .ct2_weights import Ct2Weights
from .graph_builder import GraphBuilder, float_info, int_info

WINDOW_POSITIONS = 1500  # of 30 s
MAX_LAYERS = 64


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of one Whisper encoder."""

    num_layers: int
    num_heads: int
    width: int
    num_mels: int

    @property
    def head_width(self) -> int:
        """E."""
        return self.width // self.num_heads


def encoder_shape(weights: Ct2Weights) -> EncoderShape:
    """Read the sizes off the weights. Raises ModelFileError for anything but a Whisper encoder."""
    if weights.spec_name != "WhisperSpec":
        raise ModelFileError(f"the model is a {weights.spec_name}, not Whisper", "use --model")
    layers = {name.split("/")[1] for name in weights.names if name.startswith("encoder/layer_")}
    num_layers = len(layers - {"layer_norm"})
    conv = weights.shape("encoder/conv1/weight")
    num_heads = int(weights.scalar("encoder/num_heads"))
    if len(conv) != 3 or num_heads < 1 or conv[0] % num_heads or not 0 < num_layers <= MAX_LAYERS:
        raise ModelFileError("the encoder's sizes are not Whisper's", "convert the model again")
    return EncoderShape(num_layers, num_heads, conv[0], conv[1])


@dataclass(slots=True)
class _Encoder(GraphBuilder):
    """The encoder's parts."""

    shape: EncoderShape = field(kw_only=True)
    is_int8: bool = field(kw_only=True)

    def project(self, x: str, name: str, rows: slice | None = None) -> str:
        """A linear layer in the type that was asked for."""
        return self.linear_int8(x, name, rows) if self.is_int8 else self.linear(x, name, rows)

    def heads(self, x: str, output: str = "") -> str:
        """(1, N, D) -> (1, H, N, E)."""
        return self.split_heads(x, self.shape.num_heads, self.shape.head_width, output)

    def embed(self) -> str:
        """mel -> (1, N, D) with positions."""
        x = "mel"
        for index, stride in ((1, 1), (2, 2)):
            inputs = [x] + [self.weight(f"encoder/conv{index}/{w}") for w in ("weight", "bias")]
            x = self.add("Conv", inputs, kernel_shape=[3], pads=[1, 1], strides=[stride])
            x = self.add("Gelu", [x])
        x = self.add("Transpose", [x], perm=[0, 2, 1])
        zero = self.integers(0)
        x = self.add("Slice", [x, zero, "num_positions", self.integers(1)])
        table = self.weight("encoder/position_encodings/encodings")
        positions = self.add("Slice", [table, zero, "num_positions", zero])
        return self.add("Add", [x, positions])

    def attention(self, x: str, layer: int) -> str:
        """Self-attention of N positions to themselves and to the P given ones."""
        name, width = f"encoder/layer_{layer}/self_attention", self.shape.width
        hidden = self.norm(x, f"{name}/layer_norm")
        query, key, value = (
            self.project(hidden, f"{name}/linear_0", slice(i * width, (i + 1) * width))
            for i in range(3)
        )
        key = self.heads(key, f"key_{layer}")
        value = self.heads(value, f"value_{layer}")
        # Attention does not see the order of keys (positions are in the embeddings), so the
        # given ones simply follow.
        keys = self.add("Concat", [key, f"pad_key_{layer}"], axis=2)
        values = self.add("Concat", [value, f"pad_value_{layer}"], axis=2)
        heard = self.contrib(
            "MultiHeadAttention",
            [query, keys, values],
            [f"heard_{layer}"],
            num_heads=self.shape.num_heads,
        )
        return self.add("Add", [x, self.project(heard, f"{name}/linear_1")])

    def feed_forward(self, x: str, layer: int) -> str:
        name = f"encoder/layer_{layer}/ffn"
        hidden = self.norm(x, f"{name}/layer_norm")
        hidden = self.add("Gelu", [self.project(hidden, f"{name}/linear_0")])
        return self.add("Add", [x, self.project(hidden, f"{name}/linear_1")])


def build_encoder(weights: Ct2Weights, *, is_int8: bool) -> bytes:
    """The graph of the module's docstring, serialized; its linear layers in int8 or float32.

    Raises ModelFileError.
    """
    shape = encoder_shape(weights)
    builder = _Encoder(weights, shape=shape, is_int8=is_int8)
    x = builder.embed()
    for layer in range(shape.num_layers):
        x = builder.feed_forward(builder.attention(x, layer), layer)
    builder.norm(x, "encoder/layer_norm", "states")
    return builder.model("whisper_encoder", _inputs(shape), _outputs(shape))


def _inputs(shape: EncoderShape) -> list[Any]:
    pad: list[int | str] = [1, shape.num_heads, "P", shape.head_width]
    return [
        float_info("mel", [1, shape.num_mels, "T"]),
        int_info("num_positions", [1]),
        *(float_info(f"pad_{name}", pad) for name in layer_names(shape.num_layers)),
    ]


def _outputs(shape: EncoderShape) -> list[Any]:
    heads: list[int | str] = [1, shape.num_heads, "N", shape.head_width]
    return [
        float_info("states", [1, "N", shape.width]),
        *(float_info(name, heads) for name in layer_names(shape.num_layers)),
    ]


def layer_names(num_layers: int) -> list[str]:
    """key_0, value_0, key_1, ...: the order of all tuples of keys and values."""
    return [f"{kind}_{layer}" for layer in range(num_layers) for kind in ("key", "value")]
