"""GpuWhisperDecoder: what Whisper says of the windows that were encoded, for many rows at once.

Row b of a batch hears window b of the encoder's last batch of the same size. Each step feeds one
token of every row; rows end at different times. FULL_GRAPH is one launch, a graph with a WHILE, for
which the host waits nowhere; STEPWISE and EAGER run the same steps with the loop on the host.
All say the tokens of decoding/whisper_oracle.py.

Knows tokens and rules, no audio and no text. Kernels: kernels/whisper_decoder.cu. Shapes: B rows, P
text positions, N audio positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decoding.whisper_oracle import Decoded
from ..decoding.whisper_rules import TokenRules
from ..weights.whisper_vocabulary import WhisperVocabulary
from .device import Device, DeviceArray, Graph
from .gemm import Gemms, Product
from .tdt_search import GraphMode
from .upload_ring import UploadRing
from .whisper_blocks import WhisperBlocks
from .whisper_encoder import GpuWhisperEncoder
from .whisper_steps import (
    LANGUAGE,
    MAX_POSITIONS,
    PLAIN,
    RESULT,
    ROW,
    TIMED,
    DecoderBuffers,
    WhisperSteps,
)
from .whisper_weights import DecoderLayer, WhisperDecoderWeights

MODES = (GraphMode.FULL_GRAPH, GraphMode.STEPWISE, GraphMode.EAGER)


@dataclass(frozen=True, slots=True)
class Request:
    """What to decode behind which prompt."""

    prompt: tuple[int, ...]  # with <|startoftranscript|> somewhere
    rules: TokenRules
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0  # of 32 bits
    detects: bool = False  # say which language it is, instead of text: one token, of languages only


class GpuWhisperDecoder:
    """See the module text."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        encoder: GpuWhisperEncoder,
        weights: WhisperDecoderWeights,
        vocabulary: WhisperVocabulary,
    ) -> None:
        """Raises ValueError for more positions than kernels have room for, DeviceError."""
        self._device, self._gemms, self._encoder = device, gemms, encoder
        self._weights, self._vocabulary = weights, vocabulary
        self._config, self._storage = encoder.weights.config, encoder.weights.storage
        if self._config.text_positions > MAX_POSITIONS:
            raise ValueError(f"{self._config.text_positions} positions, at most {MAX_POSITIONS}")
        self._ring = UploadRing(device, (encoder.max_batch, ROW.itemsize // 4), np.int32)
        self._results = device.pinned((encoder.max_batch, RESULT.itemsize // 4), np.int32)
        self._blocks = WhisperBlocks(
            device, gemms, self._storage, encoder.weights.residual, encoder.weights.defines
        )
        self.buffers = DecoderBuffers.make(
            device, encoder.weights, encoder.max_batch, encoder.positions
        )
        self._steps = WhisperSteps(
            device, encoder.weights, weights, vocabulary, self.buffers, self._ring.array,
            encoder.positions,
        )  # fmt: skip
        self._graphs: dict[tuple[GraphMode, int], list[Graph]] = {}

    def prepare(self, batch: int, mode: GraphMode = GraphMode.FULL_GRAPH) -> None:
        """Compile and capture. Raises DeviceError.

        One step runs before, with nobody in it: plans are made, which no recording may do.
        """
        if (mode, batch) in self._graphs:
            return
        self._write((), batch)
        for part in self._parts(batch):
            part()
        parts: Sequence[Callable[[], None]] = ()
        if mode is GraphMode.FULL_GRAPH:
            parts = (lambda: self._whole(batch),)
        elif mode is GraphMode.STEPWISE:
            parts = self._parts(batch)
        self._graphs[mode, batch] = [self._capture(part) for part in parts]

    def decode(
        self,
        batch: int,
        requests: Sequence[Request | None],
        mode: GraphMode = GraphMode.FULL_GRAPH,
    ) -> None:
        """Enqueue the requests on the windows of the encoder's last batch; `batch` is its size.

        A window without a request is passed over, and says nothing.

        Raises ValueError for prompts without <|startoftranscript|> or without room behind them.
        """
        if len(requests) > batch:
            raise ValueError(f"{len(requests)} requests in a batch of {batch}")
        for request in requests:
            if request is not None:
                self._check(request)
        self.prepare(batch, mode)
        self._write(requests, batch)
        graphs = self._graphs[mode, batch]
        if mode is GraphMode.FULL_GRAPH:
            graphs[0].launch()
            return
        parts = [graph.launch for graph in graphs] or self._parts(batch)
        self._loop(*parts)

    def read(self, num_requests: int) -> list[Decoded]:
        """What the last decode() said. The device has come past it."""
        results = self._results.array[:num_requests].copy().view(RESULT)[:, 0]
        return [_decoded(result) for result in results]

    # ---------------------------------------------------------------- the order of steps

    def _whole(self, batch: int) -> None:
        loop = self._device.condition()
        self._steps.begin(batch, loop)
        with self._device.while_loop(loop):
            self._step(batch)
            self._steps.turn(batch, loop)
        self._end(batch)

    def _parts(self, batch: int) -> tuple[Callable[[], None], ...]:
        def turn() -> None:
            self._step(batch)
            self._steps.turn(batch)

        return (lambda: self._steps.begin(batch), turn, lambda: self._end(batch))

    def _loop(
        self, begin: Callable[[], None], turn: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """The loop on the host. A step without rows changes nothing."""
        begin()
        is_active = True
        while is_active:
            turn()
            self._device.wait(self._device.record())
            is_active = self._steps.is_active
        end()

    def _end(self, batch: int) -> None:
        self._device.copy(self._results.head(batch), self.buffers.results.rows(0, batch))

    def _step(self, batch: int) -> None:
        """A token of every row, and the next one's choice."""
        self._steps.embed(batch)
        for index, layer in enumerate(self._weights.layers):
            self._attend(index, layer, batch)
            self._hear(index, layer, batch)
            self._feed_forward(layer, batch)
        normed = self._normed(batch)
        self._blocks.normalise(self.buffers.x, self._weights.norm, normed)
        product = Product(
            batch, self._config.vocabulary_size, self._config.width,
            ldc=self.buffers.logits.shape[1], dtype=self._storage, out_dtype="float32",
        )  # fmt: skip
        self._gemms.plan(product).run(normed, self._weights.tokens, self.buffers.logits)
        self._steps.choose(batch)

    def _attend(self, index: int, layer: DecoderLayer, batch: int) -> None:
        normed, heard = self._normed(batch), self._heard(batch)
        self._blocks.normalise(self.buffers.x, layer.norm_self, normed)
        qkv = self.buffers.hidden.first(batch, 3 * self._config.width)
        self._blocks.linear(normed, layer.qkv, qkv)
        self._steps.attend(index, batch, qkv, heard)
        self._blocks.add_linear(heard, layer.out, self.buffers.x)

    def _hear(self, index: int, layer: DecoderLayer, batch: int) -> None:
        normed, heard = self._normed(batch), self._heard(batch)
        self._blocks.normalise(self.buffers.x, layer.norm_cross, normed)
        query = self.buffers.hidden.first(batch, self._config.width)
        self._blocks.linear(normed, layer.query, query)
        self._steps.hear(batch, query, self._encoder.cross(batch, index), heard)
        self._blocks.add_linear(heard, layer.cross_out, self.buffers.x)

    def _feed_forward(self, layer: DecoderLayer, batch: int) -> None:
        normed = self._normed(batch)
        self._blocks.normalise(self.buffers.x, layer.norm_ffn, normed)
        hidden = self.buffers.hidden.first(batch, self._config.ffn_width)
        self._blocks.linear(normed, layer.fc1, hidden)
        self._blocks.gelu(hidden)
        self._blocks.add_linear(hidden, layer.fc2, self.buffers.x)

    # ------------------------------------------------------------------------ the rest

    def _normed(self, batch: int) -> DeviceArray:
        return self.buffers.normed.rows(0, batch)

    def _heard(self, batch: int) -> DeviceArray:
        return self.buffers.heard.rows(0, batch)

    def _capture(self, part: Callable[[], None]) -> Graph:
        with self._device.capture() as capture:
            part()
        return capture.graph

    def _check(self, request: Request) -> None:
        if self._vocabulary.start not in request.prompt:
            raise ValueError("a prompt without <|startoftranscript|>")
        if len(request.prompt) >= self._config.text_positions or request.max_tokens < 1:
            raise ValueError(f"no room behind a prompt of {len(request.prompt)} tokens")

    def _write(self, requests: Sequence[Request | None], batch: int) -> None:
        """Enqueue the rows; those without a request are nobody's."""
        block = self._ring.block()
        block[:batch] = 0
        rows: NDArray[np.void] = block[:batch].view(ROW)[:, 0]
        for row, request in zip(rows, requests, strict=False):
            if request is None:
                continue
            num_prompt = len(request.prompt)
            row["prompt_length"] = num_prompt
            row["max_tokens"] = min(request.max_tokens, self._config.text_positions - num_prompt)
            row["start"] = request.prompt.index(self._vocabulary.start)
            kind = TIMED if request.rules.timestamps else PLAIN
            row["kind"] = LANGUAGE if request.detects else kind
            row["max_initial"] = request.rules.max_initial_timestamp
            row["temperature"] = request.temperature
            row["seed"] = request.seed
            row["prompt"][:num_prompt] = request.prompt
        self._ring.publish()


def _decoded(result: np.void) -> Decoded:
    count, has_ended = int(result["num_tokens"]), bool(result["has_ended"])
    return Decoded(
        tokens=tuple(result["tokens"][:count].tolist()),
        log_probabilities=tuple(result["logs"][: count + has_ended].tolist()),
        no_speech=float(result["no_speech"]),
        ended=has_ended,
    )
