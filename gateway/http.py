"""One HTTP/1.1 connection on the port that HTTP and WebSocket share: h11 without a socket.

Pure: bytes in, requests out, answers in, bytes out. It knows no route (routes.py) and no WebSocket
beyond recognising the request that asks for one: that comes out as Upgrade with its raw head, so
that websockets can parse the same bytes again, and this object is done. The connection shell calls
it.

One request at a time: next_event returns nothing more until respond() answered the last one, and
pipelined bytes wait. The parser never raises into the loop: a broken request is answered here, the
event is Failed, and the connection ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import msgspec

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024  # larger uploads are a matter of the file API
MAX_PIPELINED_BYTES = 64 * 1024  # behind a request that is not answered yet
MAX_QUERY_FIELDS = 64
JSON_TYPE = "application/json"

# Anything else in first place will not become HTTP: say so at once, not after a time-out.
_METHOD = re.compile(rb"[A-Za-z]{0,20}(?: |\Z)")
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; `respond` is due."""

    method: str
    path: str  # unquoted, without the query
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case, repeated ones joined with ", "
    body: bytes


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The client wants a WebSocket; `head` is all that was received from the request on."""

    head: bytes
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request was broken; its answer is in data_to_send and the connection ends."""

    status: int
    message: str


HttpEvent: TypeAlias = Request | Upgrade | Failed


class _RequestError(Exception):
    """Internal: how to answer what cannot be served."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def error_body(message: str, type_: str, code: str) -> bytes:
    """The JSON of an error, in the shape that OpenAI's clients expect."""
    return msgspec.json.encode({"error": {"message": message, "type": type_, "code": code}})


class HttpCore:
    """The server's end of one connection."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._out: list[bytes] = []
        self._raw = bytearray()  # since the present request's first byte, until its head ends
        self._head: h11.Request | None = None  # read; its body is not complete
        self._body = bytearray()
        self._is_pending = False  # a Request is out and unanswered
        self._done = False  # upgraded, failed or ended: nothing more is read
        self._should_close = False

    @property
    def should_close(self) -> bool:
        """True when all was said and taken by data_to_send, and the connection may end."""
        return self._should_close and not self._out

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the socket, split anywhere; b"" says that no more will come."""
        if self._done:
            return
        if self._head is None and not self._is_pending:
            self._raw += data
        try:
            self._connection.receive_data(bytes(data))
        except RuntimeError:
            return  # bytes after the end: h11 refuses them, nobody is waiting for an answer
        if self._is_pending and len(self._connection.trailing_data[0]) > MAX_PIPELINED_BYTES:
            self._done = self._should_close = True

    def next_event(self) -> HttpEvent | None:
        """The next request; None when more bytes, or an answer, are due. Never raises."""
        if self._done or self._is_pending:
            return None
        try:
            return self._next_event()
        except _RequestError as error:
            return self._fail(error.status, error.message)
        except h11.RemoteProtocolError as error:
            return self._fail(error.error_status_hint, str(error))

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = JSON_TYPE,
        headers: Sequence[tuple[str, str]] = (),
        close: bool = False,
    ) -> None:
        """Answer the request that next_event gave; to HEAD the body's length alone is sent."""
        if not self._is_pending:
            raise AssertionError("there is no request to answer")
        self._is_pending = False
        is_head = self._head is not None and self._head.method == b"HEAD"
        self._head = None
        self._answer(status, b"" if is_head else body, content_type, headers, close, len(body))
        if self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE:
            self._connection.start_next_cycle()
            self._raw = bytearray(self._connection.trailing_data[0])
        else:
            self._done = self._should_close = True

    def data_to_send(self) -> bytes:
        """Take what is queued for the socket."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _next_event(self) -> HttpEvent | None:
        if self._head is None and self._raw and not _METHOD.match(self._raw[:32]):
            raise _RequestError(400, "this port speaks HTTP and WebSocket")
        while True:
            part = self._connection.next_event()
            if part is h11.NEED_DATA or part is h11.PAUSED:
                return None
            if isinstance(part, h11.ConnectionClosed):
                self._done = self._should_close = True
                return None
            event = self._take(part)
            if event is not None:
                return event

    def _take(self, part: object) -> HttpEvent | None:
        if isinstance(part, h11.Request):
            self._head = part
            if _wants_websocket(part):
                return self._upgrade(part)
            self._raw.clear()
            self._continue_if_asked()
        elif isinstance(part, h11.Data):
            self._body += part.data
            if len(self._body) > MAX_BODY_BYTES:
                raise _RequestError(413, f"a body may have {MAX_BODY_BYTES} bytes here")
        else:  # EndOfMessage: h11 yields nothing else to a server
            return self._request()
        return None

    def _continue_if_asked(self) -> None:
        if self._connection.they_are_waiting_for_100_continue:
            informational = h11.InformationalResponse(status_code=100, headers=[])
            self._out.append(self._connection.send(informational) or b"")

    def _request(self) -> Request:
        if self._head is None:
            raise AssertionError("a body has a head")
        path, query = _target(self._head.target)
        body, self._body = bytes(self._body), bytearray()
        self._is_pending = True
        return Request(self._head.method.decode(), path, query, _headers(self._head), body)

    def _upgrade(self, request: h11.Request) -> Upgrade:
        headers = _headers(request)
        path, query = _target(request.target)
        head = bytes(self._raw)
        if _HEAD_END not in head:
            raise _RequestError(400, "header lines end with CR LF")
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise _RequestError(400, "a WebSocket handshake has no body")
        self._done = True
        return Upgrade(head, path, query, headers)

    def _fail(self, status: int, message: str) -> Failed:
        self._done = self._should_close = True
        body = error_body(message, "invalid_request_error", "bad_request")
        self._answer(status, body, JSON_TYPE, (), True, len(body))
        return Failed(status, message)

    def _answer(
        self,
        status: int,
        body: bytes,
        content_type: str,
        headers: Sequence[tuple[str, str]],
        close: bool,
        length: int,
    ) -> None:
        fields = [("Content-Type", content_type), ("Content-Length", str(length)), *headers]
        if close:
            fields.append(("Connection", "close"))
        send = self._connection.send
        self._out.append(send(h11.Response(status_code=status, headers=fields)) or b"")
        if body:
            self._out.append(send(h11.Data(data=body)) or b"")
        self._out.append(send(h11.EndOfMessage()) or b"")


def _wants_websocket(request: h11.Request) -> bool:
    headers = _headers(request)
    options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
    return (
        request.method == b"GET"
        and headers.get("upgrade", "").strip().lower() == "websocket"
        and "upgrade" in options
    )


def _headers(request: h11.Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _target(target: bytes) -> tuple[str, dict[str, list[str]]]:
    try:
        parts = urlsplit(target.decode("latin-1"))
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise _RequestError(400, f"the request target is malformed: {error}") from None
    return unquote(parts.path), query
