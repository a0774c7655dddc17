"""The decoder's kernels at the size of Parakeet-TDT 0.6B fit a Hopper GPU's multiprocessor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_service.decoding.tdt_weights import DecoderWeights, LstmLayer
from gpu_service.gpu.tdt import SHARED_BYTES
from gpu_service.gpu.tdt_buffers import (
    TdtBuffers,
    make_buffers,
    most_resident,
    persistent_shared_bytes,
)

from .emulator import EmulatedDevice, why_unavailable
from .emulator.compiling import KERNELS

NUM_BLOCKS = 132  # multiprocessors of an H100
WIDTH, NUM_TOKENS = 640, 8192


def resource_usage(source: str, tmp_path: Path) -> str:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    command = [
        "nvcc",
        "-arch=sm_90",
        "-std=c++17",
        "--cubin",
        "--resource-usage",
        "-DSTORAGE_HALF=1",
    ]
    command += [str(KERNELS / source), "-o", str(tmp_path / "kernel.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("source", ["tdt_persistent.cu", "tdt_graph.cu"])
def test_no_kernel_spills_registers(source: str, tmp_path: Path) -> None:
    usage = resource_usage(source, tmp_path)
    assert "Compiling entry function 'tdt_" in usage
    assert set(re.findall(r"(\d+) bytes spill (?:stores|loads)", usage)) == {"0"}


@pytest.fixture
def full_size() -> TdtBuffers:
    """Buffers for 256 rows. Of the weights only the sizes matter; embeddings take the longest."""
    if reason := why_unavailable():
        pytest.skip(reason)

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    gates = zeros(4 * WIDTH, WIDTH)
    layer = LstmLayer(gates, gates, zeros(4 * WIDTH))
    weights = DecoderWeights(
        embedding=zeros(1, WIDTH), lstm=(layer, layer),
        projector_weight=zeros(WIDTH, WIDTH), projector_bias=zeros(WIDTH),
        head_weight=zeros(NUM_TOKENS + 6, WIDTH), head_bias=zeros(NUM_TOKENS + 6),
        blank_id=NUM_TOKENS, durations=(0, 1, 2, 3, 4), max_symbols=10,
    )  # fmt: skip
    device: Any = EmulatedDevice()
    return make_buffers(device, weights, "fp16", 1, 256, 1, has_hotwords=False)


def test_all_weights_stay_in_shared_memory_beside_256_rows(full_size: TdtBuffers) -> None:
    num_resident = most_resident(full_size, NUM_BLOCKS, SHARED_BYTES)
    assert num_resident * NUM_BLOCKS >= full_size.num_tiles
    assert persistent_shared_bytes(full_size, num_resident) <= SHARED_BYTES
