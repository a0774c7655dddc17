"""The web port through a whole worker: plain HTTP, Together's WebSocket, native over WebSocket."""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from protocol.client_messages import Bye, Closed, Error, Final, Finalize, Hello, Started
from protocol.errors import ErrorCode
from protocol.session import Role, Session

from .rig import Rig


class WebClient:
    """A socket, and websockets' own client on it once `upgrade` was called."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        ours, self.sock = socket.socketpair()
        rig.sockets.append(self.sock)
        self.sock.setblocking(False)
        rig.worker.accept_web(ours)
        self.received = b""
        self.saw_end = False
        self.protocol: ClientProtocol | None = None
        self.response: Response | None = None
        self.messages: list[str | bytes] = []

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)
        self.settle()

    def upgrade(self, target: str, origin: str | None = None, **options: object) -> None:
        uri = parse_uri(f"ws://localhost{target}")
        self.protocol = ClientProtocol(uri, origin=origin, **options)  # type: ignore[arg-type]
        self.protocol.send_request(self.protocol.connect())
        self.settle()

    def send(self, message: str | bytes) -> None:
        assert self.protocol is not None
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        self.settle()

    def settle(self) -> None:
        for _ in range(3):
            if self.protocol is not None:
                for data in self.protocol.data_to_send():
                    if data:
                        self.sock.sendall(data)
            self.rig.settle()
            self._receive()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.saw_end = self.saw_end or not data
        self.received += data
        if self.protocol is None:
            return
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self._take_events(self.protocol)

    def _take_events(self, protocol: ClientProtocol) -> None:
        for event in protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.messages.append(bytes(event.data).decode())
            elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                self.messages.append(bytes(event.data))

    def events(self) -> list[dict[str, object]]:
        return [json.loads(message) for message in self.messages]

    def types(self) -> list[object]:
        return [event["type"] for event in self.events()]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def get(rig: Rig, path: str) -> tuple[int, bytes]:
    client = WebClient(rig)
    client.send_raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert client.saw_end
    client.sock.close()
    rig.settle()
    return int(head.split()[1]), body


def test_health_metrics_and_models(rig: Rig) -> None:
    assert get(rig, "/health/live")[0] == 200
    assert get(rig, "/health/ready")[0] == 503
    rig.add_service()
    assert get(rig, "/health/ready")[0] == 200
    assert b"earwire_connections 1.0" in get(rig, "/metrics")[1]
    assert json.loads(get(rig, "/v1/models")[1])["data"][0]["id"] == "tiny.en"
    assert get(rig, "/nothing")[0] == 404
    rig.worker.admission.draining = True
    assert get(rig, "/health/ready")[0] == 503


def test_together_from_session_created_to_the_close(rig: Rig) -> None:
    service = rig.add_service()
    client = WebClient(rig)
    client.upgrade("/v1/realtime?input_audio_format=pcm_s16le_16000")
    assert client.types() == ["session.created"]
    audio = base64.b64encode(bytes(6400)).decode()
    client.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    client.send(json.dumps({"type": "input_audio_buffer.commit"}))
    assert service.all_streams[0].samples == 3200
    assert client.types()[-1] == "conversation.item.input_audio_transcription.completed"
    client.send(json.dumps({"type": "echo", "echo_id": "1"}))
    assert client.events()[-1]["type"] == "echo.response"
    assert client.protocol is not None
    client.protocol.send_close(1000)
    client.settle()
    assert client.saw_end
    closed = service.all_streams[0].closed
    assert closed is not None
    assert rig.worker.admission.slots.num_free == 4


@pytest.mark.parametrize("audio_format", ["pcm_s16le_16000", "pcm16"])
def test_together_audio_waits_for_room_and_arrives_whole(rig: Rig, audio_format: str) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = WebClient(rig)
    client.upgrade(f"/v1/realtime?input_audio_format={audio_format}")
    pcm = random.Random(1).randbytes(2 * 20_000)
    for start in range(0, len(pcm), 999):  # every second one ends in half a sample
        audio = base64.b64encode(pcm[start : start + 999]).decode()
        client.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    client.send(json.dumps({"type": "input_audio_buffer.commit"}))
    stream = service.all_streams[0]
    expected = 20_000 if audio_format == "pcm_s16le_16000" else 20_000 * 16_000 // 24_000
    assert stream.samples == min(expected, 16_000)
    service.credit(stream)
    client.settle()
    assert [f.at_sample for f in stream.finalized] == [expected]
    assert stream.samples == expected
    if audio_format == "pcm_s16le_16000":
        assert stream.pcm == pcm


def test_audio_in_the_lane_keeps_the_connection_from_being_idle(rig: Rig) -> None:
    rig.add_service()
    client = WebClient(rig)
    client.upgrade("/v1/realtime?input_audio_format=pcm_s16le_16000")
    audio = base64.b64encode(bytes(640)).decode()
    for _ in range(4):
        client.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        rig.clock.advance_ms(40_000)
        client.settle()
    assert not client.saw_end
    rig.clock.advance_ms(60_001)
    client.settle()
    assert client.saw_end


def test_together_hears_about_capacity_by_the_close_code(rig: Rig) -> None:
    client = WebClient(rig)
    client.upgrade("/v1/realtime?input_audio_format=pcm_s16le_16000")
    assert client.protocol is not None
    assert client.protocol.close_rcvd is not None
    assert client.protocol.close_rcvd.code == 4503
    client.settle()
    assert client.saw_end


def test_native_over_websocket(rig: Rig) -> None:
    service = rig.add_service()
    client = WebClient(rig)
    client.upgrade("/v1/stream", subprotocols=["earwire.v1"])
    assert client.protocol is not None
    assert client.protocol.subprotocol == "earwire.v1"
    session = Session(Role.CLIENT)
    session.send(Hello())
    session.send_audio(bytes(3200))
    session.send(Finalize(finalize_id=5))
    events = []
    for last in (None, Bye()):
        if last is not None:
            session.send(last)
        data = session.data_to_send()
        for start in range(0, len(data), 100):
            client.send(data[start : start + 100])
        for message in client.messages:
            assert isinstance(message, bytes)
            session.receive_data(message)
        client.messages.clear()
        while (event := session.next_event()) is not None:
            events.append(event)
    assert isinstance(events[0], Started)
    assert [e.finalize_id for e in events if isinstance(e, Final)] == [5]
    assert isinstance(events[-1], Closed)
    assert service.all_streams[0].samples == 1600
    assert client.protocol.close_rcvd is not None
    assert client.protocol.close_rcvd.code == 1000


def test_text_where_binary_is_due(rig: Rig) -> None:
    rig.add_service()
    client = WebClient(rig)
    client.upgrade("/v1/stream")
    client.send("hello")
    session = Session(Role.CLIENT)
    session.send(Hello())
    assert isinstance(client.messages[0], bytes)
    session.receive_data(client.messages[0])
    error = session.next_event()
    assert isinstance(error, Error)
    assert error.code is ErrorCode.BAD_MESSAGE
    client.settle()
    assert client.saw_end


def test_upgrades_that_are_refused(rig: Rig) -> None:
    rig.add_service()
    lost, foreign = WebClient(rig), WebClient(rig)
    lost.upgrade("/v1/nothing")
    assert b" 404 " in lost.received.split(b"\r\n")[0]
    foreign.upgrade("/v1/stream", origin="https://evil.example")
    assert b" 403 " in foreign.received.split(b"\r\n")[0]
    assert lost.saw_end
    assert foreign.saw_end


def test_broken_requests_and_slow_heads(rig: Rig) -> None:
    broken, slow, silent = WebClient(rig), WebClient(rig), WebClient(rig)
    broken.send_raw(b"EW\x10\x01 this is no HTTP\r\n\r\n")
    assert b" 400 " in broken.received.split(b"\r\n")[0]
    slow.send_raw(b"GET / HTTP/1.1\r\nHost:")
    rig.clock.advance_ms(10_001)
    for client in (slow, silent):
        client.settle()
        assert b" 408 " in client.received.split(b"\r\n")[0]
        assert client.saw_end


def test_too_many_connections_are_503(rig: Rig) -> None:
    for _ in range(64):
        rig.connect()
    client = WebClient(rig)
    client.settle()
    assert b" 503 " in client.received.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "target", ["/v1/realtime?input_audio_format=pcm_s16le_16000", "/v1/stream"]
)
def test_a_client_that_goes_without_a_close_frame(rig: Rig, target: str) -> None:
    rig.add_service()
    client = WebClient(rig)
    client.upgrade(target)
    client.sock.close()
    rig.settle()
    assert not rig.worker.num_connections
