"""GpuWhisperDecoder: what Whisper says of the windows that were encoded, for many rows at once.

Row b of a batch hears window b of the encoder's last batch of the same size. Prompts are filled in
at once (whisper_prompts.py) but for their last tokens; from there each step feeds one token of
every row, and rows end at different times. FULL_GRAPH is one launch, a graph with a WHILE, for
which the host waits nowhere; STEPWISE and EAGER run the same steps with the loop on the host.
All say the tokens of decoding/whisper_oracle.py.

Knows tokens and rules, no audio and no text. Kernels: whisper_decoder.cu and whisper_choose.cu
in kernels/. Shapes: B rows, P text positions, N audio positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..decoding.whisper_oracle import Decoded
from ..decoding.whisper_rules import TokenRules
from ..weights.whisper_vocabulary import WhisperVocabulary
from .device import Condition, Device, Graph
from .gemm import Gemms
from .tdt_search import GraphMode
from .upload_ring import UploadRing
from .whisper_encoder import GpuWhisperEncoder
from .whisper_few_rows import FewRowsStep, supports
from .whisper_layers import DecoderLayers, RowBuffers
from .whisper_prompts import PromptFiller
from .whisper_steps import (
    CONTINUED,
    LANGUAGE,
    MAX_POSITIONS,
    PLAIN,
    RESULT,
    ROW,
    TIMED,
    DecoderBuffers,
    WhisperSteps,
    aligned_heads,
)
from .whisper_weights import WhisperDecoderWeights

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
    watched: bool = False  # keep what the aligned heads listen to, for attention()


class GpuWhisperDecoder:
    """See the module text."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        encoder: GpuWhisperEncoder,
        weights: WhisperDecoderWeights,
        vocabulary: WhisperVocabulary,
        *,
        fuses_few_rows: bool = True,
    ) -> None:
        """`fuses_few_rows`: a step of few rows is one kernel, where the model is one for it.

        Raises ValueError for more positions than kernels have room for, DeviceError.
        """
        self._device, self._encoder, self._vocabulary = device, encoder, vocabulary
        self._config = encoder.weights.config
        if self._config.text_positions > MAX_POSITIONS:
            raise ValueError(f"{self._config.text_positions} positions, at most {MAX_POSITIONS}")
        self._ring = UploadRing(device, (encoder.max_batch, ROW.itemsize // 4), np.int32)
        self._results = device.pinned((encoder.max_batch, RESULT.itemsize // 4), np.int32)
        num_aligned = len(aligned_heads(vocabulary))
        self.buffers = DecoderBuffers.make(
            device, encoder.weights, encoder.max_batch, encoder.positions, num_aligned
        )
        self._row_buffers = RowBuffers(
            self.buffers.x, self.buffers.normed, self.buffers.hidden, self.buffers.heard
        )
        self._layers = DecoderLayers(device, gemms, encoder.weights, weights)
        self._steps = WhisperSteps(
            device, encoder.weights, weights, vocabulary, self.buffers, self._ring.array,
            encoder.positions,
        )  # fmt: skip
        self._few_rows: FewRowsStep | None = None
        if fuses_few_rows and supports(device, encoder.weights, 1):
            self._few_rows = FewRowsStep(
                device, encoder, weights, self.buffers, self._ring.array, self._steps.aligned
            )
        self._prompts = PromptFiller(
            device, encoder, weights, self._layers, self._steps, self.buffers, self._ring.array
        )
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

    def prepare_prompts(self, batch: int) -> None:
        """Record what fills prompts in, of every length; else it is done when one comes."""
        for length in self._prompts.lengths:
            self._prompts.prepare(batch, length)

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
        filled = max((len(r.prompt) - 1 for r in requests if r is not None), default=0)
        if mode is not GraphMode.EAGER:
            self._prompts.prepare(batch, filled)
        self._write(requests, batch)
        self._prompts.fill(batch, filled, is_eager=mode is GraphMode.EAGER)
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

    def attention(self, row: int, num_steps: int) -> NDArray[np.float32]:
        """(num_steps, A, N) scores of the aligned heads at the first steps of a row that was
        watched in the last decode(). Waits for the device.
        """
        kept = self.buffers.attention.at(row).rows(0, num_steps)
        return np.asarray(self._device.download(kept), np.float32)

    # ---------------------------------------------------------------- the order of steps

    def _whole(self, batch: int) -> None:
        loop = self._device.condition()
        self._begin(batch, loop)
        with self._device.while_loop(loop):
            self._step(batch, loop)
        self._end(batch)

    def _parts(self, batch: int) -> tuple[Callable[[], None], ...]:
        return (lambda: self._begin(batch), lambda: self._step(batch), lambda: self._end(batch))

    def _loop(
        self, begin: Callable[[], None], step: Callable[[], None], end: Callable[[], None]
    ) -> None:
        """The loop on the host. A step without rows changes nothing."""
        begin()
        is_active = True
        while is_active:
            step()
            self._device.wait(self._device.record())
            is_active = self._steps.is_active
        end()

    def _end(self, batch: int) -> None:
        self._device.copy(self._results.head(batch), self.buffers.results.rows(0, batch))

    def _begin(self, batch: int, loop: Condition | None = None) -> None:
        self._steps.begin(batch, loop)
        self._steps.embed(batch)

    def _step(self, batch: int, loop: Condition | None = None) -> None:
        """A token of every row, and the next one's choice."""
        if self._few_rows is not None and supports(self._device, self._encoder.weights, batch):
            self._few_rows.run(batch)
        else:
            self._run_layers(batch)
        self._steps.choose(batch, loop)

    def _run_layers(self, batch: int) -> None:
        """x to logits."""
        steps, cross = self._steps, self._encoder.cross
        rows = self._row_buffers.first(batch)
        self._layers.run(
            rows,
            lambda layer, qkv: steps.attend(layer, batch, qkv, rows.heard),
            lambda layer, query: steps.hear(layer, batch, query, cross(batch, layer), rows.heard),
        )
        self._layers.read_out(rows.x, rows.normed, self.buffers.logits)

    # ------------------------------------------------------------------------ the rest

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
            row["kind"] = _kind(request)
            row["max_initial"] = request.rules.max_initial_timestamp
            row["temperature"] = request.temperature
            row["seed"] = request.seed
            row["watched"] = request.watched
            row["prompt"][:num_prompt] = request.prompt
        self._ring.publish()


def _kind(request: Request) -> int:
    if request.detects:
        return LANGUAGE
    if request.rules.timestamps:
        return TIMED
    return CONTINUED if request.rules.continues else PLAIN


def _decoded(result: np.void) -> Decoded:
    count, has_ended = int(result["num_tokens"]), bool(result["has_ended"])
    return Decoded(
        tokens=tuple(result["tokens"][:count].tolist()),
        log_probabilities=tuple(result["logs"][: count + has_ended].tolist()),
        no_speech=float(result["no_speech"]),
        ended=has_ended,
    )
