"""ParakeetEncoder: mel features to what the token-and-duration decoder reads, on the CPU.

Whole utterances in batches, or increments: encode_chunk() encodes the rows behind the committed
frames and a look-ahead, keeps what is committed in the session's EncoderCache, and encodes the
look-ahead again next time. Both are one graph over one copy of the weights.

ONNX Runtime packs the weights into a copy and then needs the arrays no more. open_encoder() is for
those who do not need them either: at full size (2.4 GB in float32) an increment of 4 new and 4
look-ahead frames takes 118 ms on two cores packed and 191 ms not packed, a whole utterance the
same; memory stays 1.04 times the weights after loading and 1.25 times after utterances of 30 s.

Knows features and frames, no audio and no tokens. Shapes: B utterances or sessions, T mel rows of
10 ms, F mel bands, N frames of 80 ms, L cached frames, D width, J width for the joint.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..decoding.tdt_weights import DecoderWeights
from ..weights.parakeet_checkpoint import ParakeetCheckpoint
from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from ..weights.parakeet_weights import ParakeetWeights, prepare
from .free_memory import return_free_memory
from .graph_builder import session
from .parakeet_cache import EncoderCache, empty_cache, stacked_rows
from .parakeet_graph import MIN_FRAMES, STATE_KINDS, build_encoder, state_names

Array = NDArray[np.float32]
Integers = NDArray[np.int64]


class ParakeetEncoder:
    """Runs the encoder in ONNX Runtime; several threads may call it, each with its own caches."""

    def __init__(self, weights: ParakeetWeights, num_threads: int) -> None:
        self.config = weights.config
        self.max_frames = weights.max_frames  # L + N of one run at most
        model, outside = build_encoder(weights)
        self._session: Any = session(model, num_threads, outside)
        self._nothing = empty_cache(self.config, 0)

    def encode(self, features: Array, lengths: Integers) -> tuple[Array, Integers]:
        """Whole utterances.

        Args:
            features: (B, T, F) float32, normalised.
            lengths: (B,) how many rows of each are real; the others are not looked at.

        Returns (B, N, J) for the longest one, and (B,) how many frames of each are real.
        Raises ValueError for more than max_frames.
        """
        num_frames = -(-np.asarray(lengths, np.int64) // SUBSAMPLING_FACTOR)
        rows = [utterance[:length] for utterance, length in zip(features, lengths, strict=True)]
        if not rows:
            return np.zeros((0, 0, self.config.decoder_width), np.float32), num_frames
        projected = self._run(rows, [self._nothing] * len(rows), ["projected"])[0]
        return projected[:, : num_frames.max()], num_frames

    def encode_exact(self, features: Array) -> Array:
        """One whole utterance (T, F) without any padding -> (N, J). Raises ValueError."""
        projected: Array = self.encode(features[None], np.array([len(features)]))[0][0]
        return projected

    def new_cache(self, left_frames: int) -> EncoderCache:
        """The state of a session at the start of an utterance. Raises ValueError."""
        if not 0 <= left_frames < self.max_frames:
            raise ValueError(f"{left_frames} cached frames, and room for {self.max_frames} in all")
        return empty_cache(self.config, left_frames)

    def encode_chunk(self, cache: EncoderCache, features: Array, num_commit: int) -> Array:
        """encode_chunks() for one session."""
        return self.encode_chunks([cache], [features], [num_commit])[0]

    def encode_chunks(
        self,
        caches: Sequence[EncoderCache],
        features: Sequence[Array],
        num_commits: Sequence[int],
    ) -> list[Array]:
        """The next frames of some sessions, each of any length.

        Args:
            caches: of different sessions; `num_commits` frames are committed into each.
            features: (T, F) for each: the mel rows from row 8 * cache.next_frame on.
            num_commits: whole frames, 8 rows each; the rest is look-ahead.

        Returns (N, J) for each: the frames from cache.next_frame (as it was) on. The last one is
        as if the utterance ended there, and so are those before it as far as they look ahead.
        Raises ValueError, and then no cache has changed.
        """
        for rows, num_commit in zip(features, num_commits, strict=True):
            if not 0 <= num_commit * SUBSAMPLING_FACTOR <= len(rows):
                raise ValueError(f"{num_commit} frames of {len(rows)} mel rows")
        if not caches:
            return []
        names = [name for kind in STATE_KINDS for name in self._state_names(kind)]
        projected, *states = self._run(features, caches, ["projected", *names])
        for index, cache in enumerate(caches):
            self._commit(cache, states, index, features[index], num_commits[index])
        return [
            frames[: -(-len(rows) // SUBSAMPLING_FACTOR)]
            for frames, rows in zip(projected, features, strict=True)
        ]

    def _commit(
        self, cache: EncoderCache, states: list[Array], index: int, rows: Array, num_commit: int
    ) -> None:
        """Put the first frames of one session of a run into its cache."""
        if num_commit == 0:
            return
        num_layers = self.config.num_layers
        kept = {
            kind: np.stack([a[index, :num_commit] for a in states[i * num_layers :][:num_layers]])
            for i, kind in enumerate(STATE_KINDS)
        }
        cache.commit(kept, rows[: num_commit * SUBSAMPLING_FACTOR])

    def _state_names(self, kind: str) -> list[str]:
        return state_names(kind, self.config.num_layers)

    def _run(
        self, features: Sequence[Array], caches: Sequence[EncoderCache], outputs: list[str]
    ) -> list[Array]:
        """The graph over a batch, padded to the longest rows and to the longest cache."""
        lengths = np.array([len(rows) for rows in features], np.int64)
        num_frames = max(-(-int(lengths.max()) // SUBSAMPLING_FACTOR), MIN_FRAMES)
        num_past = max(cache.num_frames for cache in caches)
        if num_past + num_frames > self.max_frames:
            raise ValueError(f"{num_past} + {num_frames} frames are more than {self.max_frames}")
        inputs: dict[str, NDArray[Any]] = {
            "features": self._padded(features, caches, num_frames),
            "first": np.array([cache.first_row for cache in caches], np.int64),
            "lengths": lengths + SUBSAMPLING_FACTOR,
            "cached": np.array([cache.num_frames for cache in caches], np.int64),
        }
        for kind in STATE_KINDS:
            stacked = stacked_rows(caches, kind)
            for name, layer in zip(self._state_names(kind), stacked, strict=True):
                inputs[f"past_{name}"] = layer
        results: list[Array] = self._session.run(outputs, inputs)
        return results

    def _padded(
        self, features: Sequence[Array], caches: Sequence[EncoderCache], num_frames: int
    ) -> Array:
        """(B, 8 + T, F): each session's mel tail and rows, and zeros."""
        num_rows = SUBSAMPLING_FACTOR * (1 + num_frames)
        padded = np.zeros((len(caches), num_rows, self.config.num_mels), np.float32)
        for out, rows, cache in zip(padded, features, caches, strict=True):
            out[:SUBSAMPLING_FACTOR] = cache.mel_tail
            out[SUBSAMPLING_FACTOR : SUBSAMPLING_FACTOR + len(rows)] = rows
        return padded


def open_encoder(
    checkpoint: ParakeetCheckpoint, max_frames: int, num_threads: int
) -> tuple[ParakeetEncoder, DecoderWeights]:
    """The encoder of a checkpoint, and what its decoder needs.

    Once the caller drops the checkpoint too, nothing else stays in memory. Raises ModelFileError.
    """
    weights = prepare(checkpoint, max_frames)
    encoder = ParakeetEncoder(weights, num_threads)
    decoder = copy.deepcopy(weights.decoder)  # a view would keep all of the file mapped
    del weights
    return_free_memory()  # glibc alone would keep 1.1 GB of arrays that are gone
    return encoder, decoder
