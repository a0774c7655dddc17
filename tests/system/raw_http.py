"""Uploads by hand, for what no HTTP client would do: bodies without end, or that hardly come."""

from __future__ import annotations

import contextlib
import select
import socket
import time

from .server import Server

TIMEOUT_S = 60.0


def upload(server: Server, path: str, headers: dict[str, str], *lines: str) -> socket.socket:
    """A connection on which the head of a POST was sent."""
    sock = socket.create_connection(("127.0.0.1", server.http_port), TIMEOUT_S)
    kind = "multipart/form-data; boundary=b" if "transcriptions" in path else "audio/wav"
    fields = [f"{name}: {value}" for name, value in headers.items()]
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *fields, *lines]
    sock.sendall("\r\n".join([*head, "", ""]).encode())
    return sock


def answer(sock: socket.socket) -> tuple[int, bytes]:
    """Status and body; the connection ends with it."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65_536):
            data += piece
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), head
    return int(head[9:12]), body


def drip(port: int, start: bytes, piece: bytes) -> bytes:
    """What the server says to a client that goes on sending so little, before it hangs up."""
    heard = b""
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock,
        contextlib.suppress(ConnectionError),
    ):
        sock.sendall(start)
        deadline_s = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline_s:
            sock.sendall(piece)
            if select.select([sock], [], [], 0.1)[0]:
                data = sock.recv(65_536)
                heard += data
                if not data:
                    return heard
        raise AssertionError(f"still there after {TIMEOUT_S} s: {start[:60]!r}")
    return heard
