"""NeMo's names become Hugging Face's, one to one."""

from __future__ import annotations

import pytest

from gpu_service.weights.nemo_names import canonical_name
from gpu_service.weights.parakeet_config import expected_shapes

from .checkpoints import config, nemo_name


def test_every_tensor_of_the_architecture_is_renamed() -> None:
    for name in expected_shapes(config()):
        assert canonical_name(nemo_name(name)) == name


@pytest.mark.parametrize(
    ("nemo", "canonical"),
    [
        ("encoder.pre_encode.conv.6.bias", "encoder.subsampling.layers.6.bias"),
        ("encoder.pre_encode.out.weight", "encoder.subsampling.linear.weight"),
        (
            "encoder.layers.23.conv.batch_norm.running_var",
            "encoder.layers.23.conv.norm.running_var",
        ),
        (
            "encoder.layers.0.self_attn.linear_pos.weight",
            "encoder.layers.0.self_attn.relative_k_proj.weight",
        ),
        ("encoder.layers.1.self_attn.pos_bias_u", "encoder.layers.1.self_attn.bias_u"),
        ("decoder.prediction.dec_rnn.lstm.weight_hh_l1", "decoder.lstm.weight_hh_l1"),
        ("joint.enc.bias", "encoder_projector.bias"),
        ("joint.pred.weight", "decoder.decoder_projector.weight"),
        ("joint.joint_net.2.bias", "joint.head.bias"),
    ],
)
def test_the_names_of_the_published_model(nemo: str, canonical: str) -> None:
    assert canonical_name(nemo) == canonical


def test_canonical_names_stay() -> None:
    for name in expected_shapes(config()):
        assert canonical_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["loss._loss.x", "spec_augmentation.x", "joint._wer.x", "ctc_decoder.decoder_layers.0.bias"],
)
def test_what_only_training_needs_is_left_out(name: str) -> None:
    assert canonical_name(name) is None
