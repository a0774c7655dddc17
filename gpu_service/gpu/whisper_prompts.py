"""PromptFiller: the prompts of a batch into the decoder's cache at once, not a token a step.

All but the last token of each prompt: the decoder goes on with that. Prompts of different lengths
are padded to one of a few; what is behind a prompt is nobody's. On the way it reads off at
<|startoftranscript|> how probable it is that nobody speaks.

Knows tokens and rows, no rule of choosing. Kernels: kernels/whisper_prompt.cu. Shapes: B rows, M
positions of each, D width, H heads.
"""

from __future__ import annotations

import numpy as np

from .device import Device, DeviceArray, Graph
from .whisper_encoder import GpuWhisperEncoder
from .whisper_layers import DecoderLayers, RowBuffers
from .whisper_steps import (
    ATTEND_THREADS,
    EMBED_THREADS,
    DecoderBuffers,
    WhisperSteps,
)
from .whisper_weights import WhisperDecoderWeights

SOURCE = "whisper_prompt.cu"
NO_SPEECH_THREADS = 512  # as in the source
LENGTHS = (4, 32, 128, 448)  # M: a start alone, stable words, context, all that there is room for


class PromptFiller:
    """See the module text."""

    def __init__(
        self,
        device: Device,
        encoder: GpuWhisperEncoder,
        weights: WhisperDecoderWeights,
        layers: DecoderLayers,
        steps: WhisperSteps,
        buffers: DecoderBuffers,
        rows: DeviceArray,
    ) -> None:
        """`rows` (B, ROW) int32 is what the host asks; `buffers` are the decoder's."""
        self._device, self._encoder, self._weights = device, encoder, weights
        self._layers, self._steps, self._buffers, self._rows = layers, steps, buffers, rows
        config = encoder.weights.config
        self._num_heads = config.num_heads
        self._text_positions = config.text_positions
        self.lengths = tuple(sorted({min(length, config.text_positions) for length in LENGTHS}))
        names = ("embed", "keep", "self", "cross", "starts", "no_speech")
        self._kernels = {
            name: device.kernel(SOURCE, f"prompt_{name}", encoder.weights.defines) for name in names
        }
        most, widest = encoder.max_batch * self.lengths[-1], buffers.hidden.shape[1]
        storage = encoder.weights.storage
        self._own = RowBuffers(
            device.zeros((most, config.width), encoder.weights.residual),
            device.zeros((most, config.width), storage),
            device.zeros((most, widest), storage),
            device.zeros((most, config.width), storage),
        )
        self._graphs: dict[tuple[int, int], Graph] = {}

    def prepare(self, batch: int, num_filled: int) -> None:
        """Record what fills so many positions of a batch. Raises DeviceError.

        It runs once before, on whatever rows there are: plans are made, which no recording may do.
        """
        length = self._length(num_filled)
        if not length or (batch, length) in self._graphs:
            return
        self._enqueue(batch, length)
        with self._device.capture() as capture:
            self._enqueue(batch, length)
        self._graphs[batch, length] = capture.graph

    def fill(self, batch: int, num_filled: int, *, is_eager: bool) -> None:
        """Enqueue it, for prompts of which the longest has so many tokens before its last."""
        length = self._length(num_filled)
        if not length:
            return
        if is_eager:
            self._enqueue(batch, length)
        else:
            self._graphs[batch, length].launch()

    def _length(self, num_filled: int) -> int:
        """M; 0 where there is nothing to fill in."""
        if not num_filled:
            return 0
        return next(length for length in self.lengths if length >= num_filled)

    def _enqueue(self, batch: int, length: int) -> None:
        rows = self._own.first(batch * length)
        device, kernels, width = self._device, self._kernels, rows.x.shape[1]
        device.launch(
            kernels["embed"], (length, batch, 1), EMBED_THREADS,
            self._weights.tokens, self._weights.positions, self._rows, rows.x,
        )  # fmt: skip
        self._layers.run(
            rows,
            lambda layer, qkv: self._attend(layer, batch, length, qkv, rows.heard),
            lambda layer, query: self._hear(layer, batch, length, query, rows.heard),
        )
        starts = self._buffers.x.rows(0, batch)
        device.launch(
            kernels["starts"], batch, EMBED_THREADS, rows.x, self._rows, starts, np.int32(length)
        )
        logits = self._buffers.logits
        self._layers.read_out(starts, self._buffers.normed.first(batch, width), logits)
        device.launch(
            kernels["no_speech"], batch, NO_SPEECH_THREADS,
            logits, self._rows, self._buffers.results, self._steps.ids, np.int32(logits.shape[1]),
        )  # fmt: skip

    def _attend(
        self, layer: int, batch: int, length: int, qkv: DeviceArray, heard: DeviceArray
    ) -> None:
        cache, most = self._buffers.cache.at(layer), np.int32(self._text_positions)
        self._device.launch(
            self._kernels["keep"], (length, batch, 1), EMBED_THREADS, qkv, self._rows, cache, most
        )
        self._device.launch(
            self._kernels["self"], (self._num_heads, length, batch), ATTEND_THREADS,
            qkv, self._rows, cache, heard, most,
        )  # fmt: skip

    def _hear(
        self, layer: int, batch: int, length: int, query: DeviceArray, heard: DeviceArray
    ) -> None:
        self._device.launch(
            self._kernels["cross"], (self._num_heads, length, batch), ATTEND_THREADS,
            query, self._encoder.cross(batch, layer), self._rows, heard,
            np.int32(self._encoder.positions),
        )  # fmt: skip
