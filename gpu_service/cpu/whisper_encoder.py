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

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ct2_weights import Ct2Weights
from .graph_builder import session
from .log_mel import WINDOW_FRAMES, LogMel
from .whisper_graph import WINDOW_POSITIONS, build_encoder, encoder_shape, layer_names

MARGIN_POSITIONS = 50  # 1 s of the padding is computed, not taken from the cache
FULL_FROM_POSITIONS = 1400  # from here on the cache saves nothing worth an approximation
PAD_STEP = 0.25  # pad values are rounded to this: they lie in -1.5..-0.4. 0.125 gains nothing
MAX_CACHE_BYTES = 192 << 20  # of padding; one entry is 39 MB for tiny, and one always stays
COMMON_PAD_VALUES = (-1.0, -0.75)  # normal levels of speech

Array = NDArray[np.float32]


@dataclass(slots=True)
class Padding:
    """A window of nothing but one pad value."""

    states: Array  # (1, 1500, D)
    keys_and_values: tuple[Array, ...]  # 2 a layer, (1, H, 1500, E)
    cross: list[Array] | None = None  # draft_decoder.py's, of the same size

    @property
    def num_bytes(self) -> int:
        """With room for `cross`."""
        return self.states.nbytes + 2 * sum(a.nbytes for a in self.keys_and_values)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's output for a whole window."""

    states: Array  # (1, 1500, D)
    num_computed: int  # positions from here on are those of `padding`
    padding: Padding | None  # None: all positions were computed


class WhisperEncoder:
    """Runs the encoder in ONNX Runtime; several threads may call it."""

    def __init__(self, weights_path: Path, num_threads: int, *, is_int8: bool) -> None:
        """Build the graph. Raises ModelFileError.

        int8 linear layers save a quarter of the time and flip no word of 217 on 31 segments;
        CTranslate2's "int8" quantises the same layers.
        """
        weights = Ct2Weights(weights_path, "encoder/")
        self.shape = encoder_shape(weights)
        self._session: Any = session(
            build_encoder(weights, is_int8=is_int8), num_threads, has_arena=False
        )
        self._pad_names = layer_names(self.shape.num_layers)
        empty = (1, self.shape.num_heads, 0, self.shape.head_width)
        self._no_padding = (np.zeros(empty, np.float32),) * len(self._pad_names)
        self._cache: OrderedDict[float, Padding] = OrderedDict()
        self._cache_lock = threading.Lock()

    def encode(self, mel: LogMel, *, exact: bool = False) -> Encoded:
        """The encoder's output for the whole window."""
        num_computed = self.num_computed(mel)
        if exact or num_computed == WINDOW_POSITIONS:
            states = self._run(mel.padded(), WINDOW_POSITIONS, self._no_padding)[0]
            return Encoded(states, WINDOW_POSITIONS, None)
        padding = self._padding(round(mel.pad_value / PAD_STEP) * PAD_STEP)
        # Two frames more than the positions need: the convolutions look one and one ahead.
        frames = mel.padded(2 * num_computed + 2)
        behind = [a[:, :, num_computed:] for a in padding.keys_and_values]
        states = padding.states.copy()
        states[:, :num_computed] = self._run(frames, num_computed, behind)[0]
        return Encoded(states, num_computed, padding)

    def num_computed(self, mel: LogMel) -> int:
        """N: how many positions encode() computes, without `exact`."""
        num_positions = (mel.frames.shape[1] + 1) // 2 + MARGIN_POSITIONS
        return num_positions if num_positions < FULL_FROM_POSITIONS else WINDOW_POSITIONS

    def prepare(self) -> list[Padding]:
        """Encode the padding of common levels now, so that no user waits for it."""
        return [self._padding(value) for value in COMMON_PAD_VALUES]

    def _padding(self, value: float) -> Padding:
        """The cached window of `value`, made if need be; the least recently used ones go."""
        with self._cache_lock:
            return self._cached_padding(value)

    def _cached_padding(self, value: float) -> Padding:
        if value in self._cache:
            self._cache.move_to_end(value)
            return self._cache[value]
        mel = np.full((self.shape.num_mels, WINDOW_FRAMES), value, np.float32)
        states, *rest = self._run(mel, WINDOW_POSITIONS, self._no_padding, self._pad_names)
        self._cache[value] = Padding(states, tuple(rest))
        while len(self._cache) > 1 and self.num_cached_bytes() > MAX_CACHE_BYTES:
            self._cache.popitem(last=False)
        return self._cache[value]

    def num_cached_bytes(self) -> int:
        """What the cached padding takes."""
        return sum(padding.num_bytes for padding in self._cache.values())

    def _run(
        self,
        frames: Array,
        num_positions: int,
        padding: Sequence[Array],
        more_outputs: Sequence[str] = (),
    ) -> list[Array]:
        inputs: dict[str, NDArray[Any]] = {
            "mel": frames[None],
            "num_positions": np.array([num_positions], np.int64),
        }
        for name, array in zip(self._pad_names, padding, strict=True):
            inputs[f"pad_{name}"] = array
        outputs: list[Array] = self._session.run(["states", *more_outputs], inputs)
        return outputs
