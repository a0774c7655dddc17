"""The encoder at the sizes of Parakeet-TDT 0.6B v3: one copy of the weights in memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# In a process of its own: resident memory of the test process says nothing.
PROGRAM = """
import json, re
from pathlib import Path
from gpu_service.cpu.parakeet_encoder import open_encoder
from tests.gpu_service.cpu.parakeet_random import FULL, random_checkpoint, random_features

encoder, _ = open_encoder(random_checkpoint(FULL), 400, 2)
features = random_features(1500)
cache = encoder.new_cache(128)
encoder.encode_chunk(cache, features[:1024], 128)
for _ in range(3):
    encoder.encode_chunk(cache, features[:64], 4)
frames = encoder.encode_exact(features)
resident = int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"resident": resident, "cache": cache.num_bytes, "shape": frames.shape}))
"""
ENCODER_BYTES = 4 * 608_000_000  # of parameters in float32


@pytest.mark.slow
def test_memory_holds_the_weights_once() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    found = json.loads(result.stdout)
    assert found["resident"] < 1.3 * ENCODER_BYTES
    assert found["shape"] == [188, 640]
    assert found["cache"] == 4 * (24 * (2 * 128 + 4) * 1024 + 8 * 128)
