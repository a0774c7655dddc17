"""Parakeet checkpoints of random numbers, in memory, of any sizes.

Variances are kept near one from layer to layer, so that an error of any part shows in the output.
They are loaded by nobody: no file, no tokenizer. The oracle reads the raw tensors, the encoder what
prepare() makes of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu_service.weights.model_parts import ModelSource
from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint
from gpu_service.weights.parakeet_config import ParakeetConfig, expected_shapes
from gpu_service.weights.stored_tensor import StoredTensor, stored_tensor

Array = NDArray[np.float32]

# Unlike the golden checkpoint in everything that can differ: odd sizes, another kernel.
SMALL = ParakeetConfig(
    num_mels=128,
    width=24,
    num_layers=3,
    num_heads=3,
    ffn_width=40,
    conv_kernel=5,
    subsampling_channels=4,
    vocabulary_size=6,
    blank_id=6,
    decoder_width=10,
    decoder_layers=1,
    durations=(0, 1, 2),
    max_symbols=10,
)
FULL = ParakeetConfig(  # Parakeet-TDT 0.6B v3
    num_mels=128,
    width=1024,
    num_layers=24,
    num_heads=8,
    ffn_width=4096,
    conv_kernel=9,
    subsampling_channels=256,
    vocabulary_size=8192,
    blank_id=8192,
    decoder_width=640,
    decoder_layers=2,
    durations=(0, 1, 2, 3, 4),
    max_symbols=10,
)


def random_checkpoint(config: ParakeetConfig, seed: int = 0) -> ParakeetCheckpoint:
    """The same checkpoint for the same arguments."""
    random = np.random.default_rng(seed)
    tensors = {
        name: _stored(_values(random, name, shape))
        for name, shape in expected_shapes(config).items()
    }
    source = ModelSource("random numbers", Path("random"), (), 0, "", None)
    return ParakeetCheckpoint(
        model_id="random",
        config=config,
        vocabulary=None,
        tensors=tensors,
        front_end={},
        source=source,
    )


def random_features(num_rows: int, seed: int = 0) -> Array:
    """(T, F) like normalised log-mel rows: neighbours resemble each other."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((num_rows + 3, 128), np.float32)
    return (noise[:-3] + noise[1:-2] + noise[2:-1] + noise[3:]) / np.float32(2.0)


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    values = random.standard_normal(shape, np.float32)
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if "norm" in name and name.endswith(".weight"):
        return np.float32(1.0) + np.float32(0.2) * values
    if len(shape) == 1 or name.endswith(("bias_u", "bias_v")):
        return np.float32(0.3) * values
    values *= np.float32(np.prod(shape[1:]) ** -0.5)  # in place: 2.4 GB at full size
    return values


def _stored(values: Array) -> StoredTensor:
    return stored_tensor(values.reshape(-1).view(np.uint8), 0, "F32", values.shape)
