"""Uploads on the web port: heads, bodies, answers and their order, with a dialect that is told.

What the real file dialects make of a body is in dialects/; what HttpCore makes of bytes is in
test_http.py. Here: WebTransport between them, alone and inside a whole worker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.connection import MAX_DISCARDED_BYTES
from gateway.connection_host import RECEIVE_BYTES
from gateway.dialects import (
    ByeIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    FileDialect,
    HttpChunk,
    HttpReply,
    OpenStream,
)
from gateway.errors import refusal
from gateway.http import MAX_PIPELINED_BYTES, RequestHead
from gateway.outbox import MAX_OUT_BYTES
from gateway.routes import ServerStatus
from gateway.transport import BodyEnded, InputEnded, Upgraded
from gateway.web_port import WebPort
from gateway.web_transport import WebTransport
from protocol.client_messages import Closed, Error, Final, Hello, ServerMessage
from protocol.errors import ErrorCode

from .rig import Rig
from .scripted import MemoryFeed, ScriptedDialect, memory_feeds
from .test_web_transport import WebClient

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
UPLOAD = HEAD + b"Content-Length: 8\r\n\r\nabcdefgh"
STATUS_OF = {ErrorCode.UNAUTHORIZED: 401, ErrorCode.BAD_AUDIO: 400}


class TextDialect(ScriptedDialect):
    """The body is a file; finals are the answer, as text, or as chunks with `streams`."""

    name = "text"

    def __init__(self, token: str, streams: bool = False) -> None:
        super().__init__()
        self.streams = streams
        self.text = ""
        self.ended = False
        self.intents.append(OpenStream(Hello(token=token), container=Container.FILE))

    def receive_data(self, data: bytes | str) -> None:
        super().receive_data(data)
        self.intents.append(EncodedIn(bytes(data)) if isinstance(data, bytes) and data else ByeIn())

    def end_of_body(self) -> None:
        self.intents.append(EncodedEnd())

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        super().handle_event(event, now_ns, channel)
        if isinstance(event, Error):
            self.out.append(HttpReply(STATUS_OF.get(event.code, 503), "text/plain", b"sorry"))
        elif isinstance(event, Final) and self.streams:
            reply = HttpReply(200, "text/event-stream", b"", (("X-Test", "1"),), is_last=False)
            self.out += [reply, HttpChunk(event.text.encode())]
        elif isinstance(event, Final):
            self.text += event.text
        elif isinstance(event, Closed):
            end = HttpChunk(b"", is_last=True)
            self.out.append(
                end if self.streams else HttpReply(200, "text/plain", self.text.encode())
            )


@dataclass(frozen=True)
class TextPort(WebPort):
    """A port whose uploads are of that dialect."""

    streams: bool = False
    made: list[TextDialect] = field(default_factory=list)

    def file_dialect(self, head: RequestHead, now_ns: int) -> FileDialect:
        self.made.append(TextDialect(head.headers.get("authorization", ""), self.streams))
        return self.made[-1]


def no_status() -> ServerStatus:
    return ServerStatus(last_step_age_s=None)


def port_of(**changes: Any) -> TextPort:
    return TextPort(**{"status": no_status, "max_upload_bytes": 100, **changes})


def only_key(token: str) -> Error | None:
    return None if token == "key" else refusal(ErrorCode.UNAUTHORIZED, "no such token")


def receive(transport: WebTransport, data: bytes) -> list[object]:
    transport.receive_data(memoryview(data), 5)
    events: list[object] = []
    while (event := transport.next_event()) is not None:
        events.append(event)
        if isinstance(event, InputEnded):
            break
    return events


def answer_of(data: bytes) -> tuple[int, bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


# --- the transport alone ------------------------------------------------------------------------


def test_an_upload_is_its_dialect_its_body_and_its_end() -> None:
    port = port_of(authorize=only_key)
    for pieces in ([UPLOAD], [UPLOAD[i : i + 1] for i in range(len(UPLOAD))]):
        transport = WebTransport(port)
        events = [event for piece in pieces for event in receive(transport, piece)]
        dialect = port.made[-1]
        assert events[0] == Upgraded(dialect)
        assert events[-1] == BodyEnded(dialect)
        assert b"".join(event for event in events if isinstance(event, bytes)) == b"abcdefgh"
        assert transport.is_uploading
        transport.send(HttpReply(200, "text/plain", b"words"))
        status, body = answer_of(transport.data_to_send())
        assert (status, body) == (200, b"words")
        assert transport.should_close
        assert not transport.is_uploading


def test_a_streamed_answer_is_chunked() -> None:
    transport = WebTransport(port_of())
    receive(transport, UPLOAD)
    transport.send(HttpReply(200, "text/event-stream", b"a", (("X-A", "b"),), is_last=False))
    transport.send(HttpChunk(b"bc"))
    transport.send(HttpChunk(b"", is_last=True))
    transport.send(HttpChunk(b"too late"))
    status, body = answer_of(transport.data_to_send())
    assert (status, body) == (200, b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    assert transport.should_close


def test_an_answer_before_the_end_of_the_body_ends_the_request() -> None:
    transport = WebTransport(port_of())
    assert [type(e) for e in receive(transport, UPLOAD[:-4])] == [Upgraded, bytes]
    transport.send(HttpReply(400, "text/plain", b"no"))
    assert answer_of(transport.data_to_send()) == (400, b"no")
    assert receive(transport, UPLOAD[-4:]) == []


def test_without_a_token_the_body_is_not_read() -> None:
    refused: list[str] = []
    port = port_of(authorize=only_key, on_refused=refused.append)
    transport = WebTransport(port)
    head = HEAD.replace(b"key", b"other") + b"Expect: 100-continue\r\nContent-Length: 8\r\n\r\n"
    assert receive(transport, head) == []
    data = transport.data_to_send()
    assert answer_of(data) == (401, b"sorry")
    assert b"100 Continue" not in data
    assert receive(transport, b"abcdefgh") == []
    assert not port.made[-1].received
    assert refused == ["unauthorized"]


def test_a_client_that_waits_to_be_asked_is_asked() -> None:
    transport = WebTransport(port_of())
    receive(transport, HEAD + b"Expect: 100-continue\r\nContent-Length: 8\r\n\r\n")
    assert transport.data_to_send().startswith(b"HTTP/1.1 100 ")


def test_a_stranger_does_not_learn_the_limit() -> None:
    transport = WebTransport(port_of(authorize=only_key))
    head = HEAD.replace(b"key", b"other") + b"Content-Length: 101\r\n\r\n"
    assert receive(transport, head) == []
    assert answer_of(transport.data_to_send())[0] == 401


def test_an_upload_over_the_limit_is_413_in_its_apis_shape() -> None:
    transport = WebTransport(port_of())
    assert receive(transport, HEAD + b"Content-Length: 101\r\n\r\n") == []
    assert answer_of(transport.data_to_send())[0] == 413
    assert transport.should_close


@pytest.mark.parametrize("rest", [b"not a chunk\r\n", b""])
def test_a_body_that_breaks_off_is_the_end(rest: bytes) -> None:
    transport = WebTransport(port_of())
    assert len(receive(transport, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")) == 2
    assert transport.can_send
    assert receive(transport, rest) == [InputEnded()]
    assert answer_of(transport.data_to_send())[0] == 400
    assert transport.can_send is bool(rest)
    transport.send(HttpReply(200, "text/plain", b"never sent"))
    assert transport.data_to_send() == b""


def test_a_slow_upload_is_408() -> None:
    transport = WebTransport(port_of())
    assert transport.next_deadline() is None
    receive(transport, UPLOAD[:-1])
    deadline_ns = transport.next_deadline()
    assert deadline_ns is not None
    transport.handle_timer(deadline_ns)
    assert isinstance(transport.next_event(), InputEnded)
    assert answer_of(transport.data_to_send())[0] == 408


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_answer_to_a_client_that_was_cut_off_goes_nowhere(is_begun: bool) -> None:
    transport = WebTransport(port_of())
    receive(transport, UPLOAD)
    if is_begun:
        transport.send(HttpReply(200, "text/plain", b"a", is_last=False))
    assert receive(transport, bytes(MAX_PIPELINED_BYTES + 1)) == []
    assert not transport.is_uploading
    assert transport.should_close
    transport.send(HttpChunk(b"b", is_last=True) if is_begun else HttpReply(200, "", b"b"))
    assert not transport.data_to_send().endswith(b"b")


def test_a_client_that_leaves_after_its_upload_is_noticed() -> None:
    transport = WebTransport(port_of())
    receive(transport, UPLOAD)
    assert receive(transport, b"") == [InputEnded()]
    assert not transport.can_send


@pytest.mark.parametrize("item", ["text", b"bytes"])
def test_messages_are_no_answer(item: str | bytes) -> None:
    transport = WebTransport(port_of())
    receive(transport, UPLOAD)
    with pytest.raises(AssertionError):
        transport.send(item)


# --- pages of others ----------------------------------------------------------------------------


def request(transport: WebTransport, method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "Content-Length: 0", "", ""]
    receive(transport, "\r\n".join(lines).encode())
    return transport.data_to_send()


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/models", "/health/live"])
def test_a_foreign_page_may_not_post(path: str) -> None:
    refused: list[str] = []
    port = port_of(on_refused=refused.append)
    data = request(WebTransport(port), "POST", path, "Origin: https://evil.example")
    assert answer_of(data)[0] == 403
    assert refused == ["origin"]
    assert not port.made


def test_a_foreign_page_cannot_read_what_it_gets() -> None:
    data = request(WebTransport(port_of()), "GET", "/v1/models", "Origin: https://evil.example")
    assert answer_of(data)[0] == 200
    assert b"access-control" not in data.lower()


def test_an_allowed_page_may_do_both() -> None:
    port = port_of(allow_origins=("https://good.example",))
    origin = "Origin: https://good.example"
    allowed = b"Access-Control-Allow-Origin: https://good.example\r\n"
    for method, path, status in [
        ("OPTIONS", "/v1/audio/transcriptions", 204),
        ("GET", "/v1/models", 200),
    ]:
        data = request(WebTransport(port), method, path, origin)
        assert answer_of(data)[0] == status
        assert allowed in data
    transport = WebTransport(port)
    receive(transport, UPLOAD.replace(b"Host:", origin.encode() + b"\r\nHost:"))
    transport.send(HttpReply(200, "text/plain", b"words"))
    assert allowed in transport.data_to_send()


# --- a whole worker -----------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def uploads(rig: Rig, **changes: Any) -> tuple[TextPort, list[MemoryFeed]]:
    port = port_of(status=rig.worker.status, **changes)
    rig.worker.door._web_port = port
    return port, memory_feeds(rig)


def decode(rig: Rig, feed: MemoryFeed) -> None:
    feed.owner.on_format(8_000)
    feed.owner.on_pcm(bytes(3_200))
    rig.settle()
    feed.owner.on_decoded()
    rig.settle()


def test_a_client_that_is_cut_off_before_the_first_audio_hears_nothing(rig: Rig) -> None:
    rig.add_service()
    _, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD)
    (feed,) = feeds
    feed.owner.on_format(8_000)
    client.send_raw(bytes(MAX_PIPELINED_BYTES + 1))
    rig.settle()
    assert client.received == b""
    assert rig.worker.router.open_streams == ()


@pytest.mark.parametrize("streams", [False, True])
def test_from_the_request_to_the_words(rig: Rig, streams: bool) -> None:
    service = rig.add_service()
    _, feeds = uploads(rig, streams=streams)
    service.auto_close = False
    client = WebClient(rig)
    client.send_raw(UPLOAD)
    (feed,) = feeds
    assert (feed.data, feed.calls) == (b"abcdefgh", ["end"])
    decode(rig, feed)
    stream = service.all_streams[0]
    service.final(stream)
    service.close(stream)
    client.settle()
    status, body = answer_of(client.received)
    assert status == 200
    assert b"3200 samples" in body
    assert client.saw_end


@pytest.mark.parametrize("at", [len(UPLOAD) - 3, len(UPLOAD)])
def test_a_client_that_gives_up_stops_the_work(rig: Rig, at: int) -> None:
    rig.add_service()
    port, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD[:at])
    client.sock.close()
    rig.settle()
    assert port.made[0].received[-1] == b""
    assert feeds[0].calls[-1] == "close"
    assert rig.worker.door.num_connections == 0


def test_a_long_answer_is_no_backlog_and_has_time(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_close = False
    port, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD)
    decode(rig, feeds[0])
    port.made[0].text = "x" * (MAX_OUT_BYTES + 100_000)
    service.close(service.all_streams[0])
    rig.settle()
    assert rig.worker.metrics.slow_readers.value == 0
    rig.clock.advance_ms(12_000)  # the client reads late
    rig.settle()
    while not client.saw_end:
        client.settle()
    assert answer_of(client.received)[1] == port.made[0].text.encode()


def test_a_file_that_cannot_be_read_is_answered(rig: Rig) -> None:
    rig.add_service()
    _, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD)
    feeds[0].owner.on_feed_error(refusal(ErrorCode.BAD_AUDIO, "no"))
    client.settle()
    assert answer_of(client.received) == (400, b"sorry")
    assert client.saw_end


def test_a_request_that_is_refused_by_its_dialect_alone(rig: Rig) -> None:
    port, _ = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD[:-3])  # no service: refused at once
    assert answer_of(client.received) == (503, b"sorry")
    assert client.saw_end
    rig.add_service()
    client = WebClient(rig)
    client.send_raw(UPLOAD[:-3])
    port.made[1].out.append(HttpReply(400, "text/plain", b"two files"))
    port.made[1].intents.append(FailIn(refusal(ErrorCode.BAD_MESSAGE, "two files")))
    client.send_raw(b"f")
    assert answer_of(client.received) == (400, b"two files")
    assert client.saw_end
    assert rig.worker.admission.slots.num_free == 4


def test_a_slow_upload_has_its_own_time_out(rig: Rig) -> None:
    rig.add_service()
    _, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD[:-3])
    for _ in range(40):
        rig.clock.advance_ms(5_000)
        client.settle()
    assert answer_of(client.received)[0] == 408
    assert feeds[0].calls == ["close"]
    assert client.saw_end


def test_waiting_for_the_words_is_not_idle(rig: Rig) -> None:
    service = rig.add_service()
    _, feeds = uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD)
    for _ in range(10):
        rig.clock.advance_ms(60_000)
        service.health(rig.clock.now_ns)
        client.settle()
    assert client.received == b""
    decode(rig, feeds[0])
    client.settle()
    assert answer_of(client.received)[0] == 200


def test_what_comes_after_the_answer_is_read_for_a_while_only(rig: Rig) -> None:
    rig.add_service()
    uploads(
        rig, authorize=lambda token: refusal(ErrorCode.UNAUTHORIZED, "no"), max_upload_bytes=1 << 40
    )
    client = WebClient(rig)
    client.send_raw(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    assert answer_of(client.received)[0] == 401
    for _ in range(2 + MAX_DISCARDED_BYTES // RECEIVE_BYTES):
        if rig.worker.door.num_connections:
            client.sock.sendall(bytes(RECEIVE_BYTES))
            rig.settle()
    assert rig.worker.door.num_connections == 0


def test_a_drain_refuses_an_upload_without_a_stream(rig: Rig) -> None:
    rig.add_service()
    uploads(rig)
    client = WebClient(rig)
    client.send_raw(UPLOAD[:-3])
    rig.worker.drain()
    client.settle()
    assert answer_of(client.received) == (503, b"sorry")


def test_metrics_count_what_was_not_let_in(rig: Rig) -> None:
    rig.worker.door.gatekeeper.replace(())
    for target in ("/v1/models", "/metrics"):
        client = WebClient(rig)
        client.send_raw(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, body = answer_of(client.received)
        assert status == 401
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert b"WWW-Authenticate: Bearer" in client.received
    assert rig.worker.metrics.refused.labels("unauthorized").value == 2
