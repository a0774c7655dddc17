"""FewRowsStep: one step of Whisper's decoder for few rows in one kernel, from x to logits.

What DecoderLayers and WhisperSteps do by some four hundred launches, of which each takes longer to
begin than to read its weights. Half only, and for widths that supports() names. Kernel:
kernels/whisper_step.cu. Shapes: B rows, D width, F feed forward, L layers, V vocabulary, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..weights.whisper_config import WhisperConfig
from .device import Device, DeviceArray, Kernel
from .encoder_weights import Linear, Norm
from .whisper_encoder import GpuWhisperEncoder
from .whisper_steps import SPLIT_KEYS, DecoderBuffers
from .whisper_weights import DecoderLayer, WhisperDecoderWeights, WhisperEncoderWeights

SOURCE, FOLD_SOURCE = "whisper_step.cu", "whisper_fold.cu"
# As in the sources.
COLUMNS, GROUP, SLICE = 32, 16, 48  # of a warp's products: columns, rows, and rows of a sum
NUM_NORMS, NUM_MATRICES, NUM_ADDRESSES, NUM_SHARES = 3, 6, 10, 7  # of a StepLayer; of a block
SHARE_BYTES, STEP_ROW_BYTES = 8, 12
FOLD_THREADS, NUM_WORD_COPIES, HEAD_WIDTH = 128, 4, 64
HALF_BYTES, FLOAT_BYTES, ADDRESS_BYTES = 2, 4, 8
MAX_ROWS = 4  # each takes two of a product's 8 columns; more are faster by kernels of their own
# Two on each scheduler, so that a thread has 255 registers: as the ring takes nearly all of L1,
# what a thread spills comes back from L2.
MOST_WARPS = 8
MIN_DEPTH, MAX_DEPTH = 4, 12  # of the ring, which is refilled behind a slice, or F / D units of it
MIN_LAYERS = 2  # words that a layer left have another flag in the next


def supports(device: Device, weights: WhisperEncoderWeights, batch: int) -> bool:
    """Whether there is a kernel for such a model and so many rows."""
    config = weights.config
    return (
        batch <= MAX_ROWS
        and weights.storage == "float16"
        and config.width % COLUMNS == 0
        and config.ffn_width % config.width == 0
        and config.head_width == HEAD_WIDTH
        and config.decoder_layers >= MIN_LAYERS
        and _depth(device, config, batch) >= max(MIN_DEPTH, config.ffn_width // config.width)
    )


def num_splits(device: Device, config: WhisperConfig, batch: int, num_positions: int) -> int:
    """Parts of the audio's positions, a block for each of every head while there are some."""
    num_items = batch * config.num_heads
    return min(max(1, _num_blocks(device, config) // num_items), -(-num_positions // SPLIT_KEYS))


def _num_blocks(device: Device, config: WhisperConfig) -> int:
    """As many as multiprocessors, if each has two rows of every matrix."""
    return min(device.num_sms, config.width // 2)


def _num_warps(config: WhisperConfig) -> int:
    """The most, up to MOST_WARPS, of which each has as many columns of a row."""
    return max(n for n in range(1, MOST_WARPS + 1) if config.width // COLUMNS % n == 0)


def _place_bytes(config: WhisperConfig) -> int:
    """Of the ring: D columns of a group's rows."""
    return HALF_BYTES * GROUP * config.width


def _fixed_bytes(device: Device, config: WhisperConfig, batch: int) -> int:
    """Of a block's shared memory, beside the ring."""
    warps = _num_warps(config)
    floats = 2 * warps * batch * (SLICE + 8)  # sums
    floats += 2 * warps * batch * 2  # moments
    floats += warps * (config.head_width + 2)  # attention
    floats += batch * 2 * -(-config.width // 2 // _num_blocks(device, config))  # of x
    fixed = FLOAT_BYTES * floats + HALF_BYTES * batch * config.ffn_width
    fixed += (config.decoder_layers + 1) * NUM_ADDRESSES * ADDRESS_BYTES
    return fixed + NUM_SHARES * SHARE_BYTES + batch * STEP_ROW_BYTES


def _depth(device: Device, config: WhisperConfig, batch: int) -> int:
    """Places of the ring: as many as there is room for."""
    room = device.shared_bytes_per_block - _fixed_bytes(device, config, batch)
    return min(MAX_DEPTH, room // _place_bytes(config))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The kernel of a number of rows, and its own memory: each layer writes every word of it."""

    kernel: Kernel
    words: DeviceArray  # as whisper_words.cuh lays them out


class FewRowsStep:
    """Bound to a decoder's memory. A kernel for each number of rows."""

    def __init__(
        self,
        device: Device,
        encoder: GpuWhisperEncoder,
        weights: WhisperDecoderWeights,
        buffers: DecoderBuffers,
        rows: DeviceArray,
        aligned: DeviceArray,
    ) -> None:
        """`rows` (B, ROW) int32 is what the host asks; `aligned` (L, H) as WhisperSteps has it.

        Raises DeviceError.
        """
        self._device, self._encoder, self._weights = device, encoder, weights
        self._buffers, self._rows = buffers, rows
        self._config = config = encoder.weights.config
        self._num_warps = _num_warps(config)
        self._made: dict[int, _Rows] = {}
        self._vectors = [*map(self._layer_vectors, weights.layers), self._head_vectors()]
        addresses = [self._addresses(i, aligned) for i in range(len(weights.layers))]
        addresses.append(self._head_addresses())
        self._layers = device.upload(np.array(addresses, np.int64))

    def run(self, batch: int) -> None:
        """x (B, D) -> logits (B, V rounded up), through all layers, for rows that are active."""
        buffers, config, made = self._buffers, self._config, self._rows_of(batch)
        depth = _depth(self._device, config, batch)
        shared_bytes = _fixed_bytes(self._device, config, batch) + depth * _place_bytes(config)
        self._device.launch(
            made.kernel, _num_blocks(self._device, config), 32 * self._num_warps,
            self._layers, buffers.x, buffers.attention, buffers.logits, self._rows,
            buffers.progress, made.words, np.int32(len(self._weights.layers)),
            np.int32(config.vocabulary_size), np.int32(buffers.logits.shape[1]),
            np.int32(self._encoder.positions), np.int32(buffers.attention.shape[2]),
            np.int32(config.text_positions),
            shared_bytes=shared_bytes, cooperative=True,
        )  # fmt: skip

    def _rows_of(self, batch: int) -> _Rows:
        if batch not in self._made:
            device, config = self._device, self._config
            splits = num_splits(device, config, batch, self._encoder.positions)
            defines = {
                **self._encoder.weights.defines,
                "FFN_WIDTH": str(config.ffn_width),
                "NUM_WARPS": str(self._num_warps),
                "ROWS": str(batch),
                "SPLITS": str(splits),
                "DEPTH": str(_depth(device, config, batch)),
            }
            words = (7 * config.width + config.ffn_width) // 2
            words += config.num_heads * splits * (config.head_width + 2)
            self._made[batch] = _Rows(
                device.kernel(SOURCE, "whisper_step", defines),
                device.zeros(NUM_WORD_COPIES * batch * words, np.uint64),
            )
        return self._made[batch]

    def _layer_vectors(self, layer: DecoderLayer) -> DeviceArray:
        """A layer's gains, and what its matrices' biases and norms become."""
        norms = (layer.norm_self, layer.norm_cross, layer.norm_ffn)
        before = (layer.norm_self, None, layer.norm_cross, None, layer.norm_ffn, None)
        biases = [linear.bias for linear in _linears(layer)]
        parts = [
            (linear.weight, self._device.upload(self._floats(bias)), norm)
            for linear, bias, norm in zip(_linears(layer), biases, before, strict=True)
        ]
        return self._joined(norms, parts)

    def _head_vectors(self) -> DeviceArray:
        """The same of the head, as if it were a layer's first matrix."""
        tokens, norm = self._weights.tokens, self._weights.norm
        no_bias = self._device.zeros(tokens.shape[0], np.float32)
        return self._joined((norm, norm, norm), [(tokens, no_bias, norm)])

    def _joined(
        self,
        norms: tuple[Norm, ...],
        parts: list[tuple[DeviceArray, DeviceArray, Norm | None]],
    ) -> DeviceArray:
        """Gains, then each row folded: of (n, k) weights, their biases, the norms before them."""
        device, width = self._device, self._config.width
        fold = device.kernel(FOLD_SOURCE, "whisper_fold", self._encoder.weights.defines)
        num_rows = sum(weight.shape[0] for weight, _, _ in parts)
        gains = np.concatenate([self._floats(norm.weight) for norm in norms])
        # An odd number of rows has one more of zeros: they are read two by two.
        rest = np.zeros(2 * (num_rows + num_rows % 2), np.float32)
        joined = device.upload(np.concatenate([gains, rest]))
        at = NUM_NORMS * width
        for weight, bias, norm in parts:
            rows, columns = weight.shape
            zeros = device.zeros(columns, np.float32)
            gain, shift = (zeros, zeros) if norm is None else (norm.weight, norm.bias)
            device.launch(
                fold, rows, FOLD_THREADS,
                weight, gain, shift, bias, joined.rows(at, at + 2 * rows), np.int32(columns),
                shared_bytes=FOLD_THREADS // 32 * FLOAT_BYTES,
            )  # fmt: skip
            at += 2 * rows
        device.synchronize()
        return joined

    def _floats(self, array: DeviceArray) -> NDArray[np.float32]:
        return np.asarray(self._device.download(array), np.float32)

    def _head_addresses(self) -> list[int]:
        """A StepLayer behind the last."""
        rest = [0] * (NUM_ADDRESSES - NUM_MATRICES - 1)
        weights = [self._weights.tokens.address] + [0] * (NUM_MATRICES - 1)
        return [*weights, self._vectors[-1].address, *rest]

    def _addresses(self, index: int, aligned: DeviceArray) -> list[int]:
        """A StepLayer."""
        return [
            *(linear.weight.address for linear in _linears(self._weights.layers[index])),
            self._vectors[index].address,
            self._encoder.cross(1, index).address,
            self._buffers.cache.at(index).address,
            aligned.at(index).address,
        ]


def _linears(layer: DecoderLayer) -> tuple[Linear, ...]:
    """In the order of the source's `enum Matrix`."""
    return layer.qkv, layer.out, layer.query, layer.cross_out, layer.fc1, layer.fc2
