"""WhisperEncoder: the 30 s window of a short utterance at the price of the utterance.

Whisper only works on its full window: shorter ones loop (15 s: 4 wrong words of 200, 10 s: many).
But behind an utterance the window is silence, and silence looks nearly the same each time. So the
encoder runs over the utterance and MARGIN_POSITIONS behind it; keys, values and output of the
positions after those come from a window of pure padding, encoded once for each pad value.
Measured on 30 segments: one word of 216 differs from the full window, and fp32 against int8
differs in the same one. A margin of 0.5 s looped now and then, 2 s gained nothing.

`exact` runs the full window: the oracle, and the retry of whisper_decode.py. Knows features and
positions, no text. Shapes as in whisper_graph.py.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ct2_weights import Ct2Weights
from .log_mel import WINDOW_FRAMES, LogMel
from .whisper_graph import WINDOW_POSITIONS, build_encoder, encoder_shape

MARGIN_POSITIONS = 50  # 1 s of the padding is computed, not taken from the cache
FULL_FROM_POSITIONS = 1400  # from here on the cache saves nothing worth an approximation
PAD_STEP = 0.125  # pad values are rounded to this: they lie in -1.5..-0.4
MAX_CACHE_BYTES = 256 << 20  # of padding; one entry is 21 MB for tiny, and one always stays
COMMON_PAD_VALUES = (-1.0, -0.875, -0.75, -0.625)  # normal levels of speech

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Padding:
    """A window of nothing but one pad value."""

    states: Array  # (1, 1500, D)
    keys_and_values: tuple[Array, ...]  # 2 a layer, (1, H, 1500, E)

    @property
    def num_bytes(self) -> int:
        return self.states.nbytes + sum(a.nbytes for a in self.keys_and_values)


class WhisperEncoder:
    """Runs the encoder in ONNX Runtime; one thread calls it."""

    def __init__(self, weights_path: Path, num_threads: int) -> None:
        """Build the graph. Raises ModelFileError."""
        import onnxruntime

        weights = Ct2Weights(weights_path, "encoder/")
        self.shape = encoder_shape(weights)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.enable_mem_pattern = False  # each utterance has another length
        # Spinning threads would burn the cores that the gateway needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            build_encoder(weights), options, providers=["CPUExecutionProvider"]
        )
        self._pad_names = tuple(
            f"{kind}_{layer}" for layer in range(self.shape.num_layers) for kind in ("key", "value")
        )
        empty = (1, self.shape.num_heads, 0, self.shape.head_width)
        self._no_padding = (np.zeros(empty, np.float32),) * len(self._pad_names)
        self._cache: OrderedDict[float, _Padding] = OrderedDict()

    def encode(self, mel: LogMel, *, exact: bool = False) -> Array:
        """The encoder's output for the whole window, (1, 1500, D) float32."""
        num_positions = self.num_computed(mel)
        if exact or num_positions == WINDOW_POSITIONS:
            return self._run(mel.padded(), WINDOW_POSITIONS, self._no_padding)[0]
        padding = self._padding(round(mel.pad_value / PAD_STEP) * PAD_STEP)
        # Two frames more than the positions need: the convolutions look one and one ahead.
        frames = mel.padded(2 * num_positions + 2)
        behind = tuple(a[:, :, num_positions:] for a in padding.keys_and_values)
        states = padding.states.copy()
        states[:, :num_positions] = self._run(frames, num_positions, behind)[0]
        return states

    def num_computed(self, mel: LogMel) -> int:
        """N: how many positions encode() computes, without `exact`."""
        num_positions = (mel.frames.shape[1] + 1) // 2 + MARGIN_POSITIONS
        return num_positions if num_positions < FULL_FROM_POSITIONS else WINDOW_POSITIONS

    def prepare(self) -> None:
        """Encode the padding of common levels now, so that no user waits for it."""
        for value in COMMON_PAD_VALUES:
            self._padding(value)

    def _padding(self, value: float) -> _Padding:
        """The cached window of `value`, made if need be; the least recently used ones go."""
        if value in self._cache:
            self._cache.move_to_end(value)
            return self._cache[value]
        mel = np.full((self.shape.num_mels, WINDOW_FRAMES), value, np.float32)
        states, *rest = self._run(mel, WINDOW_POSITIONS, self._no_padding, self._pad_names)
        self._cache[value] = _Padding(states, tuple(rest))
        while len(self._cache) > 1 and self._cached_bytes() > MAX_CACHE_BYTES:
            self._cache.popitem(last=False)
        return self._cache[value]

    def _cached_bytes(self) -> int:
        return sum(padding.num_bytes for padding in self._cache.values())

    def _run(
        self,
        frames: Array,
        num_positions: int,
        padding: tuple[Array, ...],
        more_outputs: tuple[str, ...] = (),
    ) -> list[Array]:
        inputs: dict[str, NDArray[Any]] = {
            "mel": frames[None],
            "num_positions": np.array([num_positions], np.int64),
        }
        for name, array in zip(self._pad_names, padding, strict=True):
            inputs[f"pad_{name}"] = array
        outputs: list[Array] = self._session.run(["states", *more_outputs], inputs)
        return outputs
