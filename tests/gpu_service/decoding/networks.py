"""Decoder weights for tests: random ones, ones that obey a script, and the golden checkpoint's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from gpu_service.decoding.tdt_weights import DecoderWeights, LstmLayer

GOLDEN = Path(__file__).parents[2] / "fixtures" / "parakeet"
DURATIONS = (0, 1, 2, 3, 4)

Array = NDArray[np.float32]


def random_weights(
    seed: int,
    *,
    num_tokens: int = 30,
    width: int = 16,
    num_layers: int = 2,
    max_symbols: int = 3,
) -> DecoderWeights:
    """A network that says tokens and blanks, uses every duration and runs into the guard."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> Array:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    unit = width**-0.5
    num_labels = num_tokens + 1
    head_bias = normal(num_labels + len(DURATIONS), scale=0.5)
    head_bias[num_tokens] += 3.0
    return DecoderWeights(
        embedding=normal(num_labels, width, scale=1.0),
        lstm=tuple(
            LstmLayer(
                normal(4 * width, width, scale=unit),
                normal(4 * width, width, scale=unit),
                normal(4 * width, scale=0.1),
            )
            for _ in range(num_layers)
        ),
        projector_weight=normal(width, width, scale=2 * unit),
        projector_bias=normal(width, scale=0.1),
        head_weight=normal(num_labels + len(DURATIONS), width, scale=3 * unit),
        head_bias=head_bias,
        blank_id=num_tokens,
        durations=DURATIONS,
        max_symbols=max_symbols,
    )


def random_frames(seed: int, num_frames: int, width: int = 16) -> Array:
    return np.random.default_rng(seed).standard_normal((num_frames, width)).astype(np.float32)


def scripted_weights(
    num_tokens: int, durations: tuple[int, ...] = DURATIONS, max_symbols: int = 3
) -> DecoderWeights:
    """A network whose logits are the frame itself (negative ones count as 0): J = V+1+R."""
    width = num_tokens + 1 + len(durations)
    inner = random_weights(1, num_tokens=num_tokens, width=width)
    return DecoderWeights(
        embedding=inner.embedding,
        lstm=inner.lstm,
        projector_weight=np.zeros((width, width), np.float32),
        projector_bias=np.zeros(width, np.float32),
        head_weight=np.eye(width, dtype=np.float32),
        head_bias=np.zeros(width, np.float32),
        blank_id=num_tokens,
        durations=durations,
        max_symbols=max_symbols,
    )


def scripted_frame(weights: DecoderWeights, labels: dict[int, float], duration: int) -> Array:
    """A frame that gives these logits to labels and prefers this duration."""
    frame = np.zeros(weights.width, np.float32)
    for label, logit in labels.items():
        frame[label] = logit
    frame[weights.blank_id + 1 + weights.durations.index(duration)] = 1.0
    return frame


def golden_weights() -> DecoderWeights:
    """The decoder of the golden files' checkpoint, straight from its file."""
    tensors = load_file(GOLDEN / "tiny" / "model.safetensors")
    layers = tuple(
        LstmLayer(
            tensors[f"decoder.lstm.weight_ih_l{n}"],
            tensors[f"decoder.lstm.weight_hh_l{n}"],
            tensors[f"decoder.lstm.bias_ih_l{n}"] + tensors[f"decoder.lstm.bias_hh_l{n}"],
        )
        for n in range(2)
    )
    return DecoderWeights(
        embedding=tensors["decoder.embedding.weight"],
        lstm=layers,
        projector_weight=tensors["decoder.decoder_projector.weight"],
        projector_bias=tensors["decoder.decoder_projector.bias"],
        head_weight=tensors["joint.head.weight"],
        head_bias=tensors["joint.head.bias"],
        blank_id=64,
        durations=DURATIONS,
        max_symbols=10,
    )
