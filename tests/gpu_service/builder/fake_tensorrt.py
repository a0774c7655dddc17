"""A tensorrt module that computes in numpy: what encoder_network.py builds can be run.

FakeTensorRt("8.6.0") or ("11.4.0") stands for the module. Its networks know the layers that ours
have, with TensorRT's rules as its documentation has them: sizes that broadcast, 0 and -1 in
reshapes, indices along an axis, and one type for the inputs of a layer. Half is computed in float32
and rounded after each layer, bfloat16 likewise. Everything that is asked of an object of TensorRT
is noted in `used` as "Class.name": test_tensorrt_names.py looks those up in the real bindings.

Attributes are set after a layer was made, so shapes and values are computed when they are asked
for, layer by layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.decoding.whisper_oracle import erf

Array = NDArray[Any]


class DataType(Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bfloat16"
    INT32 = "int32"


class Recorded:
    """Notes each attribute that is read or set from outside, under TensorRT's name of the class."""

    _class = ""
    _internal = frozenset[str]()

    def __init__(self, used: set[str]) -> None:
        object.__setattr__(self, "_used", used)

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("_"):
            kind = object.__getattribute__(self, "_class")
            object.__getattribute__(self, "_used").add(f"{kind}.{name}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._used.add(f"{self._class}.{name}")
        object.__setattr__(self, name, value)


def rounded(values: Array, kind: DataType) -> Array:
    """What a tensor of that type can hold, in float32."""
    if kind is DataType.HALF:
        return np.asarray(values, np.float16).astype(np.float32)
    if kind is DataType.BF16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        kept = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return kept.view(np.float32)
    return values


class Weights:
    """An array, as numpy has it or by its address."""

    def __init__(self, *arguments: Any) -> None:
        if len(arguments) == 1:
            self.values = arguments[0]
            self.kind = DataType(str(self.values.dtype))
            assert self.values.flags.c_contiguous
            return
        self.kind, address, count = arguments
        memory = (ctypes.c_uint16 * count).from_address(address)
        bits = np.frombuffer(memory, np.uint16).astype(np.uint32) << 16
        self.values = bits.view(np.float32)

    def array(self, shape: tuple[int, ...]) -> Array:
        return np.asarray(self.values).astype(np.float32).reshape(shape)


class Tensor(Recorded):
    _class = "ITensor"

    def __init__(
        self, used: set[str], kind: DataType, compute: Callable[[dict[str, Array]], Array]
    ):
        super().__init__(used)
        self._kind = kind
        self._compute = compute
        self._name = ""
        self._dimension_names: dict[int, str] = {}

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        object.__setattr__(self, "_name", value)

    def set_dimension_name(self, axis: int, name: str) -> None:
        self._dimension_names[axis] = name


class Layer(Recorded):
    _class = "ILayer"

    def __init__(self, network: Network, kind: DataType, compute: Callable[..., Array]) -> None:
        super().__init__(network._used)
        self._network = network
        self._output = Tensor(network._used, kind, lambda values: rounded(compute(values), kind))
        self.name = ""
        network._layers.append(self)

    def get_output(self, index: int) -> Tensor:
        assert index == 0
        return self._output

    def set_output_type(self, index: int, kind: DataType) -> None:
        assert index == 0
        assert kind is self._output._kind, f"{self._name_now()} is pinned to {kind}"

    def _name_now(self) -> str:
        name: str = object.__getattribute__(self, "name")
        return name


def layer_class(name: str) -> type[Layer]:
    return type(name, (Layer,), {"_class": name})


class Network(Recorded):
    """INetworkDefinition. run() computes its outputs from named inputs."""

    _class = "INetworkDefinition"

    def __init__(self, used: set[str], flags: int) -> None:
        super().__init__(used)
        self._flags = flags
        self._layers: list[Layer] = []
        self._inputs: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self._outputs: list[Tensor] = []

    def _run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        assert set(values) == set(self._inputs)
        for name, (tensor, shape) in self._inputs.items():
            given = values[name].shape
            assert len(given) == len(shape), name
            assert all(want in (-1, is_) for want, is_ in zip(shape, given, strict=True)), name
            assert (tensor._kind is DataType.INT32) == (values[name].dtype == np.int32), name
        memory = dict(values)
        return {tensor._name: self._value(tensor, memory) for tensor in self._outputs}

    def _value(self, tensor: Tensor, memory: dict[Any, Array]) -> Array:
        if id(tensor) not in memory:
            memory[id(tensor)] = tensor._compute(memory)
        return memory[id(tensor)]

    def _layer(
        self,
        name: str,
        inputs: tuple[Tensor, ...],
        compute: Callable[..., Array],
        kind: DataType | None = None,
    ) -> Any:
        floats = {tensor._kind for tensor in inputs} - {DataType.INT32}
        assert len(floats) == 1, f"{name} of {floats}"
        made: Any = layer_class(name)(
            self,
            kind or inputs[0]._kind,
            lambda memory: compute(made, *(self._value(tensor, memory) for tensor in inputs)),
        )
        return made

    def add_input(self, name: str, kind: DataType, shape: tuple[int, ...]) -> Tensor | None:
        if name in self._inputs:
            return None
        tensor = Tensor(self._used, kind, lambda memory: rounded(memory[name], kind))
        self._inputs[name] = (tensor, shape)
        object.__setattr__(tensor, "_name", name)
        return tensor

    def mark_output(self, tensor: Tensor) -> None:
        self._outputs.append(tensor)

    def add_constant(self, shape: tuple[int, ...], weights: Weights) -> Any:
        return layer_class("IConstantLayer")(self, weights.kind, lambda _: weights.array(shape))

    def add_cast(self, x: Tensor, kind: DataType) -> Any:
        return self._layer("ICastLayer", (x,), lambda _, values: values, kind)

    def add_elementwise(self, x: Tensor, y: Tensor, operation: str) -> Any:
        function = {"SUM": np.add, "PROD": np.multiply}[operation]
        return self._layer("IElementWiseLayer", (x, y), lambda _, a, b: _broadcast(function, a, b))

    def add_activation(self, x: Tensor, kind: str) -> Any:
        function = {
            "RELU": lambda v: np.maximum(v, 0),
            "SIGMOID": lambda v: 1 / (1 + np.exp(-v)),
        }[kind]
        return self._layer("IActivationLayer", (x,), lambda _, values: function(values))

    def add_unary(self, x: Tensor, operation: str) -> Any:
        function = {"ERF": erf}[operation]
        return self._layer("IUnaryLayer", (x,), lambda _, values: function(values))

    def add_matrix_multiply(self, x: Tensor, first: str, y: Tensor, second: str) -> Any:
        assert first == "NONE"

        def compute(_: Any, a: Array, b: Array) -> Array:
            assert a.ndim == b.ndim
            return a @ (np.swapaxes(b, -1, -2) if second == "TRANSPOSE" else b)

        return self._layer("IMatrixMultiplyLayer", (x, y), compute)

    def add_normalization(self, x: Tensor, scale: Tensor, bias: Tensor, axes: int) -> Any:
        def compute(layer: Any, v: Array, s: Array, b: Array) -> Array:
            axis = tuple(i for i in range(v.ndim) if axes >> i & 1)
            assert s.ndim == b.ndim == v.ndim
            centred = v - v.mean(axis, keepdims=True)
            variance = (centred**2).mean(axis, keepdims=True)
            return centred / np.sqrt(variance + layer.epsilon) * s + b

        return self._layer("INormalizationLayer", (x, scale, bias), compute)

    def add_softmax(self, x: Tensor) -> Any:
        def compute(layer: Any, v: Array) -> Array:
            axis = int(layer.axes).bit_length() - 1
            odds = np.exp(v - v.max(axis, keepdims=True))
            return odds / odds.sum(axis, keepdims=True)

        return self._layer("ISoftMaxLayer", (x,), compute)

    def add_shuffle(self, x: Tensor) -> Any:
        def compute(layer: Any, v: Array) -> Array:
            state = vars(layer)
            if "first_transpose" in state:
                v = v.transpose(state["first_transpose"])
            if "reshape_dims" in state:
                dims = state["reshape_dims"]
                v = v.reshape([v.shape[i] if dim == 0 else dim for i, dim in enumerate(dims)])
            if "second_transpose" in state:
                v = v.transpose(state["second_transpose"])
            return v

        return self._layer("IShuffleLayer", (x,), compute)

    def add_gather(self, x: Tensor, index: Tensor, axis: int) -> Any:
        assert index._kind is DataType.INT32
        return self._layer("IGatherLayer", (x, index), lambda _, v, i: np.take(v, i, axis))

    def add_convolution_nd(
        self,
        x: Tensor,
        num_maps: int,
        kernel_shape: tuple[int, ...],
        kernel: Weights,
        bias: Weights,
    ) -> Any:
        assert kernel.kind is bias.kind is x._kind
        assert len(kernel_shape) == 2

        def compute(layer: Any, v: Array) -> Array:
            shape = (num_maps, v.shape[1] // layer.num_groups, *kernel_shape)
            out = _convolution(
                v, kernel.array(shape), layer.stride_nd, layer.padding_nd, layer.num_groups
            )
            return out + bias.array((num_maps, 1, 1))

        return self._layer("IConvolutionLayer", (x,), compute)


class NetworkOf1015(Network):
    """As TensorRT 10.15 and later have it."""

    def add_normalization_v2(self, x: Tensor, scale: Tensor, bias: Tensor, axes: int) -> Any:
        return Network.add_normalization(self, x, scale, bias, axes)


def _broadcast(function: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    assert a.ndim == b.ndim, f"{a.shape} with {b.shape}"
    return function(a, b)


def _convolution(
    x: Array, kernel: Array, stride: tuple[int, int], padding: tuple[int, int], num_groups: int
) -> Array:
    """(B, I, h, w) with (O, I / groups, kh, kw): tap by tap."""
    num_maps, per_group, height, width = kernel.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = (padded.shape[2] - height) // stride[0] + 1
    columns = (padded.shape[3] - width) // stride[1] + 1
    out = np.zeros((len(x), num_groups, num_maps // num_groups, rows, columns), np.float32)
    groups = kernel.reshape(num_groups, -1, per_group, height, width)
    for i in range(height):
        for j in range(width):
            taken = padded[:, :, i : i + stride[0] * rows : stride[0]]
            taken = taken[..., j : j + stride[1] * columns : stride[1]][:, :, :rows, :columns]
            taken = taken.reshape(len(x), num_groups, per_group, rows, columns)
            out += np.einsum("bgihw,goi->bgohw", taken, groups[..., i, j], optimize=True)
    return out.reshape(len(x), num_maps, rows, columns)


class _Flag(IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class FakeTensorRt:
    """The module. Names that a version does not have are missing here as well."""

    float32, float16, int32 = DataType.FLOAT, DataType.HALF, DataType.INT32
    Weights = Weights
    NetworkDefinitionCreationFlag = _Flag

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.used: set[str] = set()
        self.is_weak = version.startswith("8.")
        if not self.is_weak:
            self.bfloat16 = DataType.BF16

    @staticmethod
    def Permutation(order: list[int]) -> list[int]:
        return order

    class ActivationType:
        RELU, SIGMOID = "RELU", "SIGMOID"

    class UnaryOperation:
        ERF = "ERF"

    class ElementWiseOperation:
        SUM, PROD = "SUM", "PROD"

    class MatrixOperation:
        NONE, TRANSPOSE = "NONE", "TRANSPOSE"

    def create_network(self, flags: int) -> Network:
        """Builder.create_network."""
        version = tuple(int(part) for part in self.__version__.split(".")[:2])
        return (NetworkOf1015 if version >= (10, 15) else Network)(self.used, flags)
