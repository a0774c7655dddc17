"""Silero's voice activity model as matrix products over a batch of streams.

The graph in the file takes successive frames of ONE stream, its leading dimension is time, and its
convolutions go stream by stream. This one has the same weights; its leading dimension is streams,
each convolution is one product over all of them, and taps that only ever see padding are left out.
On one core 17 us a frame in a batch of 16 or more, where the file's own graph with rows instead of
time takes 59 us; alone 59 against 94. Folding the transform took another tenth off batches.

Knows the arithmetic of one frame, no file and no state; vad.py runs it. Shapes: B streams.

    input         (B, 576)        64 samples of context and a frame of 512
    h, c          (1, B, 128)     the LSTM's state
 -> speech_probs  (B,)
    hn, cn        (1, B, 128)     the state behind this frame
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .cpu.graph_builder import NodeList, float_info

INPUT_SAMPLES = 576
HOP_SAMPLES = 128  # of the short-time Fourier transform; its windows are two hops long
NUM_SPECTRA = 4  # windows in an input that is mirrored by one half of a hop at its end
NUM_BINS = 129
STATE_SIZE = 128

Array = NDArray[np.float32]


def batched_graph(data: bytes) -> bytes:
    """The graph of this module with the weights in a serialized Silero model (version 6)."""
    model = onnx.load_model_from_string(data)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    gates = [weights[name] for name in lstm.input[1:4]]
    graph = _Vad(weights)
    graph.build(gates)
    state: list[int | str] = [1, "B", STATE_SIZE]
    inputs = [float_info("input", ["B", INPUT_SAMPLES]), *(float_info(n, state) for n in "hc")]
    outputs = [float_info("speech_probs", ["B"]), *(float_info(n, state) for n in ("hn", "cn"))]
    return graph.nodes.model("vad", inputs, outputs)


class _Vad:
    def __init__(self, weights: dict[str, Any]) -> None:
        self.nodes = NodeList()
        self._weights = weights

    def build(self, gates: list[Array]) -> None:
        """All nodes, up to the outputs."""
        x = self._magnitudes()  # (B, 4, 129)
        x = self._dense(self._windows(x, [0, 1, 2, 3], 1, 1), 0, [0, 1, 2])  # (B, 4, 128)
        x = self._dense(self._windows(x, [0, 2], 1, 0), 1, [0, 1, 2])  # (B, 2, 64)
        # A stride of 2 leaves one position of two, whose left neighbour is padding ...
        x = self._dense(self._reshape(x, -1, 1, 2 * 64), 2, [1, 2])  # (B, 1, 64)
        x = self._dense(x, 3, [1])  # ... and then both neighbours are: (B, 1, 128)
        self._decode(self._reshape(x, 1, -1, STATE_SIZE), gates)

    def _magnitudes(self) -> str:
        """(B, 4, 129): of the windows of two hops, each a hop behind the one before.

        Cosines are the same on both sides of a window's middle, sines the negative (as is the
        window's shape, and so the basis, to the bit): samples as far from it are added before the
        product, or subtracted, which is half as long then.
        """
        add, integers = self.nodes.add, self.nodes.integers
        padded = add("Pad", ["input", integers(0, 0, 0, HOP_SAMPLES // 2)], mode="reflect")
        hops = self._reshape(padded, -1, NUM_SPECTRA + 1, HOP_SAMPLES)
        left, right = (self._slice(hops, i, i + NUM_SPECTRA) for i in (0, 1))
        first, middle = (self._slice(half, 0, 1, axis=2) for half in (left, right))
        before = self._slice(left, 1, HOP_SAMPLES, axis=2)
        behind = self._slice(right, HOP_SAMPLES - 1, 0, axis=2, step=-1)
        even = add("Concat", [first, add("Add", [before, behind]), middle], axis=2)
        odd = add("Sub", [before, behind])
        basis = self._weights["encoder.feature_extractor.forward_basis_buffer"][:, 0].T
        cosines, sines = basis[: HOP_SAMPLES + 1, :NUM_BINS], basis[1:HOP_SAMPLES, NUM_BINS:]
        squares = []
        for name, samples, part in (("re", even, cosines), ("im", odd, sines)):
            spectrum = add("MatMul", [samples, self.nodes.constant(name, part)])
            squares.append(add("Mul", [spectrum, spectrum]))
        return add("Sqrt", [add("Add", squares)])

    def _windows(self, x: str, firsts: list[int], before: int, behind: int) -> str:
        """(B, positions, 3 channels): what each output of a convolution over three positions sees.

        Args:
            firsts: the position in the padded input at which each output begins to see.
            before, behind: positions of zeros around the (B, N, channels) input.
        """
        padded = self.nodes.add("Pad", [x, self.nodes.integers(0, before, 0, 0, behind, 0)])
        if firsts == [0, 1, 2, 3]:
            taps = [self._slice(padded, tap, tap + len(firsts)) for tap in range(3)]
            return self.nodes.add("Concat", taps, axis=2)
        seen = [self._slice(padded, first, first + 3) for first in firsts]
        rows = [self._reshape(one, -1, 1, 3 * 128) for one in seen]
        return self.nodes.add("Concat", rows, axis=1)

    def _dense(self, x: str, layer: int, taps: list[int]) -> str:
        """ReLU of a convolution's product: x (B, N, taps * channels)."""
        kernel = self._weights[f"encoder.conv_layers.{layer}.weight"][:, :, taps]
        matrix = kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0])
        bias = self._weights[f"encoder.conv_layers.{layer}.bias"]
        product = self.nodes.add("MatMul", [x, self.nodes.constant(f"matrix{layer}", matrix)])
        summed = self.nodes.add("Add", [product, self.nodes.constant(f"bias{layer}", bias)])
        return self.nodes.add("Relu", [summed])

    def _decode(self, x: str, gates: list[Array]) -> None:
        """The LSTM over (1, B, 128): one step of B rows, and the probability of each."""
        nodes = self.nodes
        names = [nodes.constant(f"lstm{i}", array) for i, array in enumerate(gates)]
        nodes.nodes.append(
            helper.make_node(
                "LSTM", [x, *names, "", "h", "c"], ["", "hn", "cn"], hidden_size=STATE_SIZE
            )
        )
        weight = nodes.constant("out", self._weights["decoder.conv1d.weight"].reshape(-1))
        bias = nodes.constant("out_bias", self._weights["decoder.conv1d.bias"])
        weighted = nodes.add("Mul", [nodes.add("Relu", ["hn"]), weight])
        total = nodes.add("ReduceSum", [weighted, nodes.integers(2)], keepdims=0)
        odds = nodes.add("Sigmoid", [nodes.add("Add", [total, bias])])
        nodes.add("Reshape", [odds, nodes.integers(-1)], "speech_probs")

    def _slice(self, x: str, start: int, stop: int, axis: int = 1, step: int = 1) -> str:
        """Every `step`-th position from `start`, up to but not `stop`."""
        bounds = [self.nodes.integers(value) for value in (start, stop, axis, step)]
        return self.nodes.add("Slice", [x, *bounds])

    def _reshape(self, x: str, *sizes: int) -> str:
        return self.nodes.add("Reshape", [x, self.nodes.integers(*sizes)])
