"""A Whisper model as CTranslate2 stores it, under the canonical names of whisper_config.py.

CTranslate2 fuses matrices: self_attention/linear_0 is q, k and v one below the other, attention/
linear_1 is k and v. A canonical tensor is such a matrix, or rows of one, dequantised and widened
when it is asked for. Knows which variables a WhisperSpec has; cpu/ct2_weights.py knows the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cpu.ct2_weights import Ct2Weights
from ..errors import ModelFileError
from .whisper_config import WhisperConfig, checked, expected_shapes

SPEC_NAME = "WhisperSpec"
REMEDY = "convert the model again with ct2-transformers-converter"
# Which variable, and which of the equal parts of its rows, a module of a layer is.
FUSED: dict[str, tuple[str, int, int]] = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "self_attn_layer_norm": ("self_attention/layer_norm", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "encoder_attn_layer_norm": ("attention/layer_norm", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
    "final_layer_norm": ("ffn/layer_norm", 0, 1),
}
WHOLE = {
    "encoder.embed_positions.weight": "encoder/position_encodings/encodings",
    "decoder.embed_positions.weight": "decoder/position_encodings/encodings",
    "decoder.embed_tokens.weight": "decoder/embeddings/weight",
}
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Ct2Tensor:
    """Rows of one variable."""

    weights: Ct2Weights
    variable: str
    first_row: int
    shape: tuple[int, ...]

    def to_float32(self) -> NDArray[np.float32]:
        """(shape) float32, C-contiguous."""
        whole = self.weights.array(self.variable)
        return np.ascontiguousarray(whole[self.first_row : self.first_row + self.shape[0]])


def read_model_bin(path: Path) -> tuple[WhisperConfig, dict[str, Ct2Tensor]]:
    """The sizes and all tensors of a model.bin. Raises ModelFileError."""
    weights = Ct2Weights(path)
    if weights.spec_name != SPEC_NAME:
        raise ModelFileError(f"{path} is a {weights.spec_name}, not Whisper", "name another model")
    config = checked(_sizes(weights, path), str(path))
    tensors = {
        name: _tensor(weights, name, shape, path) for name, shape in expected_shapes(config).items()
    }
    for name in tensors:
        if name.endswith("k_proj.weight"):
            _check_no_key_bias(tensors[name], path)
    return config, tensors


def _sizes(weights: Ct2Weights, path: Path) -> WhisperConfig:
    conv = weights.shape("encoder/conv1/weight")
    table = weights.shape("decoder/embeddings/weight")
    positions = weights.shape("decoder/position_encodings/encodings")
    ffn = weights.shape("encoder/layer_0/ffn/linear_0/weight")
    heads = {int(weights.scalar(f"{side}/num_heads")) for side in ("encoder", "decoder")}
    num_dimensions = [len(shape) for shape in (conv, table, positions, ffn)]
    if num_dimensions != [3, 2, 2, 2] or len(heads) != 1 or min(heads) < 1:
        raise ModelFileError(f"{path}: its sizes are not Whisper's", REMEDY)
    return WhisperConfig(
        num_mels=conv[1],
        width=conv[0],
        num_heads=heads.pop(),
        ffn_width=ffn[0],
        encoder_layers=_num_layers(weights, "encoder"),
        decoder_layers=_num_layers(weights, "decoder"),
        vocabulary_size=table[0],
        text_positions=positions[0],
    )


def _num_layers(weights: Ct2Weights, side: str) -> int:
    return len(
        {name.split("/")[1] for name in weights.names if name.startswith(f"{side}/layer_")}
        - {"layer_norm"}
    )


def _tensor(weights: Ct2Weights, name: str, shape: tuple[int, ...], path: Path) -> Ct2Tensor:
    variable, part, num_parts = _place(name)
    found = weights.shape(variable)
    if found != (num_parts * shape[0], *shape[1:]):
        raise ModelFileError(
            f"{path}: {variable} is {list(found)}, not {[num_parts * shape[0], *shape[1:]]}", REMEDY
        )
    return Ct2Tensor(weights, variable, part * shape[0], shape)


def _place(name: str) -> tuple[str, int, int]:
    """The variable of a canonical tensor, and which of how many equal parts of its rows it is."""
    if name in WHOLE:
        return WHOLE[name], 0, 1
    matched = LAYER.fullmatch(name)
    if matched is None:  # encoder.conv1.weight, decoder.layer_norm.bias
        module, kind = name.replace(".", "/").rsplit("/", 1)
        part, num_parts = 0, 1
    else:
        side, layer, inner, kind = matched.groups()
        fused, part, num_parts = FUSED[inner]
        module = f"{side}/layer_{layer}/{fused}"
    if module.endswith("layer_norm"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    return f"{module}/{kind}", part, num_parts


def _check_no_key_bias(key: Ct2Tensor, path: Path) -> None:
    """Whisper's keys have no bias; CTranslate2 stores zeros in their place."""
    bias = key.weights.array(key.variable.removesuffix("weight") + "bias")
    if bias[key.first_row : key.first_row + key.shape[0]].any():
        raise ModelFileError(f"{path}: {key.variable} has a bias of keys, Whisper has none", REMEDY)
