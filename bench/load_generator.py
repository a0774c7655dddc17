"""The load generator of `bench gateway`: raw sockets, pre-encoded frames, one absolute schedule.

A process of its own, pinned by whoever starts it:

    python -m bench.load_generator --config JSON

It connects all streams, says "ready", waits for a line on stdin, answers with the start time,
sends frame k of stream i at start + 20 ms x (k + i / streams), and ends with one JSON line. Lag
(actual minus scheduled send) of every frame goes to an .npz file. It sleeps in steps of QUANTUM:
a wake-up per frame would cost more than the frame. It reads what the server says once a second.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import socket
import sys
import time
from collections.abc import Callable

import msgspec
import numpy as np

from protocol.client_messages import Closed, Started, decode_payload
from protocol.framing import CLIENT_MAGIC, FrameDecoder

from . import frames

QUANTUM_S = 0.000_8
DRAIN_EVERY_TICKS = 50
RECEIVE_BYTES = 64 * 1024
START_DELAY_NS = 100_000_000
END_TIMEOUT_S = 10.0


class LoadConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, and where."""

    address: tuple[str, int] | str  # TCP, or the path of a Unix socket
    dialect: str  # "native", "together" or "websocket" (binary PCM, for the baseline)
    num_streams: int
    num_frames: int  # of each stream
    out: str


class Client:
    """One stream's socket. Blocking until `start`, never after."""

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        if isinstance(config.address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(config.address)
        else:
            self.sock = socket.create_connection(config.address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(END_TIMEOUT_S)
        self.session_id = ""
        self.backlog = bytearray()  # what the socket did not take
        self._decoder = FrameDecoder(CLIENT_MAGIC)

    def greet(self) -> None:
        """Send the opening."""
        if self._config.dialect == "native":
            self.sock.sendall(frames.native_hello())
            return
        host, port = self.sock.getpeername()[:2]
        path = frames.TOGETHER_PATH if self._config.dialect == "together" else "/"
        self.sock.sendall(frames.websocket_request(host, port, path))

    def await_session(self) -> None:
        """Wait until the server has named the session. Raises RuntimeError when it refuses."""
        read = self._read_native if self._config.dialect == "native" else self._read_websocket
        self.session_id = read()

    def _read_native(self) -> str:
        message = self._next_message()
        if not isinstance(message, Started):
            raise RuntimeError(f"no session: {message}")
        return message.session_id

    def _next_message(self) -> object:
        while (frame := self._decoder.next_frame()) is None:
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise RuntimeError("the server closed the connection")
            self._decoder.receive_data(data)
        return decode_payload(frame.type, frame.payload)

    def _read_websocket(self) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._recv_some()
        head, _, rest = data.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"no WebSocket: {head[:200]!r}")
        while not (found := frames.split_websocket(rest)[0]):
            rest += self._recv_some()
        created = json.loads(found[0][1])
        return str(created["session"]["id"])

    def _recv_some(self) -> bytes:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data

    def send_late(self, frame: bytes) -> int:
        """The socket is full: keep what it does not take; returns the bytes that wait."""
        self.backlog += frame
        with contextlib.suppress(BlockingIOError):
            del self.backlog[: self.sock.send(self.backlog)]
        return len(self.backlog)

    def drain(self) -> None:
        """Throw away what the server said; keeps its queue from filling."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if self._config.dialect == "native":
            self._decoder.receive_data(data)
            while self._decoder.next_frame() is not None:
                pass

    def end(self) -> None:
        """Say goodbye: a bye, or a WebSocket close frame."""
        self.sock.settimeout(END_TIMEOUT_S)
        if self._config.dialect == "native":
            self.sock.sendall(bytes(self.backlog) + frames.native_bye(self._config.num_frames))
        else:
            close = frames.websocket_frame(frames.CLOSE, (1000).to_bytes(2, "big"))
            self.sock.sendall(bytes(self.backlog) + close)

    def close_record(self) -> Closed | None:
        """The server's three counts (native only); None when they did not come."""
        if self._config.dialect != "native":
            return None
        try:
            while not isinstance(message := self._next_message(), Closed):
                pass
        except (OSError, RuntimeError):
            return None
        return message


def send_all(clients: list[Client], payloads: list[bytes], begin_ns: int) -> tuple[list[int], int]:
    """The paced loop. Returns the lag of every frame in order, and how many found a full socket."""
    lags: list[int] = []
    num_full = 0
    sends: list[Callable[[bytes], int]] = [client.sock.send for client in clients]
    step_ns = frames.FRAME_NS / len(clients)
    clock, sleep, note = time.monotonic_ns, time.sleep, lags.append
    horizon_ns = 0.0
    for k, payload in enumerate(payloads):
        due_ns = float(begin_ns + k * frames.FRAME_NS)
        for client, send in zip(clients, sends, strict=True):
            if due_ns > horizon_ns:
                horizon_ns = clock()
                if due_ns > horizon_ns:
                    sleep((due_ns - horizon_ns) / 1e9 + QUANTUM_S)
                    horizon_ns = clock()
            note(int(clock() - due_ns))
            due_ns += step_ns
            if client.backlog or not _try_send(send, payload):
                num_full += 1
                client.send_late(payload)
        for client in clients[k % DRAIN_EVERY_TICKS :: DRAIN_EVERY_TICKS]:
            client.drain()
    return lags, num_full


def _try_send(send: Callable[[bytes], int], payload: bytes) -> bool:
    """False when the socket took nothing. Half a frame cannot happen to so small a one here: the
    kernel takes a frame of under 2 KB whole or not at all, which the assertion holds."""
    try:
        sent = send(payload)
    except BlockingIOError:
        return False
    assert sent == len(payload)
    return True


def connect_all(config: LoadConfig) -> list[Client]:
    """All streams, admitted."""
    clients = []
    for _ in range(config.num_streams):
        client = Client(config)
        client.greet()
        clients.append(client)
    for client in clients:
        client.await_session()
        client.sock.setblocking(False)
    return clients


def payloads_of(config: LoadConfig) -> list[bytes]:
    """Frame k of every stream."""
    if config.dialect == "native":
        return frames.native_frames(config.num_frames)
    if config.dialect == "together":
        return [frames.together_append()] * config.num_frames
    return [frames.websocket_frame(frames.BINARY, frames.tone_pcm())] * config.num_frames


def say(**fields: object) -> None:
    """One JSON line for the parent."""
    print(json.dumps(fields), flush=True)


def main() -> None:
    """Connect, wait, send, tell."""
    parser = argparse.ArgumentParser(description="The load generator of bench gateway.")
    parser.add_argument("--config", required=True, help="LoadConfig as JSON")
    config = msgspec.json.decode(parser.parse_args().config, type=LoadConfig)
    payloads = payloads_of(config)
    clients = connect_all(config)
    gc.freeze()
    gc.disable()
    say(ready=True, session_ids=[client.session_id for client in clients])
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin_ns = time.monotonic_ns() + START_DELAY_NS
    say(begin_ns=begin_ns)
    lags, num_full = send_all(clients, payloads, begin_ns)
    after = resource.getrusage(resource.RUSAGE_SELF)
    np.savez(config.out, lags_ns=np.array(lags, np.int64))
    sys.stdin.readline()
    for client in clients:
        client.end()
    records = [client.close_record() for client in clients]
    say(
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        num_full=num_full,
        closed=[msgspec.to_builtins(record) for record in records if record is not None],
    )


if __name__ == "__main__":
    main()
