"""Sessions whose connections are cut, in the middle of anything, and that go on through any worker:
finals, tiles and counts are those of a session that nobody disturbed.

The client is the tests' own (tests/gateway/resuming.py), over real sockets.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from protocol.client_messages import (
    Ack,
    Bye,
    Closed,
    Error,
    Final,
    Hello,
    Message,
    NonSpeech,
    Resume,
    Resumed,
)
from protocol.errors import ErrorCode
from protocol.session import Event, Role, Session, State
from tests.gateway.resuming import ResumingClient
from tests.gateway.rig import Rig

from . import audio
from .audio import RATE_HZ, Samples
from .processes import arenas_in_shm
from .server import Server
from .test_http import metrics
from .test_parakeet import TINY
from .waiting import wait_for

pytestmark = pytest.mark.system

CLIP_S = 8
PIECE_SAMPLES = RATE_HZ // 10
ANSWER_TIMEOUT_S = 30.0
HELLO = Hello(client="resume", resumable=True, tokens=True)


class Wire(Protocol):
    """A connection's bytes."""

    def send(self, data: bytes) -> None:
        """All of them."""

    def receive(self, timeout_s: float) -> bytes | None:
        """What is there; None: nothing; empty: the end."""

    def close(self) -> None:
        """Without a word."""


class SocketWire:
    """TCP or a Unix socket; closed with a reset now and then, as a dead host's peer does."""

    def __init__(self, sock: socket.socket, resets: bool) -> None:
        self._sock = sock
        self._resets = resets

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def receive(self, timeout_s: float) -> bytes | None:
        if self._sock.fileno() < 0:
            return b""
        if not select.select([self._sock], [], [], timeout_s)[0]:
            return None
        try:
            return self._sock.recv(65_536)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        if self._resets:
            linger = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._sock.close()


class WebSocketWire:
    """Subprotocol earwire.v1; its TCP connection ends without a close frame."""

    def __init__(self, url: str) -> None:
        self._open = contextlib.ExitStack()
        subprotocols = [Subprotocol("earwire.v1")]
        self._ws = self._open.enter_context(
            connect(f"{url}/v1/stream", subprotocols=subprotocols, close_timeout=1)
        )

    def send(self, data: bytes) -> None:
        self._ws.send(data)

    def receive(self, timeout_s: float) -> bytes | None:
        try:
            return cast("bytes", self._ws.recv(timeout=timeout_s))
        except TimeoutError:
            return None
        except ConnectionClosed:
            return b""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._ws.socket.shutdown(socket.SHUT_RDWR)
        self._open.close()


class RealClient:
    """What rig.NativeClient is, over a wire."""

    def __init__(self, wire: Wire) -> None:
        self.sock = wire
        self.session = Session(Role.CLIENT)
        self.events: list[Event] = []
        self.saw_end = False

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.session.send(message)
        self.flush()

    def flush(self) -> None:
        if data := self.session.data_to_send():
            self.sock.send(data)

    def receive(self, timeout_s: float) -> bool:
        data = self.sock.receive(timeout_s)
        if data is None:
            return False
        self.saw_end = not data
        self.session.receive_data(data)
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
        return not self.saw_end

    def of(self, type_: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, type_)]


class Door:
    """What ResumingClient needs of a rig: a server's listener of one kind."""

    def __init__(self, server: Server, kind: str, rng: random.Random) -> None:
        self._server = server
        self._kind = kind
        self._rng = rng
        self._client: RealClient | None = None

    def _wire(self) -> Wire:
        if self._kind == "websocket":
            return WebSocketWire(self._server.websocket_url)
        resets = self._rng.random() < 0.5
        if self._kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(self._server.uds))
            return SocketWire(sock, False)
        return SocketWire(socket.create_connection(("127.0.0.1", self._server.native_port)), resets)

    def connect(self, hello: Hello | None = None) -> RealClient:
        self._client = RealClient(self._wire())
        if hello is not None:
            self._client.send(hello)
            self.settle()
        return self._client

    def settle(self) -> None:
        """Read what is there; an answer that is due is waited for."""
        client = self._client
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while client is not None and not client.saw_end:
            is_due = client.session.state in (State.AWAIT_STARTED, State.AWAIT_RESUMED)
            if not client.receive(ANSWER_TIMEOUT_S if is_due else 0) and not is_due:
                return
            assert time.monotonic() < deadline_s

    def wait_closed(self, client: ResumingClient) -> None:
        """Until the close record is there, and acknowledged."""
        connection = cast("RealClient", client.connection)
        while not connection.of(Closed):
            assert connection.receive(ANSWER_TIMEOUT_S), "the connection ended before"
        client.listen()
        connection.send(Ack(len(client.events)))
        while connection.receive(ANSWER_TIMEOUT_S):
            pass
        assert connection.saw_end
        connection.sock.close()
        self._client = None

    def client(self) -> ResumingClient:
        client = ResumingClient(cast("Rig", self), HELLO)
        assert client.started.resume_token
        return client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--model", TINY, "--workers", "2", "--resume-window-ms", "3000") as running:
        yield running
        assert arenas_in_shm() == []


def clip() -> Samples:
    return audio.two_cities()[: CLIP_S * RATE_HZ]


def session(door: Door, cuts: random.Random | None) -> list[Message]:
    """The clip with two finalizes in it; every few pieces the connection is cut, if it is to be."""
    client = door.client()
    pieces = np.array_split(clip(), len(clip()) // PIECE_SAMPLES)
    for number, piece in enumerate(pieces):
        cut_after = _cut(cuts)
        client.speak(piece.astype("<i2").tobytes(), cut_after)
        if cut_after is not None:
            _resume(client)
        if number % 5 == 0:
            client.connection.receive(0.05)  # let recognition come along now and then
        if number in (25, 26):
            cut_after = _cut(cuts)
            client.finalize(cut_after)
            if cut_after is not None:
                _resume(client)
    cut_after = None if cuts is None else cuts.randrange(40)
    client.bye(cut_after)
    if cut_after is not None:
        _resume(client)
    door.wait_closed(client)
    return client.events


def _cut(cuts: random.Random | None) -> int | None:
    if cuts is None or cuts.random() > 0.12:
        return None
    return cuts.randrange(4_000)


def _resume(client: ResumingClient) -> None:
    for _ in range(3):
        answer = client.resume()
        assert isinstance(answer, Resumed), answer
        if random.Random(len(client.events)).random() < 0.5:
            return
        client.vanish()  # once more, before anything was said
    assert isinstance(client.resume(), Resumed)


def facts(events: list[Message]) -> list[Any]:
    """All that must be equal: finals, tiles, and what happened to each sample."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, Final):
            found.append(
                (event.start_sample, event.end_sample, event.text, event.words, event.tokens,
                 event.finalize_id)
            )  # fmt: skip
        elif isinstance(event, NonSpeech):
            found.append((event.start_sample, event.end_sample))
        elif isinstance(event, Closed):
            found.append(event)
    return found


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[Any]:
    events = session(Door(server, "unix", random.Random(0)), None)
    closed = events[-1]
    assert isinstance(closed, Closed)
    assert closed.socket_samples == closed.ring_samples == closed.engine_samples == len(clip())
    assert sum(isinstance(event, Final) for event in events) >= 2
    return facts(events)


@pytest.mark.parametrize("kind", ["tcp", "unix", "websocket"])
def test_cut_anywhere_and_nothing_differs(
    server: Server, undisturbed: list[Any], kind: str
) -> None:
    for seed in range(2):
        rng = random.Random(f"{kind} {seed}")
        assert facts(session(Door(server, kind, rng), rng)) == undisturbed
    wait_for("the counts", lambda: resumes(server, "resumed") > 0, 10)
    assert metrics(server)["earwire_accounting_mismatch_total{}"] == 0


def resumes(server: Server, outcome: str) -> float:
    return metrics(server).get(f"earwire_resumes_total{{outcome={outcome}}}", 0.0)


def test_a_session_goes_on_through_either_worker(server: Server) -> None:
    """Which worker takes a connection is the kernel's choice: try until both have."""
    door = Door(server, "tcp", random.Random(1))
    client = door.client()
    client.speak(bytes(2 * PIECE_SAMPLES))
    before = resumes(server, "relayed")
    for _ in range(40):
        client.vanish()
        assert isinstance(client.resume(), Resumed)
    client.bye()
    door.wait_closed(client)
    wait_for("a relayed one", lambda: resumes(server, "relayed") > before, 10)


def test_a_wrong_token_and_a_window_that_is_over(server: Server) -> None:
    door = Door(server, "tcp", random.Random(2))
    client = door.client()
    client.speak(bytes(2 * PIECE_SAMPLES))
    client.vanish()
    token = client.started.resume_token
    for wrong in (token[:-1] + ("0" if token[-1] != "0" else "1"), "7" + token[1:], "", "?"):
        answer = door.connect()
        answer.send(Resume(resume_token=wrong, events_received=0))
        door.settle()
        (error,) = answer.of(Error)
        assert error.code is ErrorCode.RESUME_FAILED
        answer.sock.close()
    assert isinstance(client.resume(), Resumed)
    client.vanish()
    wait_for("its end", lambda: vanished(server) == 1, 15)
    answer = client.resume()
    assert isinstance(answer, Error)
    assert answer.code is ErrorCode.RESUME_FAILED


def vanished(server: Server) -> int:
    return sum(record["reason"] == "vanished" for record in server.close_records())


def test_a_client_that_says_goodbye_properly_leaves_nothing_behind(server: Server) -> None:
    door = Door(server, "unix", random.Random(3))
    client = door.client()
    client.connection.send(Bye())
    door.wait_closed(client)
    wait_for("an empty parking", lambda: metrics(server)["earwire_sessions_parked{}"] == 0, 10)
