"""Addresses: taken ports are errors, stale sockets are not."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from gateway.reservation import AddressError, UnixListener, reserve_port


def test_port_zero_becomes_a_real_port_that_workers_can_share() -> None:
    with reserve_port("127.0.0.1", 0, "--port") as reserved:
        host, port = reserved.getsockname()
        for _ in range(2):
            worker = socket.socket()
            with worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                worker.bind((host, port))
                worker.listen()
                with socket.create_connection((host, port), 5):
                    worker.accept()[0].close()


def test_a_second_server_on_the_port_is_an_error_even_before_workers_listen() -> None:
    with reserve_port("127.0.0.1", 0, "--port") as reserved:
        port = reserved.getsockname()[1]
        with pytest.raises(AddressError, match=rf"127.0.0.1:{port} is in use.*--native-port"):
            reserve_port("127.0.0.1", port, "--native-port")


def test_a_port_somebody_listens_on_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match="in use"):
            reserve_port("127.0.0.1", port, "--port")


def test_connections_of_an_earlier_server_do_not_block_the_port() -> None:
    first = reserve_port("127.0.0.1", 0, "--port")
    address = first.getsockname()
    worker = socket.socket()
    # Both options, as gateway/listener.py sets them: connections inherit them.
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    worker.bind(address)
    worker.listen()
    client = socket.create_connection(address)
    accepted = worker.accept()[0]
    accepted.close()  # the server closes first: its side goes to TIME_WAIT
    assert client.recv(1) == b""
    for sock in (client, worker, first):
        sock.close()
    reserve_port(address[0], address[1], "--port").close()


def test_unknown_hosts_and_foreign_addresses() -> None:
    with pytest.raises(AddressError, match="cannot resolve host"):
        reserve_port("no.such.host.invalid", 0, "--port")
    with pytest.raises(AddressError, match=r"cannot listen on 192\.0\.2\.1"):
        reserve_port("192.0.2.1", 0, "--port")


def test_a_unix_listener_is_private_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listener = UnixListener(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    UnixListener(path).close()
    assert not os.path.exists(path)


def test_a_socket_in_use_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listener = UnixListener(str(path))
    with pytest.raises(AddressError, match="another server listens"):
        UnixListener(str(path))
    listener.close()
    path.write_text("notes")
    with pytest.raises(AddressError, match="is not a socket"):
        UnixListener(str(path))
    assert path.read_text() == "notes"


def test_somebody_elses_socket_at_the_path_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    listener = UnixListener(str(path))
    path.rename(tmp_path / "moved.sock")
    path.write_text("new owner")
    listener.close()
    assert path.exists()


def test_impossible_paths(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="cannot listen on"):
        UnixListener(str(tmp_path / "none" / "s.sock"))
    with pytest.raises(AddressError, match="too long"):
        UnixListener(str(tmp_path / ("x" * 200)))
