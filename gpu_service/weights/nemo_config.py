"""The sizes of a Parakeet-TDT model from NeMo's model_config.yaml.

NeMo describes many architectures with one class; each setting that leads to another computation
than ours is refused by name. Where NeMo's own default is such a setting, the field has to be there.
Pure: text in, ParakeetConfig and labels out. Called by nemo_file.py.
"""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import ModelFileError
from .fields import Fields
from .parakeet_config import (
    MAX_DURATION,
    MAX_DURATIONS,
    MAX_KERNEL,
    MAX_LAYERS,
    MAX_SYMBOLS,
    MAX_VOCABULARY,
    MAX_WIDTH,
    NUM_MELS,
    SUBSAMPLING_FACTOR,
    ParakeetConfig,
    checked,
)

MAX_YAML_BYTES = 8 << 20  # 8192 labels, three times, are 0.4 MB
DEFAULT_MAX_SYMBOLS = 10  # NeMo's, where the file leaves it open
MAX_EXPANSION = 64


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """safe_load's loader, in C where there is one: 8192 labels take 0.1 s and not 2 s."""

    def flatten_mapping(self, node: object) -> None:
        """No merge keys: a few nested ones expand to more than any memory."""


def parse_yaml(data: bytes, where: str) -> Fields:
    """A YAML mapping of plain values. Raises ModelFileError."""
    if len(data) > MAX_YAML_BYTES:
        raise ModelFileError(f"{where} is larger than {MAX_YAML_BYTES >> 20} MiB")
    try:
        values = yaml.load(data, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{where} is not plain YAML: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise ModelFileError(f"{where} is not a YAML mapping")
    return Fields(values, where)


def from_nemo(top: Fields) -> tuple[ParakeetConfig, tuple[str, ...] | None]:
    """Sizes, and the vocabulary where the file lists it. Raises ModelFileError."""
    encoder, joint = top.section("encoder"), top.section("joint")
    prednet = top.section("decoder").section("prednet")
    _require_known_features(top.section("preprocessor"))
    _require_known_encoder(encoder)
    labels = top.strings("labels", MAX_VOCABULARY) if "labels" in top.values else None
    vocabulary_size = len(labels) if labels else joint.integer("num_classes", 1, MAX_VOCABULARY)
    width = encoder.integer("d_model", 2, MAX_WIDTH)
    decoder_width = prednet.integer("pred_hidden", 1, MAX_WIDTH)
    durations = _durations(top)
    _require_known_joint(joint, decoder_width, len(durations))
    config = ParakeetConfig(
        num_mels=encoder.integer("feat_in", NUM_MELS, NUM_MELS),
        width=width,
        num_layers=encoder.integer("n_layers", 1, MAX_LAYERS),
        num_heads=encoder.integer("n_heads", 1, MAX_WIDTH),
        ffn_width=width * encoder.integer("ff_expansion_factor", 1, MAX_EXPANSION),
        conv_kernel=encoder.integer("conv_kernel_size", 1, MAX_KERNEL),
        subsampling_channels=encoder.integer("subsampling_conv_channels", 1, MAX_WIDTH),
        vocabulary_size=vocabulary_size,
        blank_id=vocabulary_size,
        decoder_width=decoder_width,
        decoder_layers=prednet.integer("pred_rnn_layers", 1, MAX_LAYERS),
        durations=durations,
        max_symbols=_max_symbols(top),
    )
    return checked(config, top.where), labels


def _require_known_features(preprocessor: Fields) -> None:
    preprocessor.require("features", NUM_MELS)
    preprocessor.require("normalize", "per_feature")
    expected: dict[str, tuple[Any, ...]] = {
        "sample_rate": (16_000,),
        "window_size": (0.025,),
        "window_stride": (0.01,),
        "window": ("hann",),
        "n_fft": (512,),
        "log": (True,),
        "frame_splicing": (1,),
        "preemph": (0.97,),
    }
    for name, allowed in expected.items():
        preprocessor.allow(name, *allowed)


def _require_known_encoder(encoder: Fields) -> None:
    encoder.require("subsampling", "dw_striding")
    encoder.require("subsampling_factor", SUBSAMPLING_FACTOR)
    encoder.require("self_attention_model", "rel_pos")
    encoder.require("xscaling", False)
    encoder.require("use_bias", False)
    encoder.require("conv_norm_type", "batch_norm")
    kernel = encoder.integer("conv_kernel_size", 1, MAX_KERNEL)
    symmetric = [(kernel - 1) // 2, (kernel - 1) // 2]
    expected: dict[str, tuple[Any, ...]] = {
        "causal_downsampling": (False, None),
        "reduction": (None,),
        "att_context_size": ([-1, -1], None),
        "att_context_style": ("regular", None),
        "untie_biases": (True,),
        "conv_context_size": (None, symmetric),
        "feat_out": (-1, None),
    }
    for name, allowed in expected.items():
        encoder.allow(name, *allowed)


def _require_known_joint(joint: Fields, decoder_width: int, num_durations: int) -> None:
    jointnet = joint.section("jointnet")
    jointnet.require("joint_hidden", decoder_width)
    jointnet.require("activation", "relu")
    joint.require("num_extra_outputs", num_durations)


def _durations(top: Fields) -> tuple[int, ...]:
    decoding = top.section("decoding")
    if "durations" in decoding.values:
        return decoding.integers("durations", 0, MAX_DURATION, MAX_DURATIONS)
    defaults = top.section("model_defaults")
    return defaults.integers("tdt_durations", 0, MAX_DURATION, MAX_DURATIONS)


def _max_symbols(top: Fields) -> int:
    decoding = top.section("decoding")
    if "greedy" not in decoding.values:
        return DEFAULT_MAX_SYMBOLS
    greedy = decoding.section("greedy")
    for name in ("max_symbols", "max_symbols_per_step"):
        if greedy.values.get(name) is not None:
            return greedy.integer(name, 1, MAX_SYMBOLS)
    return DEFAULT_MAX_SYMBOLS


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
