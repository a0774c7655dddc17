"""WhisperConfig: the sizes of a Whisper model, and the tensors that follow from them.

`from_hugging_face()` reads them from transformers' config.json, ct2_folder.py off the tensors of
CTranslate2's file. Every size there is fits: tiny to large-v3, turbo with its four decoder layers,
English-only and multilingual vocabularies. What our engines do not compute (another activation,
scaled embeddings, an untied head) is refused here. Pure: parsed configurations in, numbers out.
Names of tensors are transformers', without "model." before them.

Shapes: M mel bands, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelFileError
from .fields import Fields

MODEL_TYPE = "whisper"
WINDOW_POSITIONS = 1500  # of 30 s: the encoder's
MEL_BANDS = (80, 128)  # tiny to large-v2; large-v3 and turbo
CONV_KERNEL = 3

# Far above any model there is; they keep a hostile file from asking for a size that overflows.
MAX_WIDTH = 1 << 14
MAX_LAYERS = 128
MAX_VOCABULARY = 1 << 18
MAX_TEXT_POSITIONS = 1 << 12

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    """Every size of one model."""

    num_mels: int  # M
    width: int  # D, of encoder and decoder
    num_heads: int  # of both
    ffn_width: int  # F, of both
    encoder_layers: int
    decoder_layers: int
    vocabulary_size: int  # V
    text_positions: int  # the longest prompt and text together

    @property
    def head_width(self) -> int:
        """D / heads."""
        return self.width // self.num_heads


def from_hugging_face(values: Mapping[str, Any], where: str) -> WhisperConfig:
    """The sizes in a parsed config.json; `where` names it in errors. Raises ModelFileError."""
    top = Fields(values, where)
    top.require("model_type", MODEL_TYPE)
    top.allow("activation_function", "gelu")
    top.allow("scale_embedding", False)
    top.allow("tie_word_embeddings", True)
    top.require("max_source_positions", WINDOW_POSITIONS)
    num_heads = top.integer("encoder_attention_heads", 1, MAX_WIDTH)
    top.require("decoder_attention_heads", num_heads)
    ffn_width = top.integer("encoder_ffn_dim", 1, MAX_WIDTH)
    top.require("decoder_ffn_dim", ffn_width)
    config = WhisperConfig(
        num_mels=top.integer("num_mel_bins", 1, MAX_WIDTH),
        width=top.integer("d_model", 1, MAX_WIDTH),
        num_heads=num_heads,
        ffn_width=ffn_width,
        encoder_layers=top.integer("encoder_layers", 1, MAX_LAYERS),
        decoder_layers=top.integer("decoder_layers", 1, MAX_LAYERS),
        vocabulary_size=top.integer("vocab_size", 2, MAX_VOCABULARY),
        text_positions=top.integer("max_target_positions", 8, MAX_TEXT_POSITIONS),
    )
    return checked(config, where)


def checked(config: WhisperConfig, where: str) -> WhisperConfig:
    """The same config. Raises ModelFileError where its sizes do not fit each other, or us."""
    if config.width % config.num_heads:
        raise ModelFileError(
            f"{where}: a width of {config.width} can not be shared by {config.num_heads} heads"
        )
    if config.num_mels not in MEL_BANDS:
        known = " or ".join(map(str, MEL_BANDS))
        raise ModelFileError(f"{where}: {config.num_mels} mel bands; Earwire computes {known}")
    return config


def expected_shapes(config: WhisperConfig) -> Shapes:
    """Every tensor that a checkpoint of these sizes has, by its canonical name."""
    width = config.width
    shapes: Shapes = {
        "encoder.conv1.weight": (width, config.num_mels, CONV_KERNEL),
        "encoder.conv1.bias": (width,),
        "encoder.conv2.weight": (width, width, CONV_KERNEL),
        "encoder.conv2.bias": (width,),
        "encoder.embed_positions.weight": (WINDOW_POSITIONS, width),
        "decoder.embed_tokens.weight": (config.vocabulary_size, width),
        "decoder.embed_positions.weight": (config.text_positions, width),
    }
    for side, num_layers in (
        ("encoder", config.encoder_layers),
        ("decoder", config.decoder_layers),
    ):
        shapes |= _norm(f"{side}.layer_norm", width)
        for layer in range(num_layers):
            shapes |= _layer(config, f"{side}.layers.{layer}.", hears=side == "decoder")
    return shapes


def _layer(config: WhisperConfig, prefix: str, *, hears: bool) -> Shapes:
    """One layer; one that hears has attention to the encoder's output too."""
    width, ffn_width = config.width, config.ffn_width
    shapes: Shapes = {}
    for name in ("self_attn", "encoder_attn") if hears else ("self_attn",):
        for part in ("q", "k", "v", "out"):
            shapes[f"{prefix}{name}.{part}_proj.weight"] = (width, width)
            if part != "k":  # softmax does not see what is the same in all keys
                shapes[f"{prefix}{name}.{part}_proj.bias"] = (width,)
        shapes |= _norm(f"{prefix}{name}_layer_norm", width)
    shapes[f"{prefix}fc1.weight"] = (ffn_width, width)
    shapes[f"{prefix}fc1.bias"] = (ffn_width,)
    shapes[f"{prefix}fc2.weight"] = (width, ffn_width)
    shapes[f"{prefix}fc2.bias"] = (width,)
    return shapes | _norm(f"{prefix}final_layer_norm", width)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
