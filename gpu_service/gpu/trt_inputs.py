"""What goes into the TensorRT encoder and comes out: names, shapes, and the tables of a bucket.

The network that is built offline (builder/encoder_network.py) and the code that runs its plan
(trt.py) meet here. Nothing depends on an utterance's length but the masks, so a bucket is fixed
shapes, and the network computes with no shape. Two tables do what else needs one: which rows of the
table of relative positions a bucket uses, and where each score by position goes by key.

Pure: numbers and numpy. Shapes: B utterances, N frames of 80 ms, 8N mel rows of 10 ms, F mel bands,
P = 2N - 1 relative positions, J width of the projected output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..weights.parakeet_config import SUBSAMPLING_FACTOR
from .encoder_layers import Bucket

Dims = tuple[int | str, ...]  # a number, or the name of a size that differs between buckets
Tables = dict[str, NDArray[np.int32]]

FEATURES = "features"
HALF_MASK, QUARTER_MASK, FRAME_MASK = "half_mask", "quarter_mask", "frame_mask"
KEY_MASK = "key_mask"
POSITION_ROWS, SHIFT_INDEX = "position_rows", "shift_index"
PROJECTED = "projected"
MASKED = -1e4  # added to scores: finite, also as half, so that a row with no valid key is no NaN

# Masks are 1 for real rows and 0 for padding, after each convolution of the subsampling.
FLOAT_INPUTS: Mapping[str, Dims] = {
    FEATURES: ("batch", 1, "rows", "mels"),
    HALF_MASK: ("batch", 1, "halves", 1),
    QUARTER_MASK: ("batch", 1, "quarters", 1),
    FRAME_MASK: ("batch", "frames", 1),
    KEY_MASK: ("batch", 1, 1, "frames"),  # 0 for real frames, MASKED for padding
}
TABLE_INPUTS: Mapping[str, Dims] = {
    POSITION_ROWS: ("positions",),  # rows of the table of relative positions
    SHIFT_INDEX: ("frames", "frames"),  # into a flattened (N, P) matrix
}
INPUTS: Mapping[str, Dims] = {**FLOAT_INPUTS, **TABLE_INPUTS}


def shapes(bucket: Bucket, num_mels: int) -> dict[str, tuple[int, ...]]:
    """Each input's shape in a bucket."""
    frames = bucket.frames
    sizes = {
        "batch": bucket.batch,
        "rows": SUBSAMPLING_FACTOR * frames,
        "halves": 4 * frames,
        "quarters": 2 * frames,
        "frames": frames,
        "positions": 2 * frames - 1,
        "mels": num_mels,
    }
    return {
        name: tuple(dim if isinstance(dim, int) else sizes[dim] for dim in dims)
        for name, dims in INPUTS.items()
    }


def tables(frames: int, max_frames: int) -> Tables:
    """Contents of TABLE_INPUTS for N frames.

    Args:
        max_frames: of the table of positions, whose row r is relative position max_frames - 1 - r.

    Frame i hears frame j at relative position i - j, which among the P of N frames is row
    N - 1 - i + j.
    """
    if not 1 <= frames <= max_frames:
        raise ValueError(f"{frames} frames, and positions for {max_frames}")
    num_positions = 2 * frames - 1
    first = max_frames - frames
    query, key = np.arange(frames)[:, None], np.arange(frames)[None, :]
    shift = query * num_positions + frames - 1 - query + key
    return {
        POSITION_ROWS: np.arange(first, first + num_positions, dtype=np.int32),
        SHIFT_INDEX: shift.astype(np.int32),
    }
