"""TdtState: what a decoder must remember between two pieces of one utterance.

A value: decoding returns a new one, so a draft over look-ahead frames is thrown away by keeping
the state from before it. It travels in checkpoints as bytes, 12.8 KB for the 0.6 B model. A call
only ends between two frames, so the count of tokens at one frame is never part of it.

It knows no weights: tdt.py checks that a restored state fits the model. Shapes: L layers, J width.

    offset       bytes  field (little-endian)
    0            1      version
    1            1      L
    2            2      J
    4            4      label
    8            4      overshoot
    12           4      hotword_node
    16           4LJ    hidden, float32
    16 + 4LJ     4LJ    cell, float32
    16 + 8LJ     4J     predicted, float32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ServiceError

STATE_VERSION = 1
_HEADER = struct.Struct("<BBHIII")
_FLOAT = np.dtype("<f4")

Array = NDArray[np.float32]


class TdtStateError(ServiceError):
    """Bytes are not a decoder state: damaged, of another version or of another model."""


@dataclass(frozen=True, slots=True, eq=False)
class TdtState:
    """Where a decoder stands. Takes over its arrays and makes them read-only."""

    label: int  # the last token, the blank before the first
    hidden: Array  # (L, J) of the LSTM after `label`
    cell: Array  # (L, J)
    predicted: Array  # (J,) the prediction network's part of the joint
    overshoot: int  # frames of the next piece that the last duration jumps over
    hotword_node: int  # where the hotwords' trie stands, 0 without hotwords

    def __post_init__(self) -> None:
        for array in (self.hidden, self.cell, self.predicted):
            array.setflags(write=False)

    def to_bytes(self) -> bytes:
        """The state as from_bytes() takes it, bit for bit."""
        num_layers, width = self.hidden.shape
        header = _HEADER.pack(
            STATE_VERSION, num_layers, width, self.label, self.overshoot, self.hotword_node
        )
        arrays = (self.hidden, self.cell, self.predicted)
        return header + b"".join(array.astype(_FLOAT).tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> TdtState:
        """What to_bytes() gave. Raises TdtStateError."""
        if len(data) < _HEADER.size:
            raise TdtStateError(f"decoder state of {len(data)} bytes")
        version, num_layers, width, label, overshoot, node = _HEADER.unpack_from(data)
        if version != STATE_VERSION:
            raise TdtStateError(f"decoder state of version {version}")
        if num_layers == 0 or width == 0:
            raise TdtStateError(f"decoder state of {num_layers} layers of width {width}")
        expected_bytes = _HEADER.size + _FLOAT.itemsize * (2 * num_layers + 1) * width
        if len(data) != expected_bytes:
            raise TdtStateError(f"decoder state of {len(data)} bytes instead of {expected_bytes}")
        values = np.frombuffer(data, _FLOAT, offset=_HEADER.size).astype(np.float32)
        if not np.isfinite(values).all():
            raise TdtStateError("decoder state with numbers that are not finite")
        rows = values.reshape(2 * num_layers + 1, width)
        return cls(label, rows[:num_layers], rows[num_layers:-1], rows[-1], overshoot, node)


def restored(data: bytes, num_layers: int, width: int, blank_id: int, num_nodes: int) -> TdtState:
    """The state of to_bytes(), if it is one of a model of these sizes and of hotwords with so many
    nodes. Raises TdtStateError.
    """
    state = TdtState.from_bytes(data)
    if state.hidden.shape != (num_layers, width):
        raise TdtStateError(f"decoder state of shape {state.hidden.shape}")
    if state.label > blank_id or state.hotword_node >= num_nodes:
        raise TdtStateError("decoder state of other tokens or hotwords")
    return state
