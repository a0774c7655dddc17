"""FewRowsStep: one step of Whisper's decoder for few rows in one kernel, from x to logits.

What DecoderLayers and WhisperSteps do by some four hundred launches, of which each takes longer to
begin than to read its weights. Half only, and for widths that supports() names. Kernel:
kernels/whisper_step.cu. Shapes: B rows, D width, F feed forward, L layers, V vocabulary, H heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..weights.whisper_config import WhisperConfig
from .device import Device, DeviceArray, Kernel
from .encoder_weights import Linear
from .whisper_encoder import GpuWhisperEncoder
from .whisper_steps import SPLIT_KEYS, DecoderBuffers
from .whisper_weights import DecoderLayer, WhisperDecoderWeights, WhisperEncoderWeights

SOURCE = "whisper_step.cu"
# As in the source.
COLUMNS, GROUP = 32, 8  # of a warp's two products: columns, and rows
NUM_ADDRESSES, NUM_SHARES = 10, 7  # of a StepLayer; of a block
SHARE_BYTES, PHASE_BYTES, STEP_ROW_BYTES = 8, 4, 12
HALF_BYTES, FLOAT_BYTES, ADDRESS_BYTES = 2, 4, 8
MAX_ROWS = 4  # of 8 that a product could take: more are faster by kernels of their own
MOST_WARPS = 20  # registers: 96 a thread
MIN_DEPTH, MAX_DEPTH = 4, 24  # of the ring: fewer places do not cover a copy's latency


def supports(device: Device, weights: WhisperEncoderWeights, batch: int) -> bool:
    """Whether there is a kernel for such a model and so many rows."""
    config = weights.config
    return (
        batch <= MAX_ROWS
        and weights.storage == "float16"
        and config.width % COLUMNS == 0
        and config.ffn_width % config.width == 0
        and _depth(device, config, batch) >= MIN_DEPTH
    )


def num_splits(device: Device, config: WhisperConfig, batch: int, num_positions: int) -> int:
    """Parts of the audio's positions, a block for each of every head while there are some: no more
    than DecoderBuffers.parts has.
    """
    num_items = batch * config.num_heads
    return min(max(1, device.num_sms // num_items), -(-num_positions // SPLIT_KEYS))


def _num_warps(config: WhisperConfig) -> int:
    """The most, up to MOST_WARPS, of which each has as many columns of a row."""
    return max(n for n in range(1, MOST_WARPS + 1) if config.width // COLUMNS % n == 0)


def _place_bytes(config: WhisperConfig) -> int:
    """Of the ring: D columns of a group's rows."""
    return HALF_BYTES * GROUP * config.width


def _fixed_bytes(config: WhisperConfig, batch: int) -> int:
    """Of a block's shared memory, beside the ring."""
    warps = _num_warps(config)
    sums = max(1, GROUP // batch) * (warps + 1) * GROUP * batch
    scratch = -(-warps * (config.head_width + 2) // 4) * 4
    fixed = FLOAT_BYTES * (sums + scratch) + HALF_BYTES * batch * config.width
    fixed += config.decoder_layers * NUM_ADDRESSES * ADDRESS_BYTES
    return fixed + NUM_SHARES * SHARE_BYTES + PHASE_BYTES + batch * STEP_ROW_BYTES


def _depth(device: Device, config: WhisperConfig, batch: int) -> int:
    """Places of the ring: as many as there is room for."""
    room = device.shared_bytes_per_block - _fixed_bytes(config, batch)
    return min(MAX_DEPTH, room // _place_bytes(config))


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
        self._kernels: dict[int, Kernel] = {}
        self._queries = device.zeros((MAX_ROWS, config.width), np.float32)
        self._barrier = device.zeros(1, np.uint32)
        self._vectors = [device.upload(self._joined(layer)) for layer in weights.layers]
        norm = [device.download(part) for part in (weights.norm.weight, weights.norm.bias)]
        self._last_norm = device.upload(np.concatenate(norm))
        self._layers = device.upload(
            np.array([self._addresses(i, aligned) for i in range(len(weights.layers))], np.int64)
        )

    def run(self, batch: int) -> None:
        """x (B, D) -> logits (B, V rounded up), through all layers, for rows that are active."""
        buffers, config = self._buffers, self._config
        depth = _depth(self._device, config, batch)
        shared_bytes = _fixed_bytes(config, batch) + depth * _place_bytes(config)
        self._device.launch(
            self._kernel(batch), self._device.num_sms, 32 * self._num_warps,
            self._layers, self._weights.tokens, self._last_norm, buffers.x, self._queries,
            buffers.parts, buffers.heard, buffers.hidden, buffers.attention, buffers.logits,
            self._rows, buffers.progress, self._barrier, np.int32(len(self._weights.layers)),
            np.int32(config.vocabulary_size), np.int32(buffers.logits.shape[1]),
            np.int32(self._encoder.positions), np.int32(buffers.attention.shape[2]),
            np.int32(config.text_positions),
            shared_bytes=shared_bytes, cooperative=True,
        )  # fmt: skip

    def _kernel(self, batch: int) -> Kernel:
        if batch not in self._kernels:
            defines = {
                **self._encoder.weights.defines,
                "FFN_WIDTH": str(self._config.ffn_width),
                "NUM_WARPS": str(self._num_warps),
                "ROWS": str(batch),
                "SPLITS": str(
                    num_splits(self._device, self._config, batch, self._encoder.positions)
                ),
                "DEPTH": str(_depth(self._device, self._config, batch)),
            }
            self._kernels[batch] = self._device.kernel(SOURCE, "whisper_step", defines)
        return self._kernels[batch]

    def _joined(self, layer: DecoderLayer) -> NDArray[np.float32]:
        """A layer's norms and biases one behind the other."""
        norms = (layer.norm_self, layer.norm_cross, layer.norm_ffn)
        parts = [part for norm in norms for part in (norm.weight, norm.bias)]
        parts += [linear.bias for linear in _linears(layer)]
        return np.concatenate([self._device.download(part).astype(np.float32) for part in parts])

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
