"""ParakeetConfig: the sizes of a Parakeet-TDT model, and the tensors that follow from them.

`from_hugging_face()` reads them from a config.json of transformers' ParakeetForTDT; nemo_config.py
does the same for NeMo's model_config.yaml. What our engines do not compute (biases, scaled input,
other activations, another subsampling) is refused here, so that nothing behind has to ask. Pure:
parsed configurations in, numbers out. Names of tensors are those of ParakeetForTDT's state dict.

Shapes: D width, H heads, C subsampling channels, K kernel, J decoder width, V tokens, R durations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelFileError
from .fields import Fields

SUBSAMPLING_FACTOR = 8  # mel frames to one encoder frame
NUM_MELS = 128  # of our mel bank
MODEL_TYPE = "parakeet_tdt"

# Far above any model there is; they keep a hostile file from asking for a size that overflows.
MAX_WIDTH = 1 << 14
MAX_LAYERS = 256
MAX_VOCABULARY = 1 << 18
MAX_KERNEL = 63
MAX_DURATION = 64  # frames
MAX_DURATIONS = 32
MAX_SYMBOLS = 1000

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class ParakeetConfig:
    """Every size of one model. No bias in attention, feed forward or convolution, no scaling."""

    num_mels: int
    width: int  # D, of the encoder
    num_layers: int
    num_heads: int  # H
    ffn_width: int
    conv_kernel: int  # K, odd
    subsampling_channels: int  # C
    vocabulary_size: int  # V, without the blank
    blank_id: int  # = V
    decoder_width: int  # J, of the decoder and of the joint
    decoder_layers: int
    durations: tuple[int, ...]  # R of them, in encoder frames
    max_symbols: int  # tokens at one frame before the decoder moves on by itself

    @property
    def head_width(self) -> int:
        """D / H."""
        return self.width // self.num_heads

    @property
    def head_rows(self) -> int:
        """V+1+R: logits of the joint."""
        return self.vocabulary_size + 1 + len(self.durations)

    @property
    def subsampled_width(self) -> int:
        """C * F/8: what one frame of the subsampling has before its linear layer."""
        return self.subsampling_channels * (self.num_mels // SUBSAMPLING_FACTOR)


def from_hugging_face(values: Mapping[str, Any], where: str) -> ParakeetConfig:
    """The sizes in a parsed config.json; `where` names it in errors. Raises ModelFileError."""
    top = Fields(values, where)
    top.require("model_type", MODEL_TYPE)
    encoder = top.section("encoder_config")
    top.require("hidden_act", "relu")
    _require_known_encoder(encoder)
    vocabulary_size = top.integer("vocab_size", 2, MAX_VOCABULARY) - 1
    config = ParakeetConfig(
        num_mels=encoder.integer("num_mel_bins", NUM_MELS, NUM_MELS),
        width=encoder.integer("hidden_size", 2, MAX_WIDTH),
        num_layers=encoder.integer("num_hidden_layers", 1, MAX_LAYERS),
        num_heads=encoder.integer("num_attention_heads", 1, MAX_WIDTH),
        ffn_width=encoder.integer("intermediate_size", 1, MAX_WIDTH),
        conv_kernel=encoder.integer("conv_kernel_size", 1, MAX_KERNEL),
        subsampling_channels=encoder.integer("subsampling_conv_channels", 1, MAX_WIDTH),
        vocabulary_size=vocabulary_size,
        blank_id=top.integer("blank_token_id", vocabulary_size, vocabulary_size),
        decoder_width=top.integer("decoder_hidden_size", 1, MAX_WIDTH),
        decoder_layers=top.integer("num_decoder_layers", 1, MAX_LAYERS),
        durations=top.integers("durations", 0, MAX_DURATION, MAX_DURATIONS),
        max_symbols=top.integer("max_symbols_per_step", 1, MAX_SYMBOLS),
    )
    return checked(config, where)


def _require_known_encoder(encoder: Fields) -> None:
    encoder.require("hidden_act", "silu")
    for name in ("attention_bias", "convolution_bias", "scale_input"):
        encoder.require(name, False)
    encoder.require("subsampling_factor", SUBSAMPLING_FACTOR)
    encoder.require("subsampling_conv_kernel_size", 3)
    encoder.require("subsampling_conv_stride", 2)
    num_heads = encoder.integer("num_attention_heads", 1, MAX_WIDTH)
    encoder.allow("num_key_value_heads", num_heads, None)


def checked(config: ParakeetConfig, where: str) -> ParakeetConfig:
    """The same config. Raises ModelFileError where its sizes do not fit each other."""
    if config.width % config.num_heads or config.width % 2:
        raise ModelFileError(
            f"{where}: a width of {config.width} can not be shared by {config.num_heads} heads"
        )
    if config.conv_kernel % 2 == 0:
        raise ModelFileError(f"{where}: the convolution kernel {config.conv_kernel} is not odd")
    if len(set(config.durations)) != len(config.durations) or max(config.durations) == 0:
        raise ModelFileError(f"{where}: durations {list(config.durations)} can not be decoded with")
    return config


def expected_shapes(config: ParakeetConfig) -> Shapes:
    """Every tensor that a checkpoint of these sizes has, by its canonical name."""
    shapes = _subsampling_shapes(config)
    for layer in range(config.num_layers):
        shapes |= _layer_shapes(config, f"encoder.layers.{layer}.")
    return shapes | _decoder_shapes(config)


def _subsampling_shapes(config: ParakeetConfig) -> Shapes:
    channels = config.subsampling_channels
    kernels = {
        0: (channels, 1, 3, 3),
        2: (channels, 1, 3, 3),
        3: (channels, channels, 1, 1),
        5: (channels, 1, 3, 3),
        6: (channels, channels, 1, 1),
    }
    shapes: Shapes = {}
    for number, kernel in kernels.items():
        shapes[f"encoder.subsampling.layers.{number}.weight"] = kernel
        shapes[f"encoder.subsampling.layers.{number}.bias"] = (channels,)
    shapes["encoder.subsampling.linear.weight"] = (config.width, config.subsampled_width)
    shapes["encoder.subsampling.linear.bias"] = (config.width,)
    return shapes


def _layer_shapes(config: ParakeetConfig, prefix: str) -> Shapes:
    width, ffn_width = config.width, config.ffn_width
    shapes: Shapes = {}
    for number in (1, 2):
        shapes[f"feed_forward{number}.linear1.weight"] = (ffn_width, width)
        shapes[f"feed_forward{number}.linear2.weight"] = (width, ffn_width)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "relative_k_proj"):
        shapes[f"self_attn.{name}.weight"] = (width, width)
    for name in ("bias_u", "bias_v"):
        shapes[f"self_attn.{name}"] = (config.num_heads, config.head_width)
    shapes["conv.pointwise_conv1.weight"] = (2 * width, width, 1)
    shapes["conv.depthwise_conv.weight"] = (width, 1, config.conv_kernel)
    shapes["conv.pointwise_conv2.weight"] = (width, width, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"conv.norm.{name}"] = (width,)
    for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
        shapes[f"norm_{norm}.weight"] = (width,)
        shapes[f"norm_{norm}.bias"] = (width,)
    return {prefix + name: shape for name, shape in shapes.items()}


def _decoder_shapes(config: ParakeetConfig) -> Shapes:
    width = config.decoder_width
    shapes: Shapes = {
        "encoder_projector.weight": (width, config.width),
        "encoder_projector.bias": (width,),
        "decoder.embedding.weight": (config.vocabulary_size + 1, width),
        "decoder.decoder_projector.weight": (width, width),
        "decoder.decoder_projector.bias": (width,),
        "joint.head.weight": (config.head_rows, width),
        "joint.head.bias": (config.head_rows,),
    }
    for layer in range(config.decoder_layers):
        for kind in ("ih", "hh"):
            shapes[f"decoder.lstm.weight_{kind}_l{layer}"] = (4 * width, width)
            shapes[f"decoder.lstm.bias_{kind}_l{layer}"] = (4 * width,)
    return shapes
