"""Builders of ONNX graphs, one method per operation, and the session that runs them.

NodeList is what all graphs share: nodes, constants, weights that stay outside of the graph.
GraphBuilder adds the layers that whisper_graph.py and draft_graph.py make from CTranslate2 weights:
linear ones in float32 and in int8, normalisation, heads. Neither knows a model.

Shapes: N positions, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from .ct2_weights import Ct2Weights

OPSET = 20  # the first with Gelu
IR_VERSION = 9
INT8_MAX = 127.0


@dataclass(slots=True)
class NodeList:
    """Collects nodes; each method adds an operation and returns the name of its output."""

    nodes: list[Any] = field(default_factory=list, init=False)
    constants: dict[str, Any] = field(default_factory=dict, init=False)
    outside: dict[str, NDArray[np.float32]] = field(default_factory=dict, init=False)

    def add(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """One node with one output."""
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def contrib(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """One of ONNX Runtime's own operators; returns its first output."""
        domain = "com.microsoft"
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant, made once for each name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        """A constant (n,) int64."""
        return self.constant(f"integers{values}", np.array(values, np.int64))

    def outside_constant(self, name: str, value: NDArray[np.float32]) -> str:
        """A constant whose bytes are not in the graph: session() needs `outside` for them.

        A serialized graph holds at most 2 GiB, and what is outside is not copied into it.
        """
        if name not in self.constants:
            tensor = onnx.TensorProto(
                name=name,
                data_type=onnx.TensorProto.FLOAT,
                dims=value.shape,
                data_location=onnx.TensorProto.EXTERNAL,
            )
            tensor.external_data.add(key="location", value="outside")
            self.constants[name] = tensor
            self.outside[name] = np.ascontiguousarray(value)
        return name

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> bytes:
        """All of it as a serialized model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())


@dataclass(slots=True)
class GraphBuilder(NodeList):
    """Layers from the weights of a CTranslate2 model."""

    weights: Ct2Weights

    def weight(self, name: str) -> str:
        """A variable of the model in float32."""
        return self.constant(name, self.weights.array(name))

    def linear(self, x: str, name: str, rows: slice | None = None) -> str:
        """x W^T + b, of some of the rows of W, in float32."""
        rows = rows or slice(None)
        tag = f"{name}/{rows.start}"
        matrix = self.constant(f"{tag}/weight", self.weights.array(f"{name}/weight")[rows].T)
        bias = self.constant(f"{tag}/bias", self.weights.array(f"{name}/bias")[rows])
        return self.add("Add", [self.add("MatMul", [x, matrix]), bias])

    def linear_int8(self, x: str, name: str, rows: slice | None = None) -> str:
        """As linear(), with int8 weights, one scale a row, and x quantised as it comes."""
        rows = rows or slice(None)
        matrix = self.weights.array(f"{name}/weight")[rows]
        bias = self.weights.array(f"{name}/bias")[rows]
        return self.matmul_int8(x, f"{name}/{rows.start}", matrix, bias)

    def matmul_int8(
        self, x: str, tag: str, matrix: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """x matrix^T + bias; matrix is (rows, D)."""
        scale = np.maximum(np.abs(matrix).max(axis=1), np.float32(1e-12)) / np.float32(INT8_MAX)
        quantised = np.rint(matrix / scale[:, None]).astype(np.int8).T
        inputs = [
            x,
            self.constant(f"{tag}/weight_int8", quantised),
            self.constant(f"{tag}/scale", scale.astype(np.float32)),
            self.constant(f"{tag}/zero", np.zeros(len(scale), np.int8)),
            self.constant(f"{tag}/bias", bias.astype(np.float32)),
        ]
        return self.contrib("DynamicQuantizeMatMul", inputs, [f"int8_{len(self.nodes)}"])

    def norm(self, x: str, name: str, output: str = "") -> str:
        """Layer normalisation over D."""
        inputs = [x, self.weight(f"{name}/gamma"), self.weight(f"{name}/beta")]
        return self.add("LayerNormalization", inputs, output, axis=-1, epsilon=1e-5)

    def split_heads(self, x: str, num_heads: int, head_width: int, output: str = "") -> str:
        """(1, N, D) -> (1, H, N, E)."""
        split = self.add("Reshape", [x, self.integers(0, 0, num_heads, head_width)])
        return self.add("Transpose", [split], output, perm=[0, 2, 1, 3])


def float_info(name: str, sizes: list[int | str]) -> Any:
    """An input or output in float32; a str is a size that varies."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def int_info(name: str, sizes: list[int | str]) -> Any:
    """An input or output in int64."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.INT64, sizes)


def session(
    model: bytes,
    num_threads: int,
    outside: Mapping[str, NDArray[np.float32]] | None = None,
    *,
    has_arena: bool = True,
) -> Any:
    """An ONNX Runtime session that does not spin: others need the cores while it waits.

    Args:
        outside: the weights that are not in the model. ONNX Runtime copies or packs them, so the
            arrays may go.
        has_arena: what tensors leave free is kept for the next ones. Else it goes back to malloc,
            which can be told to give it back (free_memory.py): Whisper tiny.en over 40 utterances
            of 1 to 10 s then took 1.0 % more CPU time, and its process 75 MiB less.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.enable_mem_pattern = False  # each utterance has another length
    options.enable_cpu_mem_arena = has_arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if outside:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
        options.add_external_initializers(list(outside), values)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
