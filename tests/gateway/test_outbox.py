"""Outbox: what its length means, and a client that is gone."""

from __future__ import annotations

import socket

from gateway.outbox import (
    MAX_OUT_BYTES,
    SHED_PARTIALS_ABOVE_BYTES,
    STOP_READING_ABOVE_BYTES,
    Outbox,
)


def test_caps_and_writing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        outbox = Outbox(ours)
        outbox.write()
        assert not outbox.append(b"")
        for cap, stops, sheds, full in (
            (STOP_READING_ABOVE_BYTES, True, False, False),
            (SHED_PARTIALS_ABOVE_BYTES, True, True, False),
            (MAX_OUT_BYTES, True, True, True),
        ):
            assert outbox.append(bytes(cap + 1 - len(outbox)))
            assert (outbox.stops_reading, outbox.sheds_partials, outbox.is_full) == (
                stops, sheds, full,
            )  # fmt: skip
        received = 0
        while len(outbox):
            outbox.write()
            outbox.write()  # would block
            received += len(theirs.recv(1 << 20))
        theirs.setblocking(False)
        while received <= MAX_OUT_BYTES:
            received += len(theirs.recv(1 << 20))
        assert received == MAX_OUT_BYTES + 1


def test_a_client_that_is_gone_mutes_it() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        outbox = Outbox(ours)
        assert outbox.append(b"late")
        outbox.write()
        assert outbox.is_muted
        assert not outbox.append(b"more")
        assert len(outbox) == 0
