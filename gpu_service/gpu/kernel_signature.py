"""What a kernel's parameters are, read from its source, and whether arguments fit them.

The driver takes any bytes for any parameter: a float for an int, or a half buffer for a float one,
would only show as wrong numbers. So every launch is checked here, on the GPU and on the emulator.
Knows nothing of compiling or launching. Kernels are written as

    extern "C" __global__ void [__launch_bounds__(n)] name(const float* x, int n, ...)

with parameters of the few kinds below, no macros in that line, and one definition of each name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .device import Argument, DeviceArray

HANDLE = "cudaGraphConditionalHandle"
SCALARS = {"int": np.int32, "long long": np.int64, "float": np.float32}
# What the memory behind a pointer may hold. Types that are not listed (void, structs) hold any.
ELEMENTS = {
    "T": ("float16", "float32"),
    "float": ("float32",), "float2": ("float32",), "float4": ("float32",),
    "double": ("float64",), "double2": ("float64",),
    "__half": ("float16",), "__half2": ("float16",), "half": ("float16",), "half2": ("float16",),
    "int": ("int32",), "int2": ("int32",), "int4": ("int32",),
    "unsigned": ("uint32", "int32"), "unsigned int": ("uint32", "int32"),
    "short": ("int16",), "unsigned short": ("uint16", "float16"),
    "signed char": ("int8",), "unsigned char": ("uint8", "bool"),
    "long long": ("int64",), "unsigned long long": ("uint64", "int64"),
}  # fmt: skip

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(([^)]*)\)\s*\{{'
)
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__restrict__|struct)\b")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its name and its type without qualifiers, "float*" or "long long"."""

    name: str
    type: str

    @property
    def is_pointer(self) -> bool:
        """Whether it takes an array."""
        return self.type.endswith("*")


def signatures(source: str) -> dict[str, tuple[Parameter, ...]]:
    """The kernels of a source by name. Raises ValueError for what the module text excludes."""
    text = _COMMENT.sub(" ", source)
    found: dict[str, tuple[Parameter, ...]] = {}
    for name, parameters in _KERNEL.findall(text):
        if name in found:
            raise ValueError(f"kernel {name} is defined twice")
        found[name] = tuple(_parameter(name, part) for part in _split(parameters))
    num_kernels = len(re.findall(r"\b__global__\b", text))
    if num_kernels != len(found):
        raise ValueError(f"{num_kernels} kernels, but only {sorted(found)} could be read")
    return found


def check_arguments(
    kernel: str, parameters: Sequence[Parameter], arguments: Sequence[Argument]
) -> None:
    """Raises TypeError that names the first argument that is not what the kernel takes there."""
    if len(parameters) != len(arguments):
        names = ", ".join(f"{p.type} {p.name}" for p in parameters)
        raise TypeError(f"kernel {kernel}({names}) got {len(arguments)} arguments")
    for index, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True)):
        if wanted := _misfit(parameter, argument):
            raise TypeError(
                f"kernel {kernel}: argument {index} is {_named(argument)}, "
                f"but {parameter.type} {parameter.name} takes {wanted}"
            )


def _split(parameters: str) -> list[str]:
    return [part for part in parameters.split(",") if part.strip() not in ("", "void")]


def _parameter(kernel: str, text: str) -> Parameter:
    plain = " ".join(_QUALIFIERS.sub(" ", text).replace("*", " * ").split())
    match = re.fullmatch(r"(\w+(?: \w+)*?)( \*)? (\w+)", plain)
    if match is None:
        raise ValueError(f"kernel {kernel}: cannot read the parameter {text.strip()!r}")
    kind, star, name = match.groups()
    if not star and kind != HANDLE and kind not in SCALARS:
        raise ValueError(f"kernel {kernel}: no argument could be of type {kind} ({name})")
    return Parameter(name, f"{kind}*" if star else kind)


def _misfit(parameter: Parameter, argument: Argument) -> str:
    """What the parameter takes instead, empty if the argument fits."""
    if parameter.is_pointer:
        if not isinstance(argument, DeviceArray):
            return "a DeviceArray"
        elements = ELEMENTS.get(parameter.type.removesuffix("*"), (argument.dtype.name,))
        return "" if argument.dtype.name in elements else f"an array of {' or '.join(elements)}"
    if parameter.type == HANDLE:
        is_value = isinstance(argument, DeviceArray | np.generic | int | float)
        return "a Condition" if is_value or argument is None else ""
    scalar = SCALARS[parameter.type]
    return "" if isinstance(argument, scalar) else f"np.{scalar.__name__}"


def _named(argument: object) -> str:
    if isinstance(argument, DeviceArray):
        return f"an array of {argument.dtype.name}"
    return f"{type(argument).__name__} {argument!r}"
