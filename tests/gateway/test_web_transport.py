"""The web port through a whole worker: plain HTTP, and each API's WebSocket from its handshake on.

Uploads are in test_web_uploads.py.
"""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from gateway.routes import ServerStatus
from gateway.transport import EmptyMessage, Upgraded
from gateway.web_port import WebPort
from gateway.web_transport import WebTransport
from protocol.client_messages import Bye, Closed, Error, Final, Finalize, Hello, Started
from protocol.errors import ErrorCode
from protocol.session import Role, Session

from .rig import Rig
from .scripted import CountingQuota, gatekeeper_of

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def no_status() -> ServerStatus:
    raise AssertionError("no HTTP route is asked for")


class WebClient:
    """A socket, and websockets' own client on it once `upgrade` was called."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        ours, self.sock = socket.socketpair()
        rig.sockets.append(self.sock)
        self.sock.setblocking(False)
        rig.worker.door.accept_web(ours)
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


def test_an_empty_message_within_a_native_frame_says_nothing(rig: Rig) -> None:
    rig.add_service()
    client = WebClient(rig)
    client.upgrade("/v1/stream")
    session = Session(Role.CLIENT)
    session.send(Hello())
    session.send_audio(bytes(3_200))
    data = session.data_to_send()
    for message in (data[:30], b"", data[30:]):
        client.send(message)
    session.receive_data(b"".join(m for m in client.messages if isinstance(m, bytes)))
    client.messages.clear()
    assert isinstance(next(iter(session.next_event, None)), Started)
    session.send(Bye())
    client.send(session.data_to_send())
    session.receive_data(b"".join(m for m in client.messages if isinstance(m, bytes)))
    *_, closed = iter(session.next_event, None)
    assert isinstance(closed, Closed)
    assert closed.socket_samples == 1_600


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("/v1/realtime?input_audio_format=pcm_s16le_16000", False),
        ("/v1/realtime?intent=transcription", False),
        ("/v1/listen?encoding=linear16&sample_rate=16000", True),  # an old CloseStream
    ],
)
def test_an_empty_message_ends_a_session_where_its_api_says_so(
    rig: Rig, target: str, ends: bool
) -> None:
    rig.add_service()
    client = WebClient(rig)
    client.upgrade(target)
    client.send(b"")
    client.settle()
    assert client.protocol is not None
    assert (client.protocol.close_rcvd is not None) is ends


def test_a_flood_of_empty_messages_is_work() -> None:
    transport = WebTransport(WebPort(no_status))
    head = ("GET /v1/stream HTTP/1.1", "Host: localhost", *UPGRADE, "", "")
    transport.receive_data(memoryview("\r\n".join(head).encode()), 1)
    assert isinstance(transport.next_event(), Upgraded)
    ping, begin, go_on = 0x80 | Opcode.PING, Opcode.BINARY, Opcode.CONT
    for first in (0x80 | Opcode.BINARY, ping, 0x80 | Opcode.PONG, begin, go_on):
        empty = bytes((first, 0x80, 1, 2, 3, 4))
        times = 1 if first == begin else 3
        transport.receive_data(memoryview(times * empty), 2)
        assert list(iter(transport.next_event, None)) == times * [EmptyMessage()]
    transport.receive_data(memoryview(bytes((0x80, 0x81, 1, 2, 3, 4, 1))), 3)
    assert transport.next_event() == bytes(1), "what was said in pieces"


def test_upgrades_that_are_refused(rig: Rig) -> None:
    rig.add_service()
    lost = WebClient(rig)
    lost.upgrade("/v1/nothing")
    assert b" 404 " in lost.received.split(b"\r\n")[0]
    assert lost.saw_end
    bad = {"Sec-WebSocket-Version": "8"}
    assert handshake(rig, "/v1/stream", bad).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("origin", "over_tls", "is_own"),
    [
        ("https://evil.example", False, False),
        ("http://localhost", False, True),
        ("http://localhost, http://localhost", False, False),
        ("https://captions.example", False, False),
        ("https://captions.example", True, True),
        ("https://allowed.example", False, True),
    ],
)
def test_whose_page_may_open_a_websocket(
    rig: Rig, origin: str, over_tls: bool, is_own: bool
) -> None:
    refused: list[str] = []
    allowed = ("https://allowed.example",)
    port = WebPort(rig.worker.status, allowed, on_refused=refused.append)
    transport = WebTransport(port, over_tls)
    host = "captions.example" if "captions" in origin else "localhost"
    lines = [
        "GET /v1/stream HTTP/1.1", f"Host: {host}", f"Origin: {origin}", *UPGRADE, "", "",
    ]  # fmt: skip
    transport.receive_data(memoryview("\r\n".join(lines).encode()), 1)
    assert isinstance(transport.next_event(), Upgraded) is is_own
    assert transport.data_to_send().startswith(b"HTTP/1.1 101 " if is_own else b"HTTP/1.1 403 ")
    assert refused == ([] if is_own else ["origin"])


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
    assert not rig.worker.door.num_connections


# --- who may open a WebSocket, and which ----------------------------------------------------------

AUTHORIZED = [
    {"Authorization": "Bearer secret"},
    {"Authorization": "Token secret"},
    {"X-API-Key": "secret"},
    {"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.secret"},
    {"Sec-WebSocket-Protocol": "token, secret"},
]
TARGETS = [
    "/v1/realtime?intent=transcription",
    "/v1/realtime?input_audio_format=pcm_s16le_16000",
    "/v1/listen?encoding=linear16&sample_rate=16000",
]


def handshake(rig: Rig, target: str, headers: dict[str, str]) -> bytes:
    """The answer to a handshake with these headers."""
    client = WebClient(rig)
    given = [f"{name}: {value}" for name, value in headers.items()]
    upgrade = [line for line in UPGRADE if line.partition(":")[0] not in headers]
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", *upgrade, *given, "", ""]
    client.send_raw("\r\n".join(lines).encode())
    return client.received


@pytest.mark.parametrize("target", TARGETS)
def test_a_token_is_asked_for_before_the_handshake_is_answered(rig: Rig, target: str) -> None:
    rig.add_service()
    rig.worker.door.gatekeeper = gatekeeper_of("secret", CountingQuota())
    rig.worker.door._web_port = replace(
        rig.worker.door._web_port, authorize=rig.worker.door.gatekeeper.authorize
    )
    for headers in AUTHORIZED:
        assert handshake(rig, target, headers).startswith(b"HTTP/1.1 101 ")
    assert handshake(rig, f"{target}&api_key=secret", {}).startswith(b"HTTP/1.1 101 ")
    wrong: list[dict[str, str]] = [
        {}, {"Authorization": "Bearer other"}, {"Authorization": "secret"},
        {"Sec-WebSocket-Protocol": "secret"},
    ]  # fmt: skip
    for headers in wrong:
        answer = handshake(rig, target, headers)
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in answer
        assert b"secret" not in answer
    assert rig.worker.metrics.refused.labels("unauthorized").value == len(wrong)


def test_a_native_client_has_its_token_in_its_hello(rig: Rig) -> None:
    rig.add_service()
    rig.worker.door.gatekeeper = gatekeeper_of("secret", CountingQuota())
    rig.worker.door._web_port = replace(
        rig.worker.door._web_port, authorize=rig.worker.door.gatekeeper.authorize
    )
    for token, expected in (("secret", Started), ("other", Error)):
        client = WebClient(rig)
        client.upgrade("/v1/stream", subprotocols=["earwire.v1"])
        session = Session(Role.CLIENT)
        session.send(Hello(token=token))
        client.send(session.data_to_send())
        assert isinstance(client.messages[0], bytes)
        session.receive_data(client.messages[0])
        assert isinstance(session.next_event(), expected)


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("realtime, openai-insecure-api-key.k, openai-beta.realtime-v1", b"realtime"),
        ("token, k", b"token"),
        ("chat", None),
    ],
)
def test_the_subprotocol_of_the_answer(rig: Rig, offered: str, answered: bytes | None) -> None:
    rig.add_service()
    answer = handshake(rig, TARGETS[0], {"Sec-WebSocket-Protocol": offered})
    line = b"" if answered is None else b"Sec-WebSocket-Protocol: " + answered
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert line in answer
    assert (b"Sec-WebSocket-Protocol" in answer) is (answered is not None)


def test_only_an_upload_has_a_deadline(rig: Rig) -> None:
    transport = WebTransport(WebPort(rig.worker.status))
    lines = ["GET /v1/stream HTTP/1.1", "Host: localhost", *UPGRADE, "", ""]
    assert transport.next_deadline() is None
    transport.handle_timer(1)
    assert not transport.is_uploading
    transport.receive_data(memoryview("\r\n".join(lines).encode()), 1)
    assert isinstance(transport.next_event(), Upgraded)
    assert transport.next_deadline() is None
    transport.handle_timer(2)
    assert transport.next_event() is None


def test_openai_and_together_share_a_path(rig: Rig) -> None:
    rig.add_service()
    shapes = []
    for target in TARGETS[:2]:
        client = WebClient(rig)
        client.upgrade(target)
        assert client.types()[0] == "session.created"
        session = client.events()[0]["session"]
        assert isinstance(session, dict)
        shapes.append(session["object"])
    assert shapes == ["realtime.transcription_session", "realtime.session"]


def test_deepgram_from_audio_to_metadata(rig: Rig) -> None:
    service = rig.add_service()
    client = WebClient(rig)
    client.upgrade(TARGETS[2])
    for size in (640, 641, 640, 1, 640):
        client.send(bytes(size))
    client.send(json.dumps({"type": "Finalize"}))
    assert client.events()[-1]["from_finalize"] is True
    client.send(json.dumps({"type": "CloseStream"}))
    assert service.all_streams[0].samples == 1_281
    assert client.types()[-1] == "Metadata"
    request_id = client.events()[-1]["request_id"]
    assert isinstance(request_id, str)
    assert len(request_id) == 36
    assert client.protocol is not None
    assert client.protocol.close_rcvd is not None
    assert client.protocol.close_rcvd.code == 1000


def test_deepgram_channels_are_streams(rig: Rig) -> None:
    service = rig.add_service()
    client = WebClient(rig)
    client.upgrade(f"{TARGETS[2]}&channels=2&multichannel=true")
    client.send(b"\1\0\2\0" * 320)
    client.send(json.dumps({"type": "CloseStream"}))
    assert [bytes(stream.pcm) for stream in service.all_streams] == [b"\1\0" * 320, b"\2\0" * 320]
    assert client.types().count("Metadata") == 1
    client.settle()
    assert client.saw_end


def test_deepgrams_clients_are_idle_sooner(rig: Rig) -> None:
    service = rig.add_service()
    client = WebClient(rig)
    client.upgrade(TARGETS[2])
    for _ in range(3):
        rig.clock.advance_ms(9_000)
        client.send(json.dumps({"type": "KeepAlive"}))
    assert not client.messages
    rig.clock.advance_ms(10_001)
    service.health(rig.clock.now_ns)
    client.settle()
    assert client.protocol is not None
    assert client.protocol.close_rcvd is not None
    assert client.protocol.close_rcvd.code == 1011
    assert "NET-0001" in client.protocol.close_rcvd.reason
