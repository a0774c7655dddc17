"""Connections that end leave no garbage: a storm of connects must not bring on long collections."""

from __future__ import annotations

import gc
import socket
from collections import Counter

import pytest

from .rig import Rig

NUM_CONNECTIONS = 10


@pytest.mark.parametrize(
    ("listener", "request_"),
    [
        ("accept_native", b""),
        ("accept_web", b""),
        ("accept_web", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("accept_wyoming", b""),
    ],
)
def test_a_connection_that_ends_leaves_no_cycle(listener: str, request_: bytes) -> None:
    rig = Rig()
    rig.add_service()

    def come_and_go() -> None:
        ours, theirs = socket.socketpair()
        getattr(rig.worker.door, listener)(ours)
        if request_:
            theirs.sendall(request_)
        rig.settle()
        theirs.close()
        rig.settle()
        rig.clock.advance_ms(6_000)
        rig.settle()

    come_and_go()  # what is made once
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(NUM_CONNECTIONS):
            come_and_go()
        gc.collect()
        left = Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        rig.close()
    assert left["Connection"] == 0
    assert left.total() < NUM_CONNECTIONS, left
