"""Parakeet's encoder written down as its formulas: float64, raw weights, nothing folded or cached.

A sequence here is any list of rows: each has a position in time, rows that it may attend to, and
neighbours for the convolution. A whole utterance is the plain case. Increments are one long
sequence in which a frame appears once for every step that encodes it: again and again while it is
look-ahead, and once when it is committed. That needs no cache, and is what the cache must equal.

Formulas: NVIDIA NeMo, conformer_encoder.py and subsampling.py. Shapes: T mel rows, F mel bands,
N frames, R rows of a sequence, D width, H heads, E = D / H, K kernel, C channels, J output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_service.weights.parakeet_checkpoint import ParakeetCheckpoint

Array = NDArray[np.float64]
NOBODY = -1  # a neighbour that is not there: zeros


@dataclass(frozen=True, slots=True)
class Step:
    """One increment: mel rows from the first frame that is not committed up to `end_row`."""

    num_commit: int  # frames
    end_row: int


@dataclass(frozen=True, slots=True)
class RowSequence:
    """R rows that go through the layers together."""

    frames: Array  # (R, D) out of the subsampling
    positions: NDArray[np.int64]  # (R,) in time
    allowed: NDArray[np.bool_]  # (R, R): row i attends to row j
    neighbours: NDArray[np.int64]  # (R, K) rows for the convolution, NOBODY for zeros


@dataclass(frozen=True, slots=True)
class Oracle:
    """One model."""

    checkpoint: ParakeetCheckpoint

    def encode(self, features: NDArray[np.float32]) -> Array:
        """A whole utterance (T, F) -> (N, J)."""
        return self.encode_steps(features, [Step(0, len(features))], 0)[0]

    def encode_steps(
        self, features: NDArray[np.float32], steps: Sequence[Step], left_frames: int
    ) -> list[Array]:
        """What each step answers, (N, J): its committed frames and its look-ahead."""
        rows = _rows_of(steps)
        frames = {step.end_row: self.subsample(features[: step.end_row]) for step in steps}
        sequence = RowSequence(
            np.stack([frames[steps[step].end_row][frame] for step, frame in rows]),
            np.array([frame for _, frame in rows]),
            _allowed(rows, steps, left_frames),
            _neighbours(rows, steps, self.checkpoint.config.conv_kernel),
        )
        projected = self.project(self.run(sequence))
        owners = np.array([step for step, _ in rows])
        return [projected[owners == step] for step in range(len(steps))]

    def weight(self, name: str) -> Array:
        return self.checkpoint.tensor(name).astype(np.float64)

    def subsample(self, features: NDArray[np.float32]) -> Array:
        """(T, F) -> (N, D)."""
        x = features[None].astype(np.float64)  # (channels, time, frequency)
        prefix = "encoder.subsampling.layers"
        x = np.maximum(self.halve(x, f"{prefix}.0"), 0.0)
        for depthwise, pointwise in ((2, 3), (5, 6)):
            x = self.halve(x, f"{prefix}.{depthwise}")
            mix = self.weight(f"{prefix}.{pointwise}.weight")[:, :, 0, 0]
            bias = self.weight(f"{prefix}.{pointwise}.bias")[:, None, None]
            x = np.maximum(np.einsum("oi,itf->otf", mix, x) + bias, 0.0)
        flat = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
        linear = "encoder.subsampling.linear"
        return flat @ self.weight(f"{linear}.weight").T + self.weight(f"{linear}.bias")

    def halve(self, x: Array, name: str) -> Array:
        """3 x 3, stride 2, zeros around; from one channel to C, or each channel alone."""
        kernel = self.weight(f"{name}.weight")[:, 0]  # (C, 3, 3)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        num_times, num_bands = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
        out = np.zeros((len(kernel), num_times, num_bands))
        for i in range(3):
            for j in range(3):
                taken = padded[:, i : i + 2 * num_times : 2, j : j + 2 * num_bands : 2]
                out += kernel[:, i, j, None, None] * taken[:, :num_times, :num_bands]
        return out + self.weight(f"{name}.bias")[:, None, None]

    def run(self, sequence: RowSequence) -> Array:
        """All layers -> (R, D)."""
        x = sequence.frames
        for layer in range(self.checkpoint.config.num_layers):
            name = f"encoder.layers.{layer}"
            x = x + 0.5 * self.feed_forward(self.norm(x, f"{name}.norm_feed_forward1"), name, 1)
            x = x + self.attention(self.norm(x, f"{name}.norm_self_att"), name, sequence)
            x = x + self.convolution(self.norm(x, f"{name}.norm_conv"), name, sequence)
            x = x + 0.5 * self.feed_forward(self.norm(x, f"{name}.norm_feed_forward2"), name, 2)
            x = self.norm(x, f"{name}.norm_out")
        return x

    def project(self, x: Array) -> Array:
        return x @ self.weight("encoder_projector.weight").T + self.weight("encoder_projector.bias")

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        return scaled * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def feed_forward(self, x: Array, name: str, number: int) -> Array:
        name = f"{name}.feed_forward{number}"
        hidden = _silu(x @ self.weight(f"{name}.linear1.weight").T)
        return hidden @ self.weight(f"{name}.linear2.weight").T

    def attention(self, x: Array, name: str, sequence: RowSequence) -> Array:
        name, num_rows = f"{name}.self_attn", len(x)
        num_heads = self.checkpoint.config.num_heads

        def heads(values: Array) -> Array:  # (n, D) -> (H, n, E)
            return values.reshape(len(values), num_heads, -1).transpose(1, 0, 2)

        query, key, value = (
            heads(x @ self.weight(f"{name}.{kind}_proj.weight").T) for kind in ("q", "k", "v")
        )
        distance = sequence.positions[:, None] - sequence.positions[None, :]
        embedded = _position_embedding(np.arange(distance.min(), distance.max() + 1), x.shape[1])
        by_distance = heads(embedded @ self.weight(f"{name}.relative_k_proj.weight").T)
        u, v = (self.weight(f"{name}.bias_{kind}")[:, None] for kind in "uv")
        content = (query + u) @ key.transpose(0, 2, 1)
        position = (query + v) @ by_distance.transpose(0, 2, 1)  # (H, R, distances)
        position = position[:, np.arange(num_rows)[:, None], distance - distance.min()]
        scores = (content + position) / np.sqrt(key.shape[2])
        scores = np.where(sequence.allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        heard = (weights @ value).transpose(1, 0, 2).reshape(num_rows, -1)
        return heard @ self.weight(f"{name}.o_proj.weight").T

    def convolution(self, x: Array, name: str, sequence: RowSequence) -> Array:
        name = f"{name}.conv"
        both = x @ self.weight(f"{name}.pointwise_conv1.weight")[:, :, 0].T
        half = both.shape[1] // 2
        gated = both[:, :half] * _sigmoid(both[:, half:])
        gated = np.concatenate([gated, np.zeros((1, half))])  # row NOBODY
        kernel = self.weight(f"{name}.depthwise_conv.weight")[:, 0]  # (D, K)
        hidden = np.einsum("rkd,dk->rd", gated[sequence.neighbours], kernel)
        mean, variance = (self.weight(f"{name}.norm.running_{kind}") for kind in ("mean", "var"))
        hidden = (hidden - mean) / np.sqrt(variance + 1e-5)
        hidden = hidden * self.weight(f"{name}.norm.weight") + self.weight(f"{name}.norm.bias")
        return _silu(hidden) @ self.weight(f"{name}.pointwise_conv2.weight")[:, :, 0].T


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _position_embedding(distances: NDArray[np.int64], width: int) -> Array:
    """(n,) -> (n, D): sine and cosine in turn."""
    out = np.zeros((len(distances), width))
    for i in range(0, width, 2):
        angle = distances / 10_000.0 ** (i / width)
        out[:, i], out[:, i + 1] = np.sin(angle), np.cos(angle)
    return out


def _spans(steps: Sequence[Step]) -> list[tuple[int, int, int]]:
    """For each step: its first frame, the first that it does not commit, and its end."""
    spans, start = [], 0
    for step in steps:
        spans.append((start, start + step.num_commit, -(-step.end_row // 8)))
        start += step.num_commit
    return spans


def _rows_of(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(step, frame) of each row."""
    spans = _spans(steps)
    return [(i, frame) for i, (start, _, end) in enumerate(spans) for frame in range(start, end)]


def _allowed(
    rows: list[tuple[int, int]], steps: Sequence[Step], left_frames: int
) -> NDArray[np.bool_]:
    """Everything in the own step, and the last committed frames before it."""
    spans = _spans(steps)
    allowed = np.zeros((len(rows), len(rows)), bool)
    for i, (step, _) in enumerate(rows):
        start = spans[step][0]
        for j, (other, frame) in enumerate(rows):
            is_committed = other < step and frame < spans[other][1]
            allowed[i, j] = other == step or (is_committed and frame >= start - left_frames)
    return allowed


def _neighbours(
    rows: list[tuple[int, int]], steps: Sequence[Step], kernel: int
) -> NDArray[np.int64]:
    """The own step's rows, committed ones before it, and zeros behind it."""
    spans = _spans(steps)
    index = {row: i for i, row in enumerate(rows)}
    committed = {
        frame: index[step, frame]
        for step, (start, behind, _) in enumerate(spans)
        for frame in range(start, behind)
    }
    out = np.full((len(rows), kernel), NOBODY)
    for i, (step, frame) in enumerate(rows):
        for tap in range(kernel):
            near = frame + tap - kernel // 2
            if near < spans[step][0]:
                out[i, tap] = committed.get(near, NOBODY)
            else:
                out[i, tap] = index.get((step, near), NOBODY)
    return out
