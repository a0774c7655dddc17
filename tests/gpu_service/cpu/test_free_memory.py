"""Holes between blocks that stay go back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.free_memory import return_free_memory
from gpu_service.cpu.whisper import NO_SAMPLES, STEPS_A_TRIM, WhisperRecognizer
from gpu_service.recognizer import SessionOptions, StepInput, Want

KIB, MIB = 1 << 10, 1 << 20
BLOCK_BYTES = 64 * KIB  # far below malloc's threshold for a mapping of its own
NUM_BLOCKS = 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def private_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * KIB


def holes() -> list[NDArray[np.uint8]]:
    """Every second block of 64 MiB stays; what the others took, malloc keeps."""
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(NUM_BLOCKS)]
    return blocks[::2]


def test_free_blocks_between_those_that_stay_are_returned() -> None:
    kept = holes()
    before = private_bytes()
    return_free_memory()
    assert before - private_bytes() > 24 * MIB  # of 32
    assert all(block.all() for block in kept)


def test_a_recognizer_returns_them_now_and_then(recognizer: WhisperRecognizer) -> None:
    kept, handle = holes(), recognizer.open(SessionOptions())
    before = private_bytes()
    for _ in range(STEPS_A_TRIM):
        recognizer.step([StepInput(handle, NO_SAMPLES, Want.NOTHING)])
    recognizer.close(handle)
    assert before - private_bytes() > 24 * MIB
    assert kept
