"""One worker whose sessions outlive their connections, its service, and a client that speaks.

Several workers are in test_elsewhere.py, a worker's death is in test_worker_successor.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..counting_service import CountingService
from ..resuming import WINDOW_MS, ResumingClient, pcm
from ..rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(resume_window_ms=WINDOW_MS)
    yield rig
    rig.close()


@pytest.fixture
def service(rig: Rig) -> CountingService:
    return rig.add_service()


@pytest.fixture
def client(rig: Rig, service: CountingService) -> ResumingClient:
    """It has said 320 samples."""
    client = ResumingClient(rig)
    client.speak(pcm(320))
    return client
