"""Holes between blocks that stay go back to the system."""

from __future__ import annotations

import os
import subprocess
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


OF_A_THREAD = """
import threading
import numpy as np
from gpu_service.cpu.free_memory import return_free_memory
from tests.gpu_service.cpu.test_free_memory import BLOCK_BYTES, private_bytes

np.ones(24 << 20, np.uint8)  # from here on malloc keeps what it would have given back by itself
before, is_free, may_end = private_bytes(), threading.Event(), threading.Event()

def work():
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(512)]
    del blocks
    is_free.set()
    may_end.wait()

threading.Thread(target=work).start()
is_free.wait()
return_free_memory()
print(private_bytes() - before)
may_end.set()
"""


def test_what_a_thread_has_freed_is_returned_from_the_first_heap_only() -> None:
    assert kept_of_a_thread("1") < 2 * MIB  # of 32
    assert kept_of_a_thread("4") > 8 * MIB  # the thread has a heap of its own


def kept_of_a_thread(num_heaps: str) -> int:
    environment = {**os.environ, "MALLOC_ARENA_MAX": num_heaps}
    command = [sys.executable, "-c", OF_A_THREAD]
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(run.stdout)


def test_a_recognizer_returns_them_now_and_then(recognizer: WhisperRecognizer) -> None:
    kept, handle = holes(), recognizer.open(SessionOptions())
    before = private_bytes()
    for _ in range(STEPS_A_TRIM):
        recognizer.step([StepInput(handle, NO_SAMPLES, Want.NOTHING)])
    recognizer.close(handle)
    assert before - private_bytes() > 24 * MIB
    assert kept
