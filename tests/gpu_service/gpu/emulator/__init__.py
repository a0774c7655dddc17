"""A Device without a GPU: the engine's own kernels, compiled by g++, run on the CPU.

Slow and strict: memory is poisoned, arguments, bounds and barriers are checked, and what the
device would leave undefined is an error. See cuda_emulator.h for the kernels' side.
"""

from .compiling import why_unavailable
from .device import EmulatedDevice
from .gemm import EmulatedGemms

__all__ = ["EmulatedDevice", "EmulatedGemms", "why_unavailable"]
