"""Listener: bounded accepts, TCP and Unix, and an address that cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.bulk_budget import BURST_NS, SHARE
from gateway.errors import ListenError
from gateway.event_loop import EventLoop
from gateway.listener import MAX_ACCEPTS_PER_TURN, Listener, bind_tcp

from .rig import ManualClock


def test_accepts_a_bounded_number_a_turn_and_shares_its_port() -> None:
    loop = EventLoop(ManualClock())
    sock = bind_tcp("127.0.0.1", 0)
    address = sock.getsockname()
    accepted: list[socket.socket] = []
    listener = Listener(loop, sock, lambda client, peer: accepted.append(client))
    clients = [socket.create_connection(address) for _ in range(MAX_ACCEPTS_PER_TURN + 3)]
    loop.run_once()
    assert len(accepted) == MAX_ACCEPTS_PER_TURN
    loop.run_once()
    assert len(accepted) == len(clients)
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    bind_tcp("127.0.0.1", address[1]).close()  # another worker's
    listener.close()
    listener.close()
    for client in (*accepted, *clients):
        client.close()
    loop.close()


def test_a_storm_of_connects_gets_a_part_of_the_time() -> None:
    """Each accepted connection costs a burst of time; the next one is accepted when time has
    passed, and one that is closed meanwhile accepts nothing."""
    clock = ManualClock()
    loop = EventLoop(clock)
    sock = bind_tcp("127.0.0.1", 0)
    accepted: list[socket.socket] = []

    def on_connection(client: socket.socket, peer: str) -> None:
        accepted.append(client)
        clock.now_ns += 2 * BURST_NS

    listener = Listener(loop, sock, on_connection)
    clients = []

    def connect() -> None:
        clients.append(socket.create_connection(sock.getsockname()))
        turn(loop)
        turn(loop)

    connect()
    assert len(accepted) == 1
    connect()
    assert len(accepted) == 1
    clock.now_ns += int(2 * BURST_NS / SHARE)
    turn(loop)
    assert len(accepted) == 2
    connect()
    listener.close()
    clock.now_ns += int(4 * BURST_NS / SHARE)
    turn(loop)
    assert len(accepted) == 2
    for client in (*accepted, *clients):
        client.close()
    loop.close()


def turn(loop: EventLoop) -> None:
    """One that never sleeps."""
    loop.wake()
    loop.run_once()


def test_it_says_who_connects(tmp_path: Path) -> None:
    loop = EventLoop(ManualClock())
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s.sock"))
        unix.listen()
        peers: list[str] = []
        clients: list[socket.socket] = []
        for sock in (bind_tcp("127.0.0.1", 0), unix):
            listener = Listener(
                loop, sock, lambda client, peer: (clients.append(client), peers.append(peer))
            )
            with socket.socket(sock.family) as client:
                client.connect(sock.getsockname())
                loop.run_once()
            listener.close()
    assert peers == ["127.0.0.1", ""]
    for accepted in clients:
        accepted.close()
    loop.close()


def test_addresses_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}"):
            bind_tcp("127.0.0.1", port)
    with pytest.raises(ListenError, match=r"host\.invalid"):
        bind_tcp("host.invalid", 1)


def test_without_descriptors_it_pauses_instead_of_spinning() -> None:
    resource = pytest.importorskip("resource")
    clock = ManualClock()
    loop = EventLoop(clock)
    sock = bind_tcp("127.0.0.1", 0)
    accepted: list[socket.socket] = []
    listener = Listener(loop, sock, lambda client, peer: accepted.append(client))
    client = socket.create_connection(sock.getsockname())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
    try:
        assert loop.run_once() == 1
        loop.wake()
        assert loop.run_once() == 1  # the wake-up alone
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    clock.advance_ms(200)
    loop.wake()
    loop.run_once()
    loop.wake()
    loop.run_once()
    assert len(accepted) == 1
    listener.close()
    accepted[0].close()
    client.close()
    loop.close()
