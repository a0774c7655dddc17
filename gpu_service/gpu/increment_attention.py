"""What a layer of the streaming encoder does across frames: attention and convolution with caches.

IncrementCaches is what every slot remembers between two increments. IncrementLayer launches the
kernels that read it and commit the frames which are final (kernels/increment*.cu). Which frames
those are is in `steps`, on the device.

Shapes: S slots, B sessions of N frames, L cached frames, D width, H heads, E = D / H, K kernel;
T is the storage type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device import Device, DeviceArray
from .encoder_layers import Bucket
from .encoder_weights import EncoderWeights

CONVOLUTION_SOURCE = "increments.cu"
# As in the sources.
THREADS = 128
NUM_WARPS = THREADS // 32
TILE = 16  # queries at once
MMA_HEAD_MULTIPLE = 64
CONVOLUTION_CHANNELS = 2  # of a thread
NUM_BANKS = 32


@dataclass(frozen=True, slots=True)
class IncrementCaches:
    """Of all slots. A slot needs no clearing: `steps` says where its utterance stands."""

    keys: DeviceArray  # (S, layers, H, L, E) T: frame f in row f % L
    values: DeviceArray  # (S, layers, H, L, E) T
    tails: DeviceArray  # (S, layers, K // 2, D) T: gated rows before the next frame

    @classmethod
    def make(
        cls, device: Device, weights: EncoderWeights, num_slots: int, left_frames: int
    ) -> IncrementCaches:
        """Raises DeviceMemoryError."""
        config, storage = weights.config, weights.storage
        ring = (config.num_heads, left_frames, config.head_width)
        tail = (config.conv_kernel // 2, config.width)
        return cls(
            keys=device.empty((num_slots, config.num_layers, *ring), storage),
            values=device.empty((num_slots, config.num_layers, *ring), storage),
            tails=device.empty((num_slots, config.num_layers, *tail), storage),
        )

    @property
    def num_bytes(self) -> int:
        """Of all slots."""
        return self.keys.nbytes + self.values.nbytes + self.tails.nbytes


class IncrementLayer:
    """The attention and the convolution of every layer; see Attention and Convolution."""

    def __init__(
        self, device: Device, weights: EncoderWeights, caches: IncrementCaches, steps: DeviceArray
    ) -> None:
        """`steps` (>= B, 4) int32: slot, next_frame, num_frames, num_commit. Raises DeviceError."""
        self._device, self._weights, self._caches, self._steps = device, weights, caches, steps
        self._num_layers = np.int32(weights.config.num_layers)
        self._left_frames = caches.keys.shape[3]
        is_half = weights.precision == "fp16"
        self._is_mma = is_half and weights.config.head_width % MMA_HEAD_MULTIPLE == 0
        name = "increment_attention_mma" if self._is_mma else "increment_attention"
        self._attention = device.kernel(f"{name}.cu", name, weights.defines)
        self._convolution = device.kernel(
            CONVOLUTION_SOURCE, "increment_convolution", weights.defines
        )

    def attend(self, bucket: Bucket, layer: int, qkv: DeviceArray, heard: DeviceArray) -> None:
        """qkv (B*N, 3 D) -> heard (B*N, D); commits keys and values."""
        weights, caches = self._weights.layers[layer], self._caches
        num_columns = self._num_columns(bucket)
        self._device.launch(
            self._attention, (bucket.batch, self._weights.config.num_heads, 1), THREADS,
            self._steps, qkv, weights.bias_u, weights.bias_v, weights.positions,
            caches.keys, caches.values, heard, np.int32(bucket.frames), np.int32(layer),
            self._num_layers, np.int32(self._left_frames), np.int32(self._weights.max_frames),
            np.int32(num_columns), shared_bytes=self._shared_bytes(num_columns),
        )  # fmt: skip

    def convolve(self, bucket: Bucket, layer: int, wide: DeviceArray, out: DeviceArray) -> None:
        """wide (B*N, 2 D) -> out (B*N, D); commits the tail."""
        weights = self._weights.layers[layer]
        num_blocks = -(-self._weights.config.width // (CONVOLUTION_CHANNELS * THREADS))
        self._device.launch(
            self._convolution, (num_blocks, bucket.batch, 1), THREADS,
            self._steps, wide, weights.depthwise_weight, weights.depthwise_bias,
            self._caches.tails, out, np.int32(bucket.frames), np.int32(layer), self._num_layers,
        )  # fmt: skip

    def _num_columns(self, bucket: Bucket) -> int:
        """Of a row of by_position: a key each, the distances within a tile, up to whole products.

        Rows lie one bank and 8 columns apart, so that the kernel's skewed reads do not collide.
        """
        needed = -(-(self._left_frames + bucket.frames + TILE - 1) // 8) * 8
        return needed + (9 - needed) % NUM_BANKS

    def _shared_bytes(self, num_columns: int) -> int:
        """See the kernels."""
        head_width = self._weights.config.head_width
        if self._is_mma:
            partials = NUM_WARPS * (head_width + 8 + 2)
            return 4 * TILE * (head_width + max(num_columns, partials))
        return 4 * TILE * (2 * head_width + 2 * num_columns + 1)
