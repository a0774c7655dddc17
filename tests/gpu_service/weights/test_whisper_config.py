"""Sizes of every Whisper model, from configurations as transformers writes them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gpu_service.errors import ModelFileError
from gpu_service.weights.whisper_config import (
    WhisperConfig,
    checked,
    expected_shapes,
    from_hugging_face,
)
from tests.fixtures.whisper.random_checkpoint import config_json, sizes

# num_mels, width, heads, ffn, encoder layers, decoder layers, vocabulary -> parameters.
# The counts of large-v3, turbo and tiny.en are those of transformers' models.
MODELS = {
    "tiny.en": ((80, 384, 6, 1536, 4, 4, 51864), 37_760_256),
    "tiny": ((80, 384, 6, 1536, 4, 4, 51865), 37_760_640),
    "base": ((80, 512, 8, 2048, 6, 6, 51865), 72_593_920),
    "small": ((80, 768, 12, 3072, 12, 12, 51865), 241_734_912),
    "medium": ((80, 1024, 16, 4096, 24, 24, 51865), 763_857_920),
    "large-v2": ((80, 1280, 20, 5120, 32, 32, 51865), 1_543_304_960),
    "large-v3": ((128, 1280, 20, 5120, 32, 32, 51866), 1_543_490_560),
    "turbo": ((128, 1280, 20, 5120, 32, 4, 51866), 808_878_080),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_number_of_parameters(name: str) -> None:
    values, num_parameters = MODELS[name]
    config = WhisperConfig(*values, text_positions=448)
    assert from_hugging_face(config_json(config), "config.json") == config
    assert sum(math.prod(shape) for shape in expected_shapes(config).values()) == num_parameters
    assert config.head_width == 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "bert"),
        ("activation_function", "relu"),
        ("scale_embedding", True),
        ("tie_word_embeddings", False),
        ("max_source_positions", 3000),
        ("decoder_attention_heads", 4),
        ("decoder_ffn_dim", 8),
        ("encoder_layers", 0),
        ("num_mel_bins", 64),
        ("d_model", 129),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(field: str, value: Any) -> None:
    values = {**config_json(sizes()), field: value}
    with pytest.raises(ModelFileError, match=r"config\.json"):
        from_hugging_face(values, "config.json")


def test_sizes_that_fit_are_returned_as_they_are() -> None:
    assert checked(sizes(), "x") == sizes()
