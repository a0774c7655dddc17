"""ControlLink: datagrams both ways, descriptors, and a parent that is gone."""

from __future__ import annotations

import os
import socket

from gateway.control_link import MAX_MESSAGES_PER_TURN, ControlLink
from gateway.event_loop import EventLoop
from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import Drain, Link, Log, Ready, SupervisorMessage

from .rig import ManualClock


def test_messages_descriptors_and_the_end() -> None:
    loop = EventLoop(ManualClock())
    ours, parent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    got: list[tuple[SupervisorMessage, list[int]]] = []
    gone: list[bool] = []
    link = ControlLink(loop, ours, lambda m, fds: got.append((m, fds)), lambda: gone.append(True))
    with open(os.devnull, "rb") as passed:
        send_message(parent, Link(1, 2), (passed.fileno(),))
    for _ in range(MAX_MESSAGES_PER_TURN):
        send_message(parent, Drain())
    loop.run_once()
    assert len(got) == MAX_MESSAGES_PER_TURN
    loop.run_once()
    assert len(got) == MAX_MESSAGES_PER_TURN + 1
    assert got[0][0] == Link(1, 2)
    os.close(got[0][1][0])
    assert link.send(Ready("here"))
    assert receive_message(parent) == (Ready("here"), [])
    parent.close()
    assert not link.send(Ready())
    loop.run_once()
    assert gone == [True]
    link.close()
    loop.close()


def test_a_full_socket_drops_what_is_periodic() -> None:
    loop = EventLoop(ManualClock())
    ours, parent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = ControlLink(loop, ours, lambda *_: None, lambda: None)
    with parent:
        while link.send(Log("info", "x" * 10_000)):
            pass
    link.close()
    loop.close()
