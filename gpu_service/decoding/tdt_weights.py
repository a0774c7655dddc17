"""DecoderWeights: what the token-and-duration decoder computes with, in float32.

Only the arrays and the few numbers that go with them, with their shapes. It does not know where
they come from (gpu_service/weights reads and folds them) nor what is done with them (tdt.py, and
later the kernels). Gates of an LSTM layer lie in the order input, forget, cell, output.

Shapes: V tokens without the blank, J width of the decoder and of the joint, R durations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LstmLayer:
    """One layer of the prediction network."""

    w_input: Array  # (4J, J)
    w_hidden: Array  # (4J, J)
    bias: Array  # (4J,) input and hidden bias added


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """Prediction network and joint. The joint's encoder side is part of the encoder."""

    embedding: Array  # (V+1, J); the blank's row stands for "nothing said yet"
    lstm: tuple[LstmLayer, ...]  # the lowest layer first
    projector_weight: Array  # (J, J) from the top layer's output into the joint
    projector_bias: Array  # (J,)
    head_weight: Array  # (V+1+R, J): tokens, blank, durations
    head_bias: Array  # (V+1+R,)
    blank_id: int  # = V
    durations: tuple[int, ...]  # R of them, in encoder frames
    max_symbols: int  # tokens at one frame before the decoder moves on by itself

    @property
    def width(self) -> int:
        """J."""
        return int(self.projector_weight.shape[0])

    @property
    def num_layers(self) -> int:
        """LSTM layers."""
        return len(self.lstm)
