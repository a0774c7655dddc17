"""Small Parakeet checkpoints of random numbers, in every form that users have them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gpu_service.weights.parakeet_config import ParakeetConfig, expected_shapes, from_hugging_face

from . import torch_file

Arrays = dict[str, NDArray[Any]]

CONFIG: dict[str, Any] = {
    "model_type": "parakeet_tdt",
    "vocab_size": 7,
    "blank_token_id": 6,
    "decoder_hidden_size": 8,
    "num_decoder_layers": 2,
    "hidden_act": "relu",
    "durations": [0, 1, 2, 3, 4],
    "max_symbols_per_step": 10,
    "encoder_config": {
        "num_mel_bins": 128,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "hidden_act": "silu",
        "attention_bias": False,
        "convolution_bias": False,
        "scale_input": False,
        "conv_kernel_size": 5,
        "subsampling_factor": 8,
        "subsampling_conv_channels": 4,
        "subsampling_conv_kernel_size": 3,
        "subsampling_conv_stride": 2,
    },
}
PIECES = ("<unk>", "\u2581a", "b", "\u2581c", ".", "\u2581")
NEMO_CONFIG: dict[str, Any] = {
    "preprocessor": {
        "sample_rate": 16000,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": 128,
        "n_fft": 512,
        "log": True,
        "frame_splicing": 1,
        "dither": 1e-05,
        "pad_to": 0,
    },
    "encoder": {
        "feat_in": 128,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": 12,
        "use_bias": False,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 4,
        "causal_downsampling": False,
        "reduction": None,
        "ff_expansion_factor": 2,
        "self_attention_model": "rel_pos",
        "n_heads": 3,
        "att_context_size": [-1, -1],
        "att_context_style": "regular",
        "xscaling": False,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 5,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
    },
    "decoder": {"blank_as_pad": True, "prednet": {"pred_hidden": 8, "pred_rnn_layers": 2}},
    "joint": {
        "num_classes": 6,
        "num_extra_outputs": 5,
        "jointnet": {"joint_hidden": 8, "activation": "relu"},
    },
    "decoding": {
        "strategy": "greedy_batch",
        "model_type": "tdt",
        "durations": [0, 1, 2, 3, 4],
        "greedy": {"max_symbols": 10},
    },
}


def copied(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration that may be changed."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def config(**changes: Any) -> ParakeetConfig:
    """The sizes of CONFIG, top-level fields changed."""
    return from_hugging_face({**copied(CONFIG), **changes}, "config.json")


def random_arrays(sizes: ParakeetConfig, seed: int = 0) -> Arrays:
    """Every tensor of a model, float32, with the counters that torch adds."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in expected_shapes(sizes).items():
        arrays[name] = generator.standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            arrays[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32)
    for layer in range(sizes.num_layers):
        arrays[f"encoder.layers.{layer}.conv.norm.num_batches_tracked"] = np.array(3, np.int64)
    return arrays


def write_folder(
    folder: Path, arrays: Arrays | None = None, values: dict[str, Any] | None = None
) -> Path:
    """A folder as transformers writes it, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if values is None else values))
    save_file(random_arrays(config()) if arrays is None else arrays, folder / "model.safetensors")
    return folder


def write_shards(folder: Path, arrays: Arrays) -> Path:
    """The same in two files with an index."""
    write_folder(folder, arrays)
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(arrays), {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"model-{index + 1:05d}-of-00002.safetensors"
        save_file({name: arrays[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def nemo_name(name: str) -> str:
    """A canonical name as NeMo has it."""
    for pattern, replacement in (
        (r"^encoder\.subsampling\.layers\.", "encoder.pre_encode.conv."),
        (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
        (r"\.conv\.norm\.", ".conv.batch_norm."),
        (r"\.relative_k_proj\.", ".linear_pos."),
        (r"\.o_proj\.", ".linear_out."),
        (r"\.([qkv])_proj\.", r".linear_\1."),
        (r"\.bias_([uv])$", r".pos_bias_\1"),
        (r"^decoder\.embedding\.", "decoder.prediction.embed."),
        (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
        (r"^decoder\.decoder_projector\.", "joint.pred."),
        (r"^encoder_projector\.", "joint.enc."),
        (r"^joint\.head\.", "joint.joint_net.2."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def nemo_arrays(arrays: Arrays) -> Arrays:
    """The same model with NeMo's names."""
    return {nemo_name(name): array for name, array in arrays.items()}


def nemo_config(**changes: Any) -> dict[str, Any]:
    """NEMO_CONFIG with ffn_width = 24; sections changed by name."""
    return {**copied(NEMO_CONFIG), **changes}


def nemo_sizes() -> ParakeetConfig:
    """The sizes of NEMO_CONFIG."""
    values = copied(CONFIG)
    values["encoder_config"]["intermediate_size"] = 24
    return from_hugging_face(values, "config.json")


def nemo_members(arrays: Arrays | None = None, **more: bytes) -> dict[str, bytes]:
    """The members of a .nemo file."""
    arrays = random_arrays(nemo_sizes()) if arrays is None else arrays
    return {
        "model_config.yaml": yaml.safe_dump(NEMO_CONFIG).encode(),
        "model_weights.ckpt": torch_file.checkpoint(nemo_arrays(arrays)),
        **more,
    }


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar file with names as NeMo's `tar.add(".")` makes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mtime = len(data), 1_700_000_000.5  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sentencepiece(pieces: tuple[str, ...]) -> bytes:
    """A SentencePiece model with scores, types and a trainer section, as its protobuf has them."""
    data = b""
    for piece in pieces:
        text = piece.encode()
        message = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf" + b"\x18\x01"
        data += b"\x0a" + bytes([len(message)]) + message
    return data + b"\x12\x04\x08\x01\x18\x02" + b"\x19" + bytes(8)
