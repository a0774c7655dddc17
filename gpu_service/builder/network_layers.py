"""Layers of a TensorRT network by their names, in the precision that each computes in.

What the networks of our encoders are made of (encoder_network.py, whisper_network.py): matrices and
most activations are in the storage precision; layer normalisation, softmax and the sum that every
layer adds to are float32, with a cast wherever a type changes, which both weakly and strongly typed
TensorRT take (gpu/trt_compat.py). With that sum in fp16 Parakeet's 24 layers missed the gate on an
H200: relative error 1.07e-2 on 264 frames, at most 1e-2. Every layer has a name.

`trt` is the tensorrt module, as an argument: tests pass one that computes in numpy. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..gpu.trt_compat import Dialect, TrtPrecision, data_type
from .network_weights import NetworkWeight

EPSILON = 1e-5  # of the layer normalisations


class NetworkError(AssertionError):
    """TensorRT refused a layer: a mistake of ours. Its log says which rule was broken."""


@dataclass(slots=True)
class NetworkLayers:
    """Adds layers to a network."""

    trt: Any
    dialect: Dialect
    network: Any  # trt.INetworkDefinition
    config: Any  # of the model
    weights: Mapping[str, NetworkWeight]
    precision: TrtPrecision
    keep_alive: list[Any] = field(default_factory=list)  # until the build is over

    def weight(self, name: str) -> Any:
        """An array as a tensor."""
        layer = self.network.add_constant(self.weights[name].shape, self.kernel(name))
        return self.named(layer, name).get_output(0)

    def kernel(self, name: str) -> Any:
        """An array as the weights of a layer."""
        weight = self.weights[name]
        weights = self.dialect.weights(weight.values, weight.precision)
        self.keep_alive.append(weights)
        return weights

    # -- single layers ---------------------------------------------------------------------

    def checked(self, made: Any, name: str) -> Any:
        """What TensorRT made. Raises NetworkError where it made nothing."""
        if made is None:
            raise NetworkError(f"TensorRT refused {name}")
        return made

    def named(self, layer: Any, name: str) -> Any:
        """The layer, with its name."""
        self.checked(layer, name).name = name
        return layer

    def computed(self, layer: Any, name: str, precision: TrtPrecision) -> Any:
        """The result of a layer that computes in a precision."""
        self.dialect.pin(self.named(layer, name), precision)
        return layer.get_output(0)

    def cast(self, x: Any, precision: TrtPrecision, name: str) -> Any:
        """x in another type. (8.6 can not be asked for a tensor's type: it says float32.)"""
        if self.precision == "fp32":
            return x
        layer = self.network.add_cast(x, data_type(self.trt, precision))
        return self.named(layer, name).get_output(0)

    def stored(self, x: Any, name: str) -> Any:
        """x in the storage type."""
        return self.cast(x, self.precision, name)

    def add(self, x: Any, y: Any, name: str, precision: TrtPrecision | None = None) -> Any:
        """x + y, with broadcasting."""
        layer = self.network.add_elementwise(x, y, self.trt.ElementWiseOperation.SUM)
        return self.computed(layer, name, precision or self.precision)

    def add_weight(self, x: Any, name: str) -> Any:
        """x + a weight."""
        return self.add(x, self.weight(name), f"{name}.add")

    def multiply(self, x: Any, y: Any, name: str) -> Any:
        """x y, with broadcasting."""
        layer = self.network.add_elementwise(x, y, self.trt.ElementWiseOperation.PROD)
        return self.computed(layer, name, self.precision)

    def relu(self, x: Any, name: str) -> Any:
        """max(x, 0)."""
        layer = self.network.add_activation(x, self.trt.ActivationType.RELU)
        return self.computed(layer, name, self.precision)

    def sigmoid(self, x: Any, name: str) -> Any:
        """1 / (1 + exp(-x))."""
        layer = self.network.add_activation(x, self.trt.ActivationType.SIGMOID)
        return self.computed(layer, name, self.precision)

    def silu(self, x: Any, name: str) -> Any:
        """x sigmoid(x)."""
        return self.multiply(x, self.sigmoid(x, f"{name}.sigmoid"), name)

    def product(self, x: Any, y: Any, name: str, *, transposed: bool = True) -> Any:
        """x y^T, or x y; leading sizes broadcast."""
        plain, swapped = self.trt.MatrixOperation.NONE, self.trt.MatrixOperation.TRANSPOSE
        layer = self.network.add_matrix_multiply(x, plain, y, swapped if transposed else plain)
        return self.computed(layer, name, self.precision)

    def linear(self, x: Any, name: str) -> Any:
        """x W^T."""
        return self.product(x, self.weight(f"{name}.weight"), name)

    def norm(self, wide: Any, name: str) -> Any:
        """Layer normalisation of what is float32, in the storage type."""
        return self.stored(self.norm_wide(wide, name), f"{name}.stored")

    def norm_wide(self, wide: Any, name: str) -> Any:
        """Layer normalisation over the last of three dimensions, float32 as what comes in."""
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        layer = self.dialect.normalization(self.network, wide, scale, bias, 1 << 2)
        self.named(layer, name).epsilon = EPSILON
        return self.computed(layer, name, "fp32")

    def residual(self, wide: Any, x: Any, name: str) -> Any:
        """wide + x, in float32."""
        return self.add(wide, self.cast(x, "fp32", f"{name}.float32"), f"{name}.residual", "fp32")

    def shuffle(
        self,
        x: Any,
        name: str,
        *,
        before: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
        after: tuple[int, ...] | None = None,
    ) -> Any:
        """Transpose, reshape, transpose. In a shape, 0 keeps a size and -1 infers one."""
        layer = self.named(self.network.add_shuffle(x), name)
        if before is not None:
            layer.first_transpose = self.trt.Permutation(list(before))
        if shape is not None:
            layer.reshape_dims = shape
        if after is not None:
            layer.second_transpose = self.trt.Permutation(list(after))
        return layer.get_output(0)

    def gather(self, x: Any, index: Any, axis: int, name: str) -> Any:
        """x at an index along one axis."""
        return self.named(self.network.add_gather(x, index, axis), name).get_output(0)

    def convolve(
        self,
        x: Any,
        name: str,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        num_groups: int = 1,
    ) -> Any:
        """A convolution over time and frequency."""
        shape = self.weights[f"{name}.weight"].shape
        layer = self.network.add_convolution_nd(
            x, shape[0], shape[2:], self.kernel(f"{name}.weight"), self.kernel(f"{name}.bias")
        )
        self.named(layer, name).stride_nd = stride
        layer.padding_nd = padding
        layer.num_groups = num_groups
        return self.computed(layer, name, self.precision)
