"""Fuzz targets of the web port: HTTP, WebSocket, forms, heads of requests, and all of them at once
behind the port as clients meet it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import TypeAlias

from websockets.frames import Opcode
from websockets.utils import accept_key

from clients.address import parse_address
from clients.errors import ClientError
from clients.wire import WebSocketWire
from gateway.client_token import answered_subprotocol, client_token, offered_subprotocols
from gateway.dialects import Dialect, OpenStream
from gateway.dialects.choice import upload_api, websocket_api
from gateway.dialects.multipart import BadForm, FileData, FormEvent, FormReader
from gateway.http import BodyPart, Failed, HttpCore, HttpEvent, Request, RequestHead, Upgrade
from gateway.origin import origin_allowed
from gateway.routes import ServerStatus, answer
from gateway.tokens import TokenFileError, format_token, line_name, parse_tokens
from gateway.transport import BodyEnded, EmptyMessage, InputEnded, Upgraded
from gateway.web_port import WebPort, upload_of
from gateway.web_transport import WebTransport
from gateway.websocket import WebSocketCore, WsClosed, WsEvent, WsWork
from tests.harness import STARTED

from .target import SHORT_BYTES, Script, Target, pieces, script

MAX_EVENTS = 10_000  # of one input: more is a parser that does not end
MAX_UPLOAD_BYTES = 512
BOUNDARY = "x"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
HANDSHAKE = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: realtime\r\n\r\n"
)
STATUS = ServerStatus(last_step_age_s=1.0, models=("tiny.en",))

# An event with the bytes of a body joined, which is all that may depend on how they were cut.
Seen: TypeAlias = "HttpEvent | tuple[str, int] | bytes"


# HTTP


def run_http(data: bytes) -> None:
    """Requests, answers and refusals do not depend on how the bytes were cut."""
    source = Script(data)
    size, is_eager = 1 + source.byte() % 64, source.flag()
    rest = source.rest()
    whole = _http_events([rest], is_eager=is_eager)
    assert whole == _http_events(pieces(rest, size), is_eager=is_eager)


def _http_events(chunks: list[bytes], *, is_eager: bool) -> list[Seen]:
    """`is_eager`: uploads are answered before their body."""
    core = HttpCore(upload_of, MAX_UPLOAD_BYTES)
    seen: list[Seen] = []
    body = b""
    for chunk in [*chunks, b""]:
        core.receive_data(chunk)
        for event in _bounded_events(core):
            if isinstance(event, BodyPart):
                body += event.data
                continue
            if isinstance(event, Failed):
                seen.append(("failed", event.status))  # the text may name what came so far
            elif not isinstance(event, Upgrade):
                seen.append(event)
            _answer(core, event, is_eager=is_eager)
        core.data_to_send()
    return [*seen, body]


def _bounded_events(core: HttpCore) -> Iterator[HttpEvent]:
    for _ in range(MAX_EVENTS):
        event = core.next_event()
        if event is None:
            return
        yield event
    raise AssertionError("events without end")


def _answer(core: HttpCore, event: HttpEvent, *, is_eager: bool) -> None:
    if isinstance(event, RequestHead) and not is_eager:
        core.continue_body()
    elif not isinstance(event, Failed | Upgrade | BodyPart):
        core.respond(200, b"{}")


def http_seeds() -> Iterator[bytes]:
    """Requests of every kind, one behind the other."""
    get = b"GET /v1/models?x=%41&y=1 HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n"
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
    chunked = b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for eager in (0, 1):
        yield bytes((7, eager)) + get + get.replace(b"GET", b"HEAD")
        yield bytes((20, eager)) + head + b"Content-Length: 5\r\n\r\nhello" + get
        yield bytes((2, eager)) + head + chunked + get
        yield bytes((9, eager)) + b"POST /x HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi"
        yield bytes((30, eager)) + HANDSHAKE


def run_request_head(data: bytes) -> None:
    """What the head of a request decides: token, API, page."""
    source = Script(data)
    headers = {
        name: source.header()
        for name in ("authorization", "x-api-key", "sec-websocket-protocol", "origin", "host")
    }
    path, query = source.text(), {source.text(): [source.text()]}
    assert isinstance(client_token(headers, query), str)
    offered = offered_subprotocols(headers)
    assert answered_subprotocol(offered) in (None, *offered)
    websocket_api(path, query, offered)
    upload_api("POST", path)
    allowed = (source.text(),)
    for over_tls in (False, True):
        origin_allowed(headers["origin"], headers["host"], allowed, over_tls=over_tls)
    answer(Request("GET", path, query, headers, b""), STATUS)
    with contextlib.suppress(ClientError):
        parse_address(source.text())


def request_head_seeds() -> Iterator[bytes]:
    """A browser, and a client with a token."""
    yield script(
        "Bearer k", "k", "token, k", "https://a.b:8080", "a.b:8080", "/v1/realtime/", "api_key",
        "k", "https://a.b", "wss://h:1/v1/stream",
    )  # fmt: skip
    yield script(
        "", "", "openai-insecure-api-key.k, earwire.v1", "null", "[::1]:80", "/health/ready"
    )


# WebSocket


def run_websocket(data: bytes) -> None:
    """Messages, and how the connection ends, do not depend on how the bytes were cut."""
    source = Script(data)
    size = 1 + source.byte() % 16
    stream = _frames(source)
    assert _websocket_events([stream]) == _websocket_events(pieces(stream, size))


def _frames(source: Script) -> bytes:
    """Frames as the script has them, mostly well-formed: kind, mask or none, payload."""
    out = bytearray()
    while not source.is_over:
        first, how, payload = source.byte(), source.byte(), source.chunk()
        if first == 0x7F:  # bytes as they are
            out += payload
            continue
        mask = b"\0\0\0\0" if how & 0x3F == 0 else bytes((how, 1, 2, 3))
        is_masked = how & 0xC0 != 0xC0
        out.append(first)
        out += _length(len(payload), is_masked=is_masked, is_wide=how & 0xC0 == 0x80)
        if is_masked:
            out += mask
            payload = bytes(b ^ m for b, m in zip(payload, itertools.cycle(mask)))
        out += payload
    return bytes(out)


def _length(size: int, *, is_masked: bool, is_wide: bool) -> bytes:
    mask = 0x80 if is_masked else 0
    if is_wide:
        return bytes((mask | 127,)) + size.to_bytes(8, "big")
    if size < 126:
        return bytes((mask | size,))
    return bytes((mask | 126,)) + size.to_bytes(2, "big")


def _websocket_events(chunks: list[bytes]) -> list[tuple[str, object]]:
    """Messages as they are, an end by its code: its text may name what came so far."""
    core = WebSocketCore(HANDSHAKE)
    core.data_to_send()
    seen: list[tuple[str, object]] = []
    for chunk in [*chunks, b""]:
        core.receive_data(chunk)
        for _ in range(MAX_EVENTS):
            event = core.next_event()
            if event is None:
                break
            if not isinstance(event, WsWork):  # how the bytes came decides how much there is
                seen.append(_plain(event))
        core.data_to_send()
    assert core.should_close, "the connection outlives its client"
    return seen


def _plain(event: WsEvent) -> tuple[str, object]:
    if isinstance(event, WsClosed):
        return ("closed", event.code)
    return ("text" if isinstance(event, str) else "binary", bytes(str(event), "utf-8", "replace"))


def websocket_seeds() -> Iterator[bytes]:
    """Plain messages, fragments, pings, a close, long lengths, raw bytes."""
    text, binary, cont = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY, 0x80 | Opcode.CONT
    ping, close = 0x80 | Opcode.PING, 0x80 | Opcode.CLOSE
    yield script(3, text, 7, '{"type":"x"}', binary, 0, bytes(200), close, 5, b"\x03\xe8bye")
    yield script(1, int(Opcode.TEXT), 7, "ab", ping, 9, b"p", cont, 7, "cd", text, 0x80, "wide")
    yield script(5, text, 0xC0, "unmasked", close, 5, b"")
    yield script(9, 0x7F, 0, b"\x81\xfe\x00", 0x7F, 0, b"\x7e" + bytes(130))


# Forms


def run_multipart(data: bytes) -> None:
    """Fields, files and the refusal do not depend on how the body was cut."""
    source = Script(data)
    size, content_type = 1 + source.byte() % 64, source.header() or FORM_TYPE
    body = source.rest()
    assert _form(content_type, [body]) == _form(content_type, pieces(body, size))


def _form(content_type: str, chunks: list[bytes]) -> tuple[list[FormEvent], bytes]:
    reader = FormReader(content_type)
    events: list[FormEvent] = []
    files = b""
    for chunk in [*chunks, None]:
        if chunk is None:
            reader.end_of_data()
        else:
            reader.receive_data(chunk)
        while (event := reader.next_event()) is not None:
            assert not (events and isinstance(events[-1], BadForm)), "events behind the last one"
            if isinstance(event, FileData):
                files += event.data
            else:
                events.append(event)
    return events, files


def multipart_seeds() -> Iterator[bytes]:
    """A form with a field and a file, and what other clients make of it."""
    disposition = "Content-Disposition: form-data; name="
    field = f'--x\r\n{disposition}"model"\r\n\r\nwhisper-1\r\n'
    file = f'--x\r\n{disposition}"file"; filename="a.wav"\r\nContent-Type: a/b\r\n\r\nRIFF'
    yield script(11, "") + f"{field}{file}\r\n--x--\r\n".encode()
    yield script(0, "") + f"{file}\r\n{field}--x--".encode()
    yield script(3, 'multipart/form-data; boundary="y z"') + b"--y z\r\n\r\n--y z--"


# The token file


def run_tokens(data: bytes) -> None:
    """What is read is written the same way, and read again."""
    text = data.decode("utf-8", "replace")
    for line in text.splitlines():
        line_name(line)
    with contextlib.suppress(TokenFileError):
        tokens = parse_tokens(text)
        assert parse_tokens("\n".join(format_token(token) for token in tokens)) == tokens


def tokens_seeds() -> Iterator[bytes]:
    """A whole file."""
    first, second = "9f" * 32, "60" * 32
    yield f"# who\nagents {first} max_sessions=20 per_minute=6\n\nk {second} # x\n".encode()


# The port


def run_web_port(data: bytes) -> None:
    """Any bytes to the port, through HTTP or WebSocket to the dialect that they ask for."""
    source = Script(data)
    size = 1 + source.byte()
    stream = source.chunk() + _frames(source)
    port = WebPort(lambda: STATUS, ("http://b",), max_upload_bytes=MAX_UPLOAD_BYTES)
    connection = _Connection(WebTransport(port))
    for chunk in [*pieces(stream, size), b""]:
        connection.receive(chunk)
    connection.transport.close(None, 0)
    connection.transport.data_to_send()


class _Connection:
    """connection.py without a socket, and without a stream behind."""

    def __init__(self, transport: WebTransport) -> None:
        self.transport = transport
        self._dialect: Dialect | None = None

    def receive(self, chunk: bytes) -> None:
        """Bytes of the socket, and everything that follows from them."""
        self.transport.receive_data(memoryview(chunk), 0)
        for _ in range(MAX_EVENTS):
            event = self.transport.next_event()
            if event is None or isinstance(event, InputEnded):
                return
            if isinstance(event, Upgraded):
                self._dialect = event.dialect
            elif isinstance(event, BodyEnded):
                event.dialect.end_of_body()
            elif self._dialect is not None and not isinstance(event, EmptyMessage):
                self._dialect.receive_data(event)
            if self._dialect is not None:
                self._serve(self._dialect)
            self.transport.data_to_send()
        raise AssertionError("events without end")

    def _serve(self, dialect: Dialect) -> None:
        while (intent := dialect.next_event()) is not None:
            if isinstance(intent, OpenStream) and intent.container is None:
                dialect.handle_event(STARTED, 0, intent.channel)
        for item in dialect.data_to_send():
            self.transport.send(item)


def web_port_seeds() -> Iterator[bytes]:
    """A WebSocket of every API, an upload, a page."""
    text, binary = 0x80 | Opcode.TEXT, 0x80 | Opcode.BINARY
    for path in (
        b"/v1/realtime?model=m",
        b"/v1/realtime?input_audio_format=pcm_s16le_16000",
        b"/v1/listen?encoding=linear16&sample_rate=16000",
        b"/v1/stream",
    ):
        head = HANDSHAKE.replace(b"/v1/realtime?model=m", path)
        yield script(
            40, head, text, 7, '{"type":"input_audio_buffer.commit"}', binary, 7, bytes(320)
        )
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM_TYPE}\r\n"
    form = next(multipart_seeds())[3:]
    length = f"Content-Length: {len(form)}\r\n\r\n"
    yield script(9, head.encode() + length.encode() + form)
    yield script(200, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


# The client's end


def run_client_websocket(data: bytes) -> None:
    """A server's bytes to our client: protocol bytes, or ClientError."""
    source = Script(data)
    size, is_accepted = 1 + source.byte(), source.flag()
    wire = WebSocketWire("ws://h/v1/stream")
    request = wire.data_to_send()
    head = _accept(request) if is_accepted else b""
    try:
        for chunk in [head, *pieces(source.rest(), size), b""]:
            for _ in wire.receive_data(chunk):
                pass
            wire.data_to_send()
    except ClientError:
        pass


def _accept(request: bytes) -> bytes:
    """A server's answer to this handshake, made without one."""
    fields = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:] if line)
    key = accept_key(fields[b"Sec-WebSocket-Key"].decode())
    subprotocol = fields[b"Sec-WebSocket-Protocol"].decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    return head.encode()


def client_websocket_seeds() -> Iterator[bytes]:
    """Frames, a refusal, a redirect."""
    yield bytes((30, 1)) + b"\x82\x05hello\x89\x00\x88\x02\x03\xe8"
    yield bytes((30, 1)) + b"\x81\x02{}"
    yield bytes((9, 0)) + b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"


TARGETS = (
    Target("http", run_http, http_seeds, SHORT_BYTES),
    Target("request_head", run_request_head, request_head_seeds),
    Target("websocket", run_websocket, websocket_seeds, SHORT_BYTES),
    Target("multipart", run_multipart, multipart_seeds, SHORT_BYTES),
    Target("tokens", run_tokens, tokens_seeds),
    Target("web_port", run_web_port, web_port_seeds, SHORT_BYTES),
    Target("client_websocket", run_client_websocket, client_websocket_seeds, SHORT_BYTES),
)
