"""One HTTP/1.1 connection on the port that HTTP and WebSocket share: h11 without a socket.

Pure: bytes in, requests out, answers in, bytes out. It knows no route (routes.py) and no WebSocket
beyond recognising the request that asks for one: that comes out as Upgrade with its raw head, so
that websockets can parse the same bytes again, and this object is done. The transport calls it.

A small request comes out whole (Request). One that `upload_of` knows comes out in pieces:

    RequestHead -> continue_body() -> BodyPart ... BodyEnd      respond() any time after the head

One request at a time: next_event returns nothing more until the last one is answered, and
pipelined bytes wait. The parser never raises into the loop: what is broken, too large or too slow
is answered here, the event is Failed, and the connection ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import h11
import msgspec

from .http_head import RequestError, headers_of, length_bytes_of, target_of, wants_websocket
from .upload_pace import UploadPace

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024  # of a request that is no upload
MAX_PIPELINED_BYTES = 64 * 1024  # behind a request that is not answered yet
# Each costs some 20 us, and one read of the socket could bring ten thousand of a byte.
MAX_CHUNKS_PER_READ = 512
JSON_TYPE = "application/json"

# Anything else in first place will not become HTTP: say so at once, not after a time-out.
_METHOD = re.compile(rb"[A-Za-z]{0,20}(?: |\Z)")
_HEAD_END = b"\r\n\r\n"

# (status, message) -> the JSON of an error, as the clients of one route expect it.
ErrorBody: TypeAlias = Callable[[int, str], bytes]
# (method, path) -> how to answer errors of this upload; None: the request is no upload.
UploadOf: TypeAlias = Callable[[str, str], "ErrorBody | None"]


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; `respond` is due."""

    method: str
    path: str  # unquoted, without the query
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case, repeated ones joined with ", "
    body: bytes


@dataclass(frozen=True, slots=True)
class RequestHead:
    """An upload begins: `continue_body` or `respond` is due."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    length_bytes: int | None  # None: it is sent in chunks


@dataclass(frozen=True, slots=True)
class BodyPart:
    """The next bytes of an upload."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The upload is complete; `respond` is due."""


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


HttpEvent: TypeAlias = Request | RequestHead | BodyPart | BodyEnd | Upgrade | Failed


class _Phase(Enum):
    """What is due; `respond` is legal from OFFERED to PENDING."""

    READING = "reading"  # a head, or a small body
    OFFERED = "offered"  # RequestHead is out: continue_body
    UPLOADING = "uploading"  # the body, piece by piece
    PENDING = "pending"  # the answer
    ANSWERING = "answering"  # the rest of an answer that was begun
    DONE = "done"  # upgraded, failed or ended: nothing more is read


_OPEN = (_Phase.OFFERED, _Phase.UPLOADING, _Phase.PENDING)


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> bytes:
    """The JSON of an error, in the shape that OpenAI's clients expect."""
    fields = {"message": message, "type": type_, "param": param, "code": code}
    return msgspec.json.encode({"error": fields})


def bad_request_body(status: int, message: str) -> bytes:
    """ErrorBody of everything that is no upload."""
    return error_body(message, "invalid_request_error", "bad_request")


def no_uploads(method: str, path: str) -> ErrorBody | None:
    """UploadOf where every body is small."""
    return None


class HttpCore:
    """The server's end of one connection."""

    def __init__(self, upload_of: UploadOf = no_uploads, max_upload_bytes: int = 0) -> None:
        self._upload_of = upload_of
        self._max_upload_bytes = max_upload_bytes
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._phase = _Phase.READING
        self._out: list[bytes] = []
        self._raw = bytearray()  # since the present request's first byte, until its head ends
        self._head: h11.Request | None = None  # read, and not answered
        self._body = bytearray()  # of a small request
        self._announced_bytes = 0  # how long an upload says it is
        self._num_body_bytes = 0  # what came of it
        self._num_chunks = 0  # since the last receive_data
        self._error_body: ErrorBody = bad_request_body
        self._pace: UploadPace | None = None
        self._is_too_slow = False
        self._now_ns = 0
        self._should_close = False

    @property
    def should_close(self) -> bool:
        """True when all was said and taken by data_to_send, and the connection may end."""
        return self._should_close and not self._out

    @property
    def is_over(self) -> bool:
        """Nothing is read any more, and no answer is due."""
        return self._phase is _Phase.DONE

    def receive_data(self, data: bytes | bytearray | memoryview, now_ns: int = 0) -> None:
        """Take bytes from the socket, split anywhere; b"" says that no more will come."""
        if self._phase is _Phase.DONE:
            return
        self._now_ns = now_ns
        self._num_chunks = 0
        if self._pace is not None:
            self._pace.received(len(data))
        if self._phase is _Phase.READING and self._head is None:
            self._raw += data
        try:
            self._connection.receive_data(bytes(data))
        except RuntimeError:
            return  # bytes after the end: h11 refuses them, nobody is waiting for an answer
        if self._phase not in (_Phase.READING, _Phase.UPLOADING):
            self._check_waiting()

    def _check_waiting(self) -> None:
        if len(self._connection.trailing_data[0]) > MAX_PIPELINED_BYTES:
            self._end()

    def next_event(self) -> HttpEvent | None:
        """The next event; None when more bytes, or a call of yours, are due. Never raises."""
        if self._phase not in (_Phase.READING, _Phase.UPLOADING):
            return None
        try:
            return self._next_event()
        except RequestError as error:
            return self._fail(error.status, error.message)
        except h11.RemoteProtocolError as error:
            return self._fail(error.error_status_hint, str(error))

    def continue_body(self) -> Failed | None:
        """Take the body of the upload that RequestHead announced; a client that asked is told.

        Failed, which no event repeats, when the head announces more than may come.
        """
        if self._phase is not _Phase.OFFERED:
            raise AssertionError("no upload is waiting")
        try:
            self._check_size(self._announced_bytes)
        except RequestError as error:
            return self._fail(error.status, error.message)
        self._phase = _Phase.UPLOADING
        self._pace = UploadPace(self._now_ns)
        self._continue_if_asked()
        return None

    # Time

    def next_deadline(self) -> int | None:
        """When `handle_timer` is due; None while no upload is under way."""
        return self._pace.next_deadline() if self._pace is not None else None

    def handle_timer(self, now_ns: int) -> None:
        """The next event may be Failed: the upload is too slow."""
        self._is_too_slow = self._pace is not None and self._pace.is_too_slow(now_ns)

    # Answers

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: str = JSON_TYPE,
        headers: Sequence[tuple[str, str]] = (),
        close: bool = False,
    ) -> None:
        """Answer the request that next_event gave; to HEAD the body's length alone is sent.

        Before the end of an upload, the rest of the body is not read and the connection ends.
        """
        length = ("Content-Length", str(len(body)))
        self.respond_begin(status, content_type, (length, *headers), close)
        self.respond_chunk(body)
        self.respond_end()

    def respond_begin(
        self,
        status: int,
        content_type: str,
        headers: Sequence[tuple[str, str]] = (),
        close: bool = False,
    ) -> None:
        """Begin an answer whose length need not be known; chunks and an end follow."""
        if self._phase not in _OPEN:
            raise AssertionError("there is no request to answer")
        self._begin(status, content_type, headers, close or self._phase is not _Phase.PENDING)
        self._phase = _Phase.ANSWERING
        self._pace = None

    def respond_chunk(self, data: bytes) -> None:
        """More of the answer's body."""
        if self._phase is not _Phase.ANSWERING:
            raise AssertionError("no answer was begun")
        self._send_body(data)

    def respond_end(self) -> None:
        """The answer is complete."""
        if self._phase is not _Phase.ANSWERING:
            raise AssertionError("no answer was begun")
        self._send(h11.EndOfMessage())
        if self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE:
            self._start_next_request()
        else:
            self._end()

    def data_to_send(self) -> bytes:
        """Take what is queued for the socket."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # Reading

    def _next_event(self) -> HttpEvent | None:
        if self._head is None and self._raw and not _METHOD.match(self._raw[:32]):
            raise RequestError(400, "this port speaks HTTP and WebSocket")
        if self._is_too_slow:
            raise RequestError(408, "the upload is too slow")
        while True:
            part = self._connection.next_event()
            if part is h11.NEED_DATA or part is h11.PAUSED:
                return None
            if isinstance(part, h11.ConnectionClosed):
                self._end()
                return None
            event = self._take(part)
            if event is not None:
                return event

    def _take(self, part: object) -> HttpEvent | None:
        if isinstance(part, h11.Request):
            return self._take_head(part)
        if isinstance(part, h11.Data):
            return self._take_data(part.data)
        # EndOfMessage: h11 yields nothing else to a server
        was_upload = self._phase is _Phase.UPLOADING
        self._phase = _Phase.PENDING
        self._pace = None
        return BodyEnd() if was_upload else self._request()

    def _take_head(self, head: h11.Request) -> HttpEvent | None:
        self._head = head
        if wants_websocket(head):
            return self._upgrade(head)
        self._raw.clear()
        path, query = target_of(head)
        error_body_of = self._upload_of(head.method.decode(), path)
        if error_body_of is None:
            self._continue_if_asked()
            return None
        self._error_body = error_body_of
        self._phase = _Phase.OFFERED
        length_bytes = length_bytes_of(head)
        self._announced_bytes = length_bytes or 0
        return RequestHead(head.method.decode(), path, query, headers_of(head), length_bytes)

    def _take_data(self, data: bytes) -> BodyPart | None:
        self._num_chunks += 1
        if self._num_chunks > MAX_CHUNKS_PER_READ:
            raise RequestError(400, "the body comes in too small chunks")
        if self._phase is _Phase.UPLOADING:
            self._num_body_bytes += len(data)
            self._check_size(self._num_body_bytes)
            return BodyPart(bytes(data))
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise RequestError(413, f"a body may have {MAX_BODY_BYTES} bytes here")
        return None

    def _check_size(self, num_bytes: int) -> None:
        limit = self._max_upload_bytes
        if num_bytes > limit:
            raise RequestError(413, f"the upload is larger than the limit of {limit} bytes")

    def _continue_if_asked(self) -> None:
        if self._connection.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))

    def _request(self) -> Request:
        if self._head is None:
            raise AssertionError("a body has a head")
        path, query = target_of(self._head)
        body, self._body = bytes(self._body), bytearray()
        return Request(self._head.method.decode(), path, query, headers_of(self._head), body)

    def _upgrade(self, request: h11.Request) -> Upgrade:
        headers = headers_of(request)
        path, query = target_of(request)
        head = bytes(self._raw)  # and what came behind it
        num_behind = len(self._connection.trailing_data[0])
        if not head[: len(head) - num_behind].endswith(_HEAD_END):
            raise RequestError(400, "header lines end with CR LF")
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise RequestError(400, "a WebSocket handshake has no body")
        self._phase = _Phase.DONE
        return Upgrade(head, path, query, headers)

    # Writing

    def _fail(self, status: int, message: str) -> Failed:
        body = self._error_body(status, message)
        self._begin(status, JSON_TYPE, [("Content-Length", str(len(body)))], close=True)
        self._send_body(body)
        self._send(h11.EndOfMessage())
        self._end()
        return Failed(status, message)

    def _begin(
        self, status: int, content_type: str, headers: Sequence[tuple[str, str]], close: bool
    ) -> None:
        fields = [("Content-Type", content_type), *headers]
        if close:
            fields.append(("Connection", "close"))
        self._send(h11.Response(status_code=status, headers=fields))

    def _send_body(self, data: bytes) -> None:
        is_head = self._head is not None and self._head.method == b"HEAD"
        if data and not is_head:
            self._send(h11.Data(data=data))

    def _send(self, event: h11.Event) -> None:
        self._out.append(self._connection.send(event) or b"")

    def _start_next_request(self) -> None:
        self._connection.start_next_cycle()
        self._raw = bytearray(self._connection.trailing_data[0])
        self._head = None
        self._num_body_bytes = 0
        self._error_body = bad_request_body
        self._phase = _Phase.READING

    def _end(self) -> None:
        self._phase = _Phase.DONE
        self._pace = None
        self._should_close = True
