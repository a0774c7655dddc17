"""What is said about a model: pairs of a name and a text, in the order they are shown.

Called by models_command.py, which makes tables of them. Knows no terminal.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter

from .cpu.ct2_weights import Ct2Weights
from .cpu.model_files import ModelFiles
from .cpu.whisper_graph import encoder_shape
from .weights.parakeet_checkpoint import ParakeetCheckpoint
from .weights.parakeet_config import SUBSAMPLING_FACTOR, ParakeetConfig
from .weights.whisper_checkpoint import WhisperCheckpoint

Facts = list[tuple[str, str]]
Row = tuple[str, str, str, str, str]  # model, family, parameters, size, from
FRAME_MS = 10 * SUBSAMPLING_FACTOR
TYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def describe_parakeet(checkpoint: ParakeetCheckpoint) -> Facts:
    """Everything `inspect` shows of a Parakeet-TDT checkpoint."""
    config, source = checkpoint.config, checkpoint.source
    return [
        ("model", checkpoint.model_id),
        ("family", "Parakeet-TDT (FastConformer, token-and-duration transducer)"),
        ("found as", f"{source.kind}, {source.path}"),
        ("parameters", f"{checkpoint.num_parameters / 1e6:,.1f} M"),
        ("stored as", _types(checkpoint)),
        ("size", size_text(source.num_bytes)),
        ("features", f"{config.num_mels} mel bands, {FRAME_MS} ms a frame"),
        ("encoder", _encoder(config)),
        ("decoder", f"LSTM {config.decoder_layers} x {config.decoder_width}"),
        ("vocabulary", f"{config.vocabulary_size} tokens and a blank"),
        ("durations", f"{', '.join(map(str, config.durations))} frames"),
        ("tokenizer", _tokenizer(checkpoint)),
        ("config sha256", source.config_sha256),
    ]


def describe_whisper(files: ModelFiles) -> Facts:
    """Everything `inspect` shows of a CTranslate2 folder."""
    weights = Ct2Weights(files.weights)
    shape = encoder_shape(weights)
    parts = (files.weights, files.config, files.tokenizer)
    numbers = [math.prod(weights.shape(name)) for name in weights.names if "/" in name]
    return [
        ("model", files.model_id),
        ("family", "Whisper (encoder and decoder)"),
        ("found as", f"CTranslate2 folder, {files.folder}"),
        ("parameters", f"{sum(numbers) / 1e6:,.1f} M"),
        ("size", size_text(sum(part.stat().st_size for part in parts))),
        ("features", f"{shape.num_mels} mel bands"),
        ("encoder", f"{shape.num_layers} layers, {shape.num_heads} heads"),
        ("tokenizer", f"yes, from {files.tokenizer.name}"),
        ("config sha256", hashlib.sha256(files.config.read_bytes()).hexdigest()),
    ]


def describe_whisper_checkpoint(checkpoint: WhisperCheckpoint) -> Facts:
    """Everything `inspect` shows of a Whisper checkpoint of any other form."""
    config, source, vocabulary = checkpoint.config, checkpoint.source, checkpoint.vocabulary
    num_languages = len(vocabulary.languages)
    return [
        ("model", checkpoint.model_id),
        ("family", "Whisper (encoder and decoder)"),
        ("found as", f"{source.kind}, {source.path}"),
        ("parameters", f"{checkpoint.num_parameters / 1e6:,.1f} M"),
        ("size", size_text(source.num_bytes)),
        ("features", f"{config.num_mels} mel bands"),
        ("encoder", f"{config.encoder_layers} layers of {config.width}, {config.num_heads} heads"),
        ("decoder", f"{config.decoder_layers} layers"),
        ("vocabulary", f"{vocabulary.size} tokens"),
        ("languages", str(num_languages) if num_languages else "English only"),
        ("tokenizer", f"yes, {checkpoint.tokenizer.name}"),
        ("config sha256", source.config_sha256),
    ]


def size_text(num_bytes: int) -> str:
    """In the unit that people read: 2.51 GB, 75.5 MB, 12.3 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


def _encoder(config: ParakeetConfig) -> str:
    return (
        f"{config.num_layers} layers of {config.width}, {config.num_heads} heads, "
        f"feed forward {config.ffn_width}, convolution {config.conv_kernel}, "
        f"subsampling {SUBSAMPLING_FACTOR}x with {config.subsampling_channels} channels"
    )


def _types(checkpoint: ParakeetCheckpoint) -> str:
    """The float types of the file, the most common one first."""
    counts: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        counts[tensor.dtype] += tensor.num_elements
    return ", ".join(TYPE_NAMES[dtype] for dtype, _ in counts.most_common())


def _tokenizer(checkpoint: ParakeetCheckpoint) -> str:
    if checkpoint.source.tokenizer is None:
        return "none: words will be shown as numbers of tokens"
    return f"yes, {checkpoint.source.tokenizer}"
