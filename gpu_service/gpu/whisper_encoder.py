"""GpuWhisperEncoder: log-mel rows of whole windows to what Whisper's decoder hears.

One graph for each batch size: both convolutions, the layers, the final norm, and at its end the
keys and values of every decoder layer. They stay where they are for the decoder of the same step:
245 MB a window of large-v3, which no copy would make better. A batch is padded with nobody, whose
window is silence. encode() writes descriptors, launches and returns; nothing waits. Windows of a
batch do not influence each other. The window is 30 s always: shorter ones break the model.

The first convolution is a product over gathered rows; the second, whose stride is two, is two
products over the first's rows as they lie. A Trunk may compute all of this in their place, up to
the final norm: TensorRT's plan. Knows slots and mel rows, no audio and no tokens.
Shapes: B windows, N = 1500 positions, M bands, D width, F feed forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from ..weights.whisper_config import WINDOW_POSITIONS
from .descriptors import DescriptorRing
from .device import Device, DeviceArray, Graph
from .encoder_weights import VECTOR
from .gemm import Gemms, Product
from .trt_plan import captured_run
from .whisper_attention import WindowAttention, make_attention
from .whisper_blocks import THREADS, WhisperBlocks
from .whisper_weights import EncoderLayer, WhisperEncoderWeights

SOURCE = "whisper_encoder.cu"
BATCHES = (1, 2, 4, 8, 16, 32)


class WindowRows(NamedTuple):
    """What to encode: some rows of a slot, and silence behind them."""

    slot: int
    num_rows: int
    first_row: int = 0


def batches_up_to(max_batch: int) -> tuple[int, ...]:
    """Every size that a batch may have."""
    return tuple(batch for batch in BATCHES if batch <= max_batch)


class Trunk(Protocol):
    """Convolutions and layers in the place of ours. See trt_window.TensorRtTrunk."""

    def features(self, batch: int) -> DeviceArray: ...

    def prepare(self, batch: int, residual: DeviceArray) -> None: ...

    def enqueue(self, batch: int) -> None: ...


class WindowStore(Protocol):
    """Where mel rows lie. See WhisperFeatures."""

    mel: DeviceArray  # (S, 3000, M) float32, not clamped
    floor: DeviceArray  # (S,) float32


@dataclass(frozen=True, slots=True)
class EncoderBuffers:
    """Of the largest batch. Smaller ones use their beginnings."""

    convolved: DeviceArray  # (B, 2 N + 2, D) T: row 0 of each window is zeros, and stays so
    x: DeviceArray  # (B N, D) of the residual's dtype
    normed: DeviceArray  # (B N, D) T
    hidden: DeviceArray  # (B N, widest) T; widest is F, 3 D or the taps' 6 M
    heard: DeviceArray  # (B N, D) T
    cross: DeviceArray  # (decoder layers, B N, 2 D) T: keys and values side by side

    @classmethod
    def make(
        cls, device: Device, weights: WhisperEncoderWeights, max_batch: int, positions: int
    ) -> EncoderBuffers:
        """Raises DeviceMemoryError."""
        config, storage = weights.config, weights.storage
        rows = max_batch * positions
        widest = max(config.ffn_width, 3 * config.width, 6 * config.num_mels)
        return cls(
            convolved=device.zeros((max_batch, 2 * positions + 2, config.width), storage),
            x=device.empty((rows, config.width), weights.residual),
            normed=device.empty((rows, config.width), storage),
            hidden=device.empty((rows, widest), storage),
            heard=device.empty((rows, config.width), storage),
            cross=device.empty((config.decoder_layers, rows, 2 * config.width), storage),
        )


class GpuWhisperEncoder:
    """See the module text."""

    def __init__(
        self,
        device: Device,
        gemms: Gemms,
        weights: WhisperEncoderWeights,
        store: WindowStore,
        max_batch: int,
        positions: int = WINDOW_POSITIONS,
        trunk: Trunk | None = None,
    ) -> None:
        """`positions`: N, fewer than 1500 in tests only. Raises DeviceError."""
        assert trunk is None or weights.residual == "float32"
        self._trunk = trunk
        self.weights, self.max_batch, self.positions = weights, max_batch, positions
        self._device, self._gemms, self._store = device, gemms, store
        self._ring = DescriptorRing(device, max_batch)
        self.buffers = EncoderBuffers.make(device, weights, max_batch, positions)
        self._frames = device.empty((max_batch * positions, weights.config.width), np.float32)
        self._attention: WindowAttention = make_attention(device, gemms, weights, positions)
        self._blocks = WhisperBlocks(
            device, gemms, weights.storage, weights.residual, weights.defines
        )
        names = ("gather_taps", "window_features", "add_positions")
        self._kernels = {name: device.kernel(SOURCE, name, weights.defines) for name in names}
        self._graphs: dict[int, Graph | None] = {}

    @property
    def batches(self) -> tuple[int, ...]:
        """Every size that a batch may have."""
        return batches_up_to(self.max_batch)

    def is_captured(self, batch: int) -> bool:
        """Whether a prepared batch is one graph launch."""
        return self._graphs[batch] is not None

    def bucket(self, num_windows: int) -> int:
        """The batch that so many windows are encoded in. Raises ValueError for too many."""
        for batch in self.batches:
            if num_windows <= batch:
                return batch
        raise ValueError(f"{num_windows} windows, at most {self.max_batch} fit")

    def prepare(self, batch: int) -> None:
        """Record a batch's graph. Raises DeviceError.

        It runs once before, with nobody in it: plans are made and the driver loads what is new to
        it, neither of which a recording may do.
        """
        if batch in self._graphs:
            return
        self._ring.write((), batch)
        if self._trunk is not None:
            self._trunk.prepare(batch, self.buffers.x.rows(0, batch * self.positions))
            run = partial(self._enqueue, batch)
            self._graphs[batch] = captured_run(self._device, run, f"{batch} windows")
            return
        self._enqueue(batch)
        with self._device.capture() as capture:
            self._enqueue(batch)
        self._graphs[batch] = capture.graph

    def encode(self, windows: Sequence[WindowRows], batch: int | None = None) -> int:
        """Enqueue the windows; states() and cross() of that batch say where the answer will be.

        In a batch of this size, or of the smallest that they fit in.

        Returns the batch. Raises ValueError for too many windows, or rows.
        """
        for window in windows:
            if not 0 <= window.num_rows <= 2 * self.positions:
                raise ValueError(f"{window}: a window has {2 * self.positions} rows")
        batch = self.bucket(max(len(windows), batch or 0))
        self.prepare(batch)
        self._ring.write([(w.slot, w.first_row, 0, w.num_rows) for w in windows], batch)
        graph = self._graphs[batch]
        if graph is None:
            self._enqueue(batch)
        else:
            graph.launch()
        return batch

    def states(self, batch: int) -> DeviceArray:
        """(B, N, D) T of the last encode()."""
        return self.buffers.normed.first(batch, self.positions, self.weights.config.width)

    def cross(self, batch: int, layer: int) -> DeviceArray:
        """(B, N, 2 D) T: what a decoder layer hears of the last encode(), keys and values."""
        width = 2 * self.weights.config.width
        return self.buffers.cross.at(layer).first(batch, self.positions, width)

    # ---------------------------------------------------------------- the parts

    def _enqueue(self, batch: int) -> None:
        """From descriptors to the keys and values of the decoder."""
        rows = batch * self.positions
        if self._trunk is None:
            self._embed(batch)
            for layer in self.weights.layers:
                self._attend(layer, batch)
                self._feed_forward(layer, rows)
        else:
            self._gather_features(batch, self._trunk.features(batch))
            self._trunk.enqueue(batch)
        self._blocks.normalise(self.buffers.x, self.weights.norm, self.buffers.normed.rows(0, rows))
        width = 2 * self.weights.config.width
        for index, linear in enumerate(self.weights.cross):
            out = self.buffers.cross.at(index).first(rows, width)
            self._blocks.linear(self.buffers.normed.rows(0, rows), linear, out)

    def _embed(self, batch: int) -> None:
        """x = GELU(conv2(GELU(conv1(mel)))) + positions."""
        weights, config = self.weights, self.weights.config
        num_rows, width = 2 * self.positions, config.width
        taps = self.buffers.hidden.first(batch * num_rows, 3 * config.num_mels)
        grid = -(-num_rows * config.num_mels // THREADS), batch, 1
        self._device.launch(
            self._kernels["gather_taps"], grid, THREADS,
            self._store.mel, self._store.floor, self._ring.descriptors.rows(0, batch), taps,
            np.int32(num_rows),
        )  # fmt: skip
        convolved = self.buffers.convolved.rows(0, batch)
        flat = convolved.reshape(convolved.size)
        stride = (num_rows + 2) * width
        first = Product(
            num_rows, width, 3 * config.num_mels, batch=batch,
            stride_a=num_rows * 3 * config.num_mels, stride_c=stride,
            dtype=weights.storage, out_dtype=weights.storage, bias=True,
        )  # fmt: skip
        behind_zeros = flat.rows(width, flat.size)
        self._gemms.plan(first).run(taps, weights.conv1.weight, behind_zeros, weights.conv1.bias)
        self._blocks.gelu(flat)  # of zeros it is zero
        self._convolve_by_two(batch, flat, stride)
        count = batch * self.positions * width
        self._device.launch(
            self._kernels["add_positions"], -(-count // (VECTOR * THREADS)), THREADS,
            self._frames, weights.positions, self.buffers.x, np.int32(self.positions),
            np.int64(count),
        )  # fmt: skip

    def _gather_features(self, batch: int, features: DeviceArray) -> None:
        """features (B, 2 N, M) float32 as another trunk takes them."""
        num_rows = 2 * self.positions
        grid = -(-num_rows * self.weights.config.num_mels // THREADS), batch, 1
        self._device.launch(
            self._kernels["window_features"], grid, THREADS,
            self._store.mel, self._store.floor, self._ring.descriptors.rows(0, batch), features,
            np.int32(num_rows),
        )  # fmt: skip

    def _convolve_by_two(self, batch: int, flat: DeviceArray, stride: int) -> None:
        """frames (B N, D) float32: position n of rows 2 n - 1, 2 n and 2 n + 1 of the window.

        A row of zeros lies before each window's own, so they begin at row 2 n of what is there.
        """
        weights, width = self.weights, self.weights.config.width
        even = Product(
            self.positions, width, 2 * width, batch=batch,
            stride_a=stride, stride_c=self.positions * width,
            dtype=weights.storage, out_dtype="float32",
        )  # fmt: skip
        self._gemms.plan(even).run(flat, weights.conv2_even, self._frames)
        odd = Product(
            self.positions, width, width, batch=batch, lda=2 * width,
            stride_a=stride, stride_c=self.positions * width,
            dtype=weights.storage, out_dtype="float32", accumulate=True, bias=True,
        )  # fmt: skip
        third = flat.rows(2 * width, flat.size)
        linear = weights.conv2_odd
        self._gemms.plan(odd).run(third, linear.weight, self._frames, linear.bias)

    def _attend(self, layer: EncoderLayer, batch: int) -> None:
        """x += out(attention(norm(x)))."""
        rows, width = batch * self.positions, self.weights.config.width
        normed = self.buffers.normed.rows(0, rows)
        self._blocks.normalise(self.buffers.x, layer.norm_attention, normed)
        qkv = self.buffers.hidden.first(rows, 3 * width)
        heard = self.buffers.heard.first(rows, width)
        self._blocks.linear(normed, layer.qkv, qkv)
        self._attention.attend(batch, qkv, heard)
        self._blocks.add_linear(heard, layer.out, self.buffers.x)

    def _feed_forward(self, layer: EncoderLayer, rows: int) -> None:
        """x += fc2(GELU(fc1(norm(x))))."""
        normed = self.buffers.normed.rows(0, rows)
        self._blocks.normalise(self.buffers.x, layer.norm_ffn, normed)
        hidden = self.buffers.hidden.first(rows, self.weights.config.ffn_width)
        self._blocks.linear(normed, layer.fc1, hidden)
        self._blocks.gelu(hidden)
        self._blocks.add_linear(hidden, layer.fc2, self.buffers.x)
