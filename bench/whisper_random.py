"""Random Whisper checkpoints of the true sizes, without a file of weights until one is asked for.

Every tensor is a piece of one block of normal numbers, from a place of its own, scaled so that
activations keep variances near one: what is said is nonsense, and computing it costs what the true
model costs. The vocabulary has the true one's order and sizes. bench/whisper_gpu.py calls it.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.weights.model_parts import ModelSource
from gpu_service.weights.whisper_checkpoint import TOKENIZER, Tensor, WhisperCheckpoint
from gpu_service.weights.whisper_config import WhisperConfig, expected_shapes
from gpu_service.weights.whisper_vocabulary import read_vocabulary

BLOCK = 1 << 24
GAIN = 1.0  # of a matrix's rows, over the square root of their length
NUM_TEXT = 50_257
NUM_LANGUAGES = 100
NUM_TIMES = 1_501

CONFIGS = {
    "large-v3": WhisperConfig(128, 1280, 20, 5120, 32, 32, 51_866, 448),
    "turbo": WhisperConfig(128, 1280, 20, 5120, 32, 4, 51_866, 448),
    "smoke": WhisperConfig(128, 128, 2, 256, 2, 2, 51_866, 448),  # for tests
}
# Of the true models (generation_config.json). The smoke test's is its own.
ALIGNMENT_HEADS = {
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",  # layer.head
    "turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
    "smoke": "1.0 1.1",
}


@functools.cache
def _block() -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(BLOCK, np.float32)


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """See Tensor (whisper_checkpoint.py)."""

    name: str
    shape: tuple[int, ...]

    def to_float32(self) -> NDArray[np.float32]:
        """The same at each call."""
        if self.name == "encoder.embed_positions.weight":
            return sinusoids(*self.shape)
        size = math.prod(self.shape)
        start = zlib.crc32(self.name.encode()) % BLOCK
        values = np.resize(
            np.roll(_block(), -start) if size > BLOCK else _turned(start, size), size
        )
        return np.asarray(self._scaled(values.reshape(self.shape)), np.float32)

    def _scaled(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if "embed" in self.name:
            return values * np.float32(0.2)
        if len(self.shape) >= 2:
            return values * np.float32(GAIN / math.sqrt(math.prod(self.shape[1:])))
        is_scale = "norm" in self.name and self.name.endswith("weight")
        return values * np.float32(0.02) + np.float32(1.0 if is_scale else 0.0)


def _turned(start: int, size: int) -> NDArray[np.float32]:
    """`size` numbers of the block from a place on, over its end."""
    block = _block()
    first = block[start : start + size]
    return np.concatenate([first, block[: size - len(first)]])


def sinusoids(length: int, channels: int) -> NDArray[np.float32]:
    """Whisper's table: all sines, then all cosines."""
    step = np.log(10_000.0) / (channels // 2 - 1)
    angle = np.arange(length)[:, None] * np.exp(-step * np.arange(channels // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def random_checkpoint(name: str, folder: Path) -> WhisperCheckpoint:
    """Of one of CONFIGS; its tokenizer is written to `folder`."""
    config = CONFIGS[name]
    tokenizer = tokenizer_json()
    (folder / TOKENIZER).write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text("{}")  # which WhisperTokens looks for
    settings: dict[str, Any] = {
        "is_multilingual": True,
        "begin_suppress_tokens": [220, NUM_TEXT],
        "alignment_heads": [
            [int(number) for number in head.split(".")] for head in ALIGNMENT_HEADS[name].split()
        ],
    }
    tensors: Mapping[str, Tensor] = {
        tensor: RandomTensor(tensor, shape) for tensor, shape in expected_shapes(config).items()
    }
    return WhisperCheckpoint(
        model_id=f"{name} (random weights)",
        config=config,
        vocabulary=read_vocabulary(tokenizer, settings, config, name),
        tensors=tensors,
        tokenizer=folder / TOKENIZER,
        source=ModelSource("random", folder, (), 0, "", TOKENIZER),
    )


def tokenizer_json() -> dict[str, Any]:
    """A byte-level BPE without merges: a byte is a token, and all other tokens are names."""
    names = ["endoftext", "startoftranscript", "en"]
    names += [f"l{number:02d}" for number in range(1, NUM_LANGUAGES)]
    names += ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    letters = [chr(code) for code in range(33, 127)] + ["\u0120", "\u010a"]
    vocab = {letter: number for number, letter in enumerate(letters)}
    vocab |= {f"\u0120x{number}": number for number in range(len(letters), NUM_TEXT)}
    return {
        "version": "1.0",
        "added_tokens": [
            {**flags, "id": NUM_TEXT + number, "content": f"<|{name}|>", "special": True}
            for number, name in enumerate(names)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }  # fmt: skip
