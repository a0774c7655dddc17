"""From NeMo's names of tensors to the canonical ones, which are Hugging Face's.

The correspondence is that of transformers' converter; tensors of training (losses, augmentation,
counters, other heads) are left out. Pure: a name in, a name out. Called by nemo_file.py.
"""

from __future__ import annotations

import re

# In order; each is applied to what the ones before it made.
REPLACEMENTS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^encoder\.pre_encode\.conv\.", "encoder.subsampling.layers."),
        (r"^encoder\.pre_encode\.out\.", "encoder.subsampling.linear."),
        (r"^(encoder\.layers\.\d+\.conv)\.batch_norm\.", r"\1.norm."),
        (r"^(encoder\.layers\.\d+\.self_attn)\.linear_([qkv])\.", r"\1.\2_proj."),
        (r"^(encoder\.layers\.\d+\.self_attn)\.linear_out\.", r"\1.o_proj."),
        (r"^(encoder\.layers\.\d+\.self_attn)\.linear_pos\.", r"\1.relative_k_proj."),
        (r"^(encoder\.layers\.\d+\.self_attn)\.pos_bias_([uv])$", r"\1.bias_\2"),
        (r"^decoder\.prediction\.embed\.", "decoder.embedding."),
        (r"^decoder\.prediction\.dec_rnn\.lstm\.", "decoder.lstm."),
        (r"^joint\.pred\.", "decoder.decoder_projector."),
        (r"^joint\.enc\.", "encoder_projector."),
        (r"^joint\.joint_net\.2\.", "joint.head."),
    )
)
LEFT_OUT = re.compile(
    r"^(loss|spec_augmentation|joint\._loss|joint\._wer|wer|ctc_decoder|encoder\.pos_enc)\."
)
WINDOW = "preprocessor.featurizer.window"
MEL_BANK = "preprocessor.featurizer.fb"


def canonical_name(name: str) -> str | None:
    """The same tensor's name at Hugging Face; None for one that recognition does not need.

    A name that is canonical already stays as it is.
    """
    if LEFT_OUT.match(name):
        return None
    for pattern, replacement in REPLACEMENTS:
        name = pattern.sub(replacement, name)
    return name
