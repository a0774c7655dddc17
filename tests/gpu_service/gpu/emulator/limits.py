"""What an H100 refuses to launch (CUDA C++ programming guide, compute capability 9.0)."""

from __future__ import annotations

import math

from gpu_service.gpu.device import DeviceError

MAX_THREADS_PER_BLOCK = 1024
MAX_THREADS_PER_SM = 2048
MAX_BLOCKS_PER_SM = 32
MAX_SHARED_BYTES = 227 * 1024
SHARED_BYTES_PER_SM = 228 * 1024
RESERVED_SHARED_BYTES = 1024  # of every block
MAX_GRID = (2**31 - 1, 65535, 65535)


def check_launch(kernel: str, grid: tuple[int, int, int], block: int, shared_bytes: int) -> None:
    """Raises DeviceError for sizes that no kernel can have."""
    if not all(1 <= n <= most for n, most in zip(grid, MAX_GRID, strict=True)):
        raise DeviceError(f"kernel {kernel}: grid {grid}")
    if not 1 <= block <= MAX_THREADS_PER_BLOCK:
        raise DeviceError(f"kernel {kernel}: {block} threads a block")
    if not 0 <= shared_bytes <= MAX_SHARED_BYTES:
        raise DeviceError(f"kernel {kernel}: {shared_bytes} bytes of shared memory a block")


def check_cooperative(
    kernel: str, grid: tuple[int, int, int], block: int, shared_bytes: int, num_sms: int
) -> None:
    """Raises DeviceError for more blocks than can be there at once. Registers are not known."""
    per_sm = min(
        MAX_BLOCKS_PER_SM,
        MAX_THREADS_PER_SM // (math.ceil(block / 32) * 32),
        SHARED_BYTES_PER_SM // (shared_bytes + RESERVED_SHARED_BYTES),
    )
    if math.prod(grid) > per_sm * num_sms:
        raise DeviceError(
            f"kernel {kernel}: {math.prod(grid)} blocks of a cooperative launch, "
            f"but only {per_sm} on each of {num_sms} SMs at once"
        )
