"""The sizes in a config.json, and which models are refused for what."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_service.errors import ModelFileError
from gpu_service.weights.parakeet_config import expected_shapes, from_hugging_face

from .checkpoints import CONFIG, config, copied


def test_the_sizes_are_read() -> None:
    read = config()
    assert (read.width, read.num_layers, read.num_heads, read.ffn_width) == (12, 2, 3, 20)
    assert (read.conv_kernel, read.subsampling_channels, read.num_mels) == (5, 4, 128)
    assert (read.vocabulary_size, read.blank_id) == (6, 6)
    assert (read.decoder_width, read.decoder_layers) == (8, 2)
    assert (read.durations, read.max_symbols) == ((0, 1, 2, 3, 4), 10)
    assert (read.head_width, read.head_rows, read.subsampled_width) == (4, 12, 64)


def test_the_shapes_of_the_published_model_follow_from_its_sizes() -> None:
    values = copied(CONFIG)
    values |= {"vocab_size": 8193, "blank_token_id": 8192, "decoder_hidden_size": 640}
    values["encoder_config"] |= {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "intermediate_size": 4096,
        "conv_kernel_size": 9,
        "subsampling_conv_channels": 256,
    }
    shapes = expected_shapes(from_hugging_face(values, "config.json"))
    assert len(shapes) == 723 - 24  # without the counters of 24 batch norms
    assert shapes["encoder.subsampling.linear.weight"] == (1024, 4096)
    assert shapes["encoder.layers.23.self_attn.bias_u"] == (8, 128)
    assert shapes["encoder.layers.0.conv.depthwise_conv.weight"] == (1024, 1, 9)
    assert shapes["decoder.lstm.weight_ih_l1"] == (2560, 640)
    assert shapes["joint.head.weight"] == (8198, 640)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "parakeet_ctc"),
        ("hidden_act", "tanh"),
        ("vocab_size", "7"),
        ("vocab_size", 1),
        ("vocab_size", 1 << 40),
        ("blank_token_id", 0),
        ("decoder_hidden_size", 0),
        ("num_decoder_layers", None),
        ("durations", []),
        ("durations", [0]),
        ("durations", [1, 1]),
        ("durations", [0, -1]),
        ("durations", [0, 1.5]),
        ("durations", "01"),
        ("max_symbols_per_step", 0),
        ("encoder_config", None),
        ("encoder_config", [1]),
    ],
)
def test_a_mistyped_or_foreign_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=r"^config.json: "):
        config(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_mel_bins", 80),
        ("hidden_size", 11),
        ("hidden_size", 1 << 30),
        ("num_attention_heads", 5),
        ("num_attention_heads", True),
        ("num_key_value_heads", 1),
        ("conv_kernel_size", 4),
        ("hidden_act", "relu"),
        ("attention_bias", True),
        ("attention_bias", 0),
        ("convolution_bias", True),
        ("scale_input", True),
        ("subsampling_factor", 4),
        ("subsampling_conv_kernel_size", 5),
        ("subsampling_conv_stride", 1),
    ],
)
def test_an_encoder_that_computes_otherwise_is_refused(field: str, value: Any) -> None:
    encoder = {**copied(CONFIG)["encoder_config"], field: value}
    with pytest.raises(ModelFileError, match=r"^config.json: "):
        config(encoder_config=encoder)


def test_every_field_that_matters_has_to_be_there() -> None:
    for name in CONFIG:
        values = {key: value for key, value in CONFIG.items() if key != name}
        with pytest.raises(ModelFileError, match=f"{name} is missing"):
            from_hugging_face(values, "config.json")
    for name in CONFIG["encoder_config"]:
        values = copied(CONFIG)
        del values["encoder_config"][name]
        with pytest.raises(ModelFileError, match=f"encoder_config.{name} is missing"):
            from_hugging_face(values, "config.json")
