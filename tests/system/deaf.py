"""Clients that ask and ask and never read an answer: one way for each API.

A flood is what opens the conversation, then one message for ever. WebSocket frames are made by
hand, because every library for them reads.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from protocol.client_messages import Hello, MessageType, encode_message

from .every_api import wyoming_event
from .raw import frame
from .server import Server

RECEIVE_BYTES = 4_096  # small: what the server has written fills it at once
BLOCKED_S = 2.0  # without room in the socket: the server reads no more
BATCH = 1_000  # messages that are made at a time
TIMEOUT_S = 30.0
TEXT, BINARY = 0x81, 0x82


@dataclass(frozen=True)
class Flood:
    """`target` is the path of a WebSocket, or the name of a port for byte streams."""

    target: str
    message: Callable[[str, int], bytes]  # of the token and of its number
    opening: Callable[[str], bytes] = lambda token: b""


def websocket_frame(payload: bytes, head: int = TEXT) -> bytes:
    """One message; the mask is zero."""
    if len(payload) < 126:
        return bytes((head, 0x80 | len(payload))) + bytes(4) + payload
    return struct.pack("!BBH", head, 0x80 | 126, len(payload)) + bytes(4) + payload


def json_frame(kind: str, **fields: object) -> bytes:
    """One JSON message."""
    return websocket_frame(json.dumps({"type": kind, **fields}).encode())


def hello(token: str) -> bytes:
    """Of the native protocol."""
    return encode_message(Hello(client="deaf", token=token), 0)


def ping(number: int) -> bytes:
    """Of the native protocol; the hello was number 0."""
    return frame(MessageType.PING, bytes(8), number + 1)


FLOODS: dict[str, Flood] = {
    "native": Flood("native_port", lambda _, number: ping(number), hello),
    "native over WebSocket": Flood(
        "/v1/stream",
        lambda _, number: websocket_frame(ping(number), BINARY),
        lambda token: websocket_frame(hello(token), BINARY),
    ),
    "together": Flood(
        "/v1/realtime?model=m&input_audio_format=pcm_s16le_16000",
        lambda *_: json_frame("echo", echo_id=1),
    ),
    "openai": Flood(
        "/v1/realtime?intent=transcription", lambda *_: json_frame("session.update", session={})
    ),
    "deepgram": Flood(
        "/v1/listen?encoding=linear16&sample_rate=16000", lambda *_: json_frame("Finalize")
    ),
    "wyoming": Flood("wyoming_port", lambda *_: wyoming_event("ping", {"text": "x" * 100})),
    "http": Flood(
        "http_port",
        lambda token, _: (
            f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        ),
    ),
}


def open_socket(server: Server, target: str, token: str) -> socket.socket:
    """Connected; of a WebSocket the handshake is done."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.settimeout(TIMEOUT_S)
    is_websocket = target.startswith("/")
    port = server.http_port if is_websocket else int(server.addresses[target])
    sock.connect(("127.0.0.1", port))
    if is_websocket:
        sock.sendall(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
    return sock


def flood(server: Server, name: str, token: str, max_bytes: int) -> int:
    """Bytes that the server took before it stopped reading or hung up; at most `max_bytes`."""
    plan = FLOODS[name]
    sent = number = 0
    batch = b""
    with open_socket(server, plan.target, token) as sock:
        sock.sendall(plan.opening(token))
        try:
            while sent < max_bytes:
                if not batch:
                    batch = b"".join(plan.message(token, number + i) for i in range(BATCH))
                    number += BATCH
                if not select.select([], [sock], [], BLOCKED_S)[1]:
                    return sent
                done = sock.send(batch, socket.MSG_DONTWAIT)
                sent, batch = sent + done, batch[done:]
        except OSError:  # it hung up
            pass
    return sent
