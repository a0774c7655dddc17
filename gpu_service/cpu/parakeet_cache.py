"""EncoderCache: what one session's encoder remembers between two increments.

Keys, values and convolution rows of committed frames, layer by layer, and the last mel rows. Its
size does not grow: what is older than `left_frames` goes. Encoders make and read it; it knows
neither the graph nor audio. It can be made anew by encoding its left context again, so it is in no
checkpoint.

Shapes: layers of the encoder, n rows kept, c rows new, D width, K kernel, F mel bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..weights.parakeet_config import SUBSAMPLING_FACTOR, ParakeetConfig

Array = NDArray[np.float32]


@dataclass(slots=True)
class EncoderCache:
    """One session's state. `rows` are those of the frames before next_frame, the newest last."""

    left_frames: int  # at most so many frames are attended to
    rows: dict[str, Array]  # key, value: (layers, n, D), n <= left_frames; conv: (layers, K//2, D)
    mel_tail: Array  # (8, F): the rows before mel row 8 * next_frame
    next_frame: int = 0  # committed so far

    @property
    def num_frames(self) -> int:
        """n: frames whose keys and values are kept."""
        return int(self.rows["key"].shape[1])

    @property
    def first_row(self) -> int:
        """Of mel_tail, that is real: at the start of an utterance none of its 8 rows."""
        return 0 if self.next_frame else SUBSAMPLING_FACTOR

    @property
    def num_bytes(self) -> int:
        """Of all arrays, as they are now."""
        return self.mel_tail.nbytes + sum(array.nbytes for array in self.rows.values())

    def commit(self, rows: Mapping[str, Array], mel_rows: Array) -> None:
        """Append c frames: `rows` of each kind (layers, c, D), `mel_rows` (8 c, F)."""
        num_new = len(mel_rows) // SUBSAMPLING_FACTOR
        max_rows = {
            "key": self.left_frames,
            "value": self.left_frames,
            "conv": self.rows["conv"].shape[1],
        }
        for kind, limit in max_rows.items():
            self.rows[kind] = _appended(self.rows[kind], rows[kind], limit)
        self.mel_tail = np.concatenate([self.mel_tail, mel_rows])[-SUBSAMPLING_FACTOR:].copy()
        self.next_frame += num_new


def empty_cache(config: ParakeetConfig, left_frames: int) -> EncoderCache:
    """The state at the start of an utterance; zeros are what the convolutions pad with."""
    if left_frames < 0:
        raise ValueError(f"left_frames is {left_frames}")
    none = np.zeros((config.num_layers, 0, config.width), np.float32)
    conv = np.zeros((config.num_layers, config.conv_kernel // 2, config.width), np.float32)
    tail = np.zeros((SUBSAMPLING_FACTOR, config.num_mels), np.float32)
    return EncoderCache(left_frames, {"key": none, "value": none, "conv": conv}, tail)


def _appended(old: Array, new: Array, max_rows: int) -> Array:
    """The last `max_rows` of old and new (layers, rows, D), in memory of their own."""
    num_old = old.shape[1]
    num_gone = max(0, num_old + new.shape[1] - max_rows)
    return np.concatenate([old[:, num_gone:], new[:, max(0, num_gone - num_old) :]], axis=1)


def stacked_rows(caches: Sequence[EncoderCache], kind: str) -> Array:
    """(layers, B, L, D): one kind of rows of B caches, the newest last, zeros before the oldest."""
    first = caches[0].rows[kind]
    if len(caches) == 1:
        return first[:, None]
    num_layers, _, width = first.shape
    num_rows = max(cache.rows[kind].shape[1] for cache in caches)
    stacked = np.zeros((num_layers, len(caches), num_rows, width), np.float32)
    for index, cache in enumerate(caches):
        rows = cache.rows[kind]
        stacked[:, index, num_rows - rows.shape[1] :] = rows
    return stacked
