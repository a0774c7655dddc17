"""DecoderLayers: the layers of Whisper's decoder over any number of rows, and its head.

Rows are those of one step (whisper_decoder.py), or of a step for each position of prompts
(whisper_prompts.py); what they attend to is the caller's. Knows no token. Shapes: R rows, D width,
F feed forward, V vocabulary; T is the storage type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .device import Device, DeviceArray
from .gemm import Gemms, Product
from .whisper_blocks import WhisperBlocks
from .whisper_weights import DecoderLayer, WhisperDecoderWeights, WhisperEncoderWeights

Attend = Callable[[int, DeviceArray], None]  # layer; its queries, or queries, keys and values


@dataclass(frozen=True, slots=True)
class RowBuffers:
    """What layers work on. heard is what attention writes to."""

    x: DeviceArray  # (R, D) of the residual's dtype
    normed: DeviceArray  # (R, D) T
    hidden: DeviceArray  # (R, widest) T; widest is F or 3 D
    heard: DeviceArray  # (R, D) T

    def first(self, num_rows: int) -> RowBuffers:
        """Their beginnings."""
        return RowBuffers(
            self.x.rows(0, num_rows),
            self.normed.rows(0, num_rows),
            self.hidden.rows(0, num_rows),
            self.heard.rows(0, num_rows),
        )

    @property
    def num_rows(self) -> int:
        """R."""
        return self.x.shape[0]


class DecoderLayers:
    """Bound to a model on a device."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        encoder: WhisperEncoderWeights,
        weights: WhisperDecoderWeights,
    ) -> None:
        """Raises DeviceError."""
        self._gemms, self._weights = gemms, weights
        self._config, self._storage = encoder.config, encoder.storage
        self._blocks = WhisperBlocks(
            device, gemms, encoder.storage, encoder.residual, encoder.defines
        )

    def run(self, rows: RowBuffers, attend: Attend, hear: Attend) -> None:
        """All layers over x: attend() to the text and hear() the audio write rows.heard."""
        for index, layer in enumerate(self._weights.layers):
            self._attend(index, layer, rows, attend)
            self._hear(index, layer, rows, hear)
            self._feed_forward(layer, rows)

    def read_out(self, x: DeviceArray, normed: DeviceArray, logits: DeviceArray) -> None:
        """logits (R, V rounded up) float32 of x (R, D), by way of normed (R, D)."""
        self._blocks.normalise(x, self._weights.norm, normed)
        product = Product(
            x.shape[0], self._config.vocabulary_size, self._config.width,
            ldc=logits.shape[1], dtype=self._storage, out_dtype="float32",
        )  # fmt: skip
        self._gemms.plan(product).run(normed, self._weights.tokens, logits)

    def _attend(self, index: int, layer: DecoderLayer, rows: RowBuffers, attend: Attend) -> None:
        self._blocks.normalise(rows.x, layer.norm_self, rows.normed)
        qkv = rows.hidden.first(rows.num_rows, 3 * self._config.width)
        self._blocks.linear(rows.normed, layer.qkv, qkv)
        attend(index, qkv)
        self._blocks.add_linear(rows.heard, layer.out, rows.x)

    def _hear(self, index: int, layer: DecoderLayer, rows: RowBuffers, hear: Attend) -> None:
        self._blocks.normalise(rows.x, layer.norm_cross, rows.normed)
        query = rows.hidden.first(rows.num_rows, self._config.width)
        self._blocks.linear(rows.normed, layer.query, query)
        hear(index, query)
        self._blocks.add_linear(rows.heard, layer.cross_out, rows.x)

    def _feed_forward(self, layer: DecoderLayer, rows: RowBuffers) -> None:
        self._blocks.normalise(rows.x, layer.norm_ffn, rows.normed)
        hidden = rows.hidden.first(rows.num_rows, self._config.ffn_width)
        self._blocks.linear(rows.normed, layer.fc1, hidden)
        self._blocks.gelu(hidden)
        self._blocks.add_linear(hidden, layer.fc2, rows.x)
