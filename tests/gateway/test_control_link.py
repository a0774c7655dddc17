"""ControlLink: datagrams both ways, descriptors, and a parent that is gone, or busy."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.child_process import control_pair
from gateway.control_link import MAX_MESSAGES_PER_TURN, ControlLink
from gateway.event_loop import EventLoop
from protocol.shm import receive_message, send_message
from protocol.supervisor_messages import Drain, Link, Log, Ready, SupervisorMessage, Unlinked

from .rig import ManualClock, Rig


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


class BusyParent:
    """The parent of a worker, which reads when it is told to."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.control, theirs = control_pair()
        self.rig.sockets.append(self.control)
        self.rig.worker.attach_parent(theirs)
        self.worker: Any = self.rig.worker

    def is_busy(self) -> None:
        """From here on nothing reaches it."""
        while self.worker._control.send(Log("info", "x" * 10_000)):
            pass

    def reads(self) -> list[Unlinked]:
        """What it hears of lost links."""
        heard = []
        while (message := self._receive()) is not None:
            heard.append(message)
        return [message for message in heard if isinstance(message, Unlinked)]

    def _receive(self) -> SupervisorMessage | None:
        try:
            received = receive_message(self.control)
        except BlockingIOError:
            return None
        assert received is not None
        return received[0]

    def a_second_later(self) -> list[Unlinked]:
        self.rig.clock.advance_ms(1_000)
        self.rig.settle()
        return self.reads()


@pytest.fixture
def parent() -> Iterator[BusyParent]:
    parent = BusyParent()
    yield parent
    parent.rig.close()


def test_a_parent_that_is_busy_hears_of_a_lost_link_later_and_once(parent: BusyParent) -> None:
    services = [parent.rig.add_service(index, epoch=4) for index in range(2)]
    parent.is_busy()
    for service in services:
        service.sock.close()
    parent.rig.settle()
    assert parent.reads() == []
    assert parent.a_second_later() == [Unlinked(0, 4), Unlinked(1, 4)]
    assert parent.a_second_later() == []


def test_of_a_link_that_was_made_again_meanwhile_it_hears_nothing(parent: BusyParent) -> None:
    service = parent.rig.add_service(epoch=4)
    parent.is_busy()
    service.sock.close()
    parent.rig.settle()
    parent.rig.add_service(epoch=5)
    assert parent.reads() == []
    assert parent.a_second_later() == []
