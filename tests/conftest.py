"""Settings every test shares.

Property tests run the same examples on every machine and have no deadline, because a busy machine
is not a failing test; HYPOTHESIS_PROFILE=explore looks for new examples instead. Tests marked
`gpu` are skipped where no NVIDIA device is visible.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, database=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))

NVIDIA_CONTROL_DEVICE = Path("/dev/nvidiactl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU when there is none."""
    if NVIDIA_CONTROL_DEVICE.exists():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)
