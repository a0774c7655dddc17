"""The port that HTTP and WebSocket share, as a transport: plain requests are answered here, an
upgrade turns into a dialect's messages, an upload into the pieces of its body. Pure.

It joins http.HttpCore, routes.answer and websocket.WebSocketCore; dialects/choice.py says which API
a request belongs to and web_port.py makes its dialect. Nobody without a token gets beyond the head
of a request, except to what is public (routes.py) and to the native protocol, which has the token
in its hello. The connection shell drives it as any transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias, cast

from protocol.client_messages import Error

from . import routes
from .client_token import answered_subprotocol, client_token, offered_subprotocols
from .dialects import FileDialect, HttpChunk, HttpReply, Output, WebDialect, WriteAudio
from .dialects.choice import Api, websocket_api
from .dialects.deepgram import DeepgramDialect
from .dialects.http_errors import headers_of, status_of
from .dialects.together import TogetherDialect
from .http import (
    JSON_TYPE,
    BodyEnd,
    BodyPart,
    Failed,
    HttpCore,
    HttpEvent,
    Request,
    RequestHead,
    Upgrade,
    error_body,
)
from .origin import origin_allowed
from .transport import AudioLane, BodyEnded, EmptyMessage, InputEnded, TransportEvent, Upgraded
from .web_port import WebPort, upload_of
from .websocket import PLAIN_BINARY, PLAIN_TEXT, WebSocketCore, WsClosed, WsWork, plain_frame

CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_TRY_AGAIN = 1013
DEEPGRAM_MAX_IDLE_NS = 10_000_000_000  # its clients say KeepAlive more often than this
# Frames that may carry audio, and what passes the samples of one on; False changes nothing.
_Lane: TypeAlias = tuple[int, Callable[[bytes, WriteAudio, int], bool]]
_FOREIGN = "origin"  # why a web page's request is refused, as a metric's label
_SAFE_METHODS = ("GET", "HEAD")


class WebTransport:
    """See the module text and transport.Transport."""

    def __init__(self, port: WebPort, over_tls: bool = False) -> None:
        self._port = port
        self._over_tls = over_tls
        self._now_ns = 0
        self._http: HttpCore | None = HttpCore(upload_of, port.max_upload_bytes)
        self._websocket: WebSocketCore | None = None
        self._dialect: WebDialect | None = None  # of the WebSocket, unless it is the native one
        self._lane: _Lane | None = None  # if this dialect has one
        self._upload: FileDialect | None = None
        self._cors: tuple[tuple[str, str], ...] = ()
        self._out: list[bytes] = []
        self._input_ended = False
        self._is_over = False

    @property
    def should_close(self) -> bool:
        """HTTP: every request is the last one. WebSocket: the close handshake is over."""
        if self._websocket is not None:
            return self._websocket.should_close
        return self._is_over or (self._http is not None and self._http.should_close)

    @property
    def can_send(self) -> bool:
        """False once the WebSocket was closed from either side: finals have nowhere to go. A
        request whose client ended its input was given up by it.
        """
        if self._websocket is not None:
            return self._websocket.is_open
        return self._upload is None or not self._input_ended

    @property
    def is_uploading(self) -> bool:
        """From the head of an upload on, until it is answered."""
        return self._upload is not None and not self._is_over

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """Bytes of the socket; empty at the end of input."""
        self._now_ns = now_ns
        if self._dialect is not None:
            self._dialect.now_ns = now_ns
        if self._websocket is not None:
            self._websocket.receive_data(data)
            return
        assert self._http is not None  # until there is a WebSocket
        self._input_ended = self._input_ended or not data
        self._http.receive_data(data, now_ns)
        self._is_over = self._is_over or self._http.is_over  # cut off: its answer goes nowhere

    def discard_data(self, data: memoryview) -> None:
        """The client's answer to our close frame changes nothing: the socket's end does."""

    def next_event(self) -> TransportEvent | None:
        """The next message, the upgrade, or the end; plain requests are answered on the way."""
        if self._websocket is not None:
            return self._next_message(self._websocket)
        if self._http is None or self._is_over:
            return None
        request = self._http.next_event()
        if request is None:
            return InputEnded() if self._input_ended else None
        return self._take(self._http, request)

    def _next_message(self, websocket: WebSocketCore) -> TransportEvent | None:
        """b"" is the end of input to a dialect, and of that a message is no sign in most APIs."""
        event = websocket.next_event()
        if isinstance(event, WsClosed):
            return InputEnded()
        if isinstance(event, WsWork):
            return EmptyMessage()
        if event == b"" and (self._dialect is None or not self._dialect.empty_message_ends):
            return EmptyMessage()
        return event

    def next_deadline(self) -> int | None:
        """When the upload under way has to be looked at."""
        return self._http.next_deadline() if self._http is not None else None

    def handle_timer(self, now_ns: int) -> None:
        """The upload may be too slow."""
        if self._http is not None:
            self._http.handle_timer(now_ns)

    def audio_lane(self) -> AudioLane | None:
        """Together's appends and Deepgram's binary messages; a native client that wants the short
        way has a socket of its own.
        """
        return self._receive_audio if self._lane is not None else None

    def _receive_audio(self, view: memoryview, size: int, write: WriteAudio, now_ns: int) -> int:
        """transport.AudioLane: from the receive buffer to the ring, frame by frame.

        Of 28 us a frame at 700 streams, unmasking, JSON and base64 were 3; most of the rest went
        into handing events and intents from one core to the next, which this does without.
        """
        websocket, lane = self._websocket, self._lane
        start = 0
        if websocket is None or lane is None or not websocket.is_between_messages:
            return start
        frames, take = lane
        while (frame := plain_frame(view, start, size, frames)) is not None:
            data, end = frame
            if not take(data, write, now_ns):
                break
            start = end
        return start

    # Requests

    def _take(self, http: HttpCore, request: HttpEvent) -> TransportEvent | None:
        if isinstance(request, BodyPart):
            return request.data
        if isinstance(request, BodyEnd):
            return BodyEnded(self._uploading())
        if isinstance(request, Upgrade):
            return self._upgrade(request)
        if isinstance(request, RequestHead):
            return self._begin_upload(http, request)
        self._is_over = True
        if isinstance(request, Request):
            self._answer(http, request)
        return InputEnded() if isinstance(request, Failed) and self._upload is not None else None

    def _answer(self, http: HttpCore, request: Request) -> None:
        """One request a connection: what idles here is a WebSocket, not a browser's pool."""
        response = self._refusal(request) or routes.answer(request, self._port.status())
        headers = (*response.headers, *self._cors)
        http.respond(response.status, response.body, response.content_type, headers, close=True)

    def _refusal(self, request: Request | RequestHead) -> routes.Response | None:
        """Why this request is not looked at: whose page it comes from, or no token."""
        error = self._page_error(request)
        if error is not None or request.method == "OPTIONS":
            return error or routes.preflight()
        if routes.is_public(request.path):
            return None
        refused = self._token_error(request)
        return None if refused is None else routes.unauthorized(refused.message)

    def _token_error(self, request: Request | RequestHead | Upgrade) -> Error | None:
        refused = self._port.authorize(client_token(request.headers, request.query))
        if refused is not None:
            self._port.on_refused(refused.code.value)
        return refused

    def _page_error(self, request: Request | RequestHead) -> routes.Response | None:
        if self._is_from_own_page(request.headers):
            self._cors = routes.cors_headers(request.headers.get("origin"))
            return None
        if request.method in _SAFE_METHODS:
            return None  # the browser keeps the answer from that page
        self._port.on_refused(_FOREIGN)
        return routes.foreign_origin()

    def _is_from_own_page(self, headers: Mapping[str, str]) -> bool:
        """Or from an allowed one, or from no browser."""
        return origin_allowed(
            headers.get("origin"),
            headers.get("host"),
            self._port.allow_origins,
            over_tls=self._over_tls,
        )

    def _begin_upload(self, http: HttpCore, head: RequestHead) -> TransportEvent | None:
        response = self._page_error(head)
        if response is not None:
            self._is_over = True
            http.respond(response.status, response.body, response.content_type, close=True)
            return None
        self._upload = self._port.file_dialect(head, self._now_ns)
        refused = self._token_error(head)
        if refused is None:
            self._is_over = http.continue_body() is not None
            return None if self._is_over else Upgraded(self._upload)
        self._upload.handle_event(refused, self._now_ns)
        for item in self._upload.data_to_send():
            self.send(item)
        return None

    def _uploading(self) -> FileDialect:
        if self._upload is None:
            raise AssertionError("a body came without its head")
        return self._upload

    def _upgrade(self, request: Upgrade) -> TransportEvent | None:
        offered = offered_subprotocols(request.headers)
        api = websocket_api(request.path, request.query, offered)
        if api is None:
            self._say(404, f"there is no WebSocket at {request.path[:200]}", "not_found")
            return None
        if not self._is_from_own_page(request.headers):
            self._port.on_refused(_FOREIGN)
            self._say(403, routes.FOREIGN_TEXT, routes.FOREIGN_CODE)
            return None
        if api is not Api.NATIVE:
            refused = self._token_error(request)
            if refused is not None:
                self.refuse(refused)
                return None
        self._http = None
        self._websocket = WebSocketCore(request.head, select_subprotocol=answered_subprotocol)
        return self._open(api, request) if self._websocket.accepted else None

    def _open(self, api: Api, request: Upgrade) -> Upgraded:
        dialect = self._port.websocket_dialect(api, request)
        if api is not Api.NATIVE:
            self._dialect = cast("WebDialect", dialect)
            self._dialect.now_ns = self._now_ns
        if isinstance(dialect, TogetherDialect):
            self._lane = PLAIN_TEXT, dialect.receive_audio
        elif isinstance(dialect, DeepgramDialect):
            self._lane = PLAIN_BINARY, dialect.receive_audio
        return Upgraded(dialect, DEEPGRAM_MAX_IDLE_NS if api is Api.DEEPGRAM else None)

    # Answers

    def send(self, item: Output) -> None:
        """One item of a WebSocket dialect's output is one message; a file dialect's are the parts
        of its answer.
        """
        if self._websocket is not None:
            if isinstance(item, HttpReply | HttpChunk):
                raise AssertionError("an HTTP answer on a WebSocket")
            self._websocket.send(item)
        elif self._http is not None and self.is_uploading:
            self._send_part(self._http, item)

    def _send_part(self, http: HttpCore, item: Output) -> None:
        if isinstance(item, HttpChunk):
            http.respond_chunk(item.body)
        elif isinstance(item, HttpReply):
            headers = (*item.headers, *self._cors)
            if item.is_last:
                length = ("Content-Length", str(len(item.body)))
                headers = (length, *headers)
            http.respond_begin(item.status, item.content_type, headers, close=True)
            http.respond_chunk(item.body)
        else:
            raise AssertionError("a message where an HTTP answer is due")
        if item.is_last:
            http.respond_end()
            self._is_over = True

    def refuse(self, error: Error) -> None:
        """No dialect yet: an HTTP answer."""
        self._say(status_of(error.code), error.message, error.code.value, headers_of(error))

    def close(self, error: Error | None, now_ns: int) -> None:
        """The close frame; the dialect's own code, if it has one."""
        self._is_over = True
        if self._websocket is None:
            return
        code, reason = CLOSE_NORMAL, ""
        if self._dialect is not None and self._dialect.close_code is not None:
            code, reason = self._dialect.close_code, self._dialect.close_reason
        elif error is not None:
            code = CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY
            reason = f"{error.code.value}: {error.message}"
        self._websocket.close(code, reason, now_ns)

    def data_to_send(self) -> bytes:
        """Everything queued."""
        if self._websocket is not None:
            return self._websocket.data_to_send()
        assert self._http is not None  # until there is a WebSocket
        self._out.append(self._http.data_to_send())
        out, self._out = self._out, []
        return b"".join(out)

    def _say(
        self, status: int, message: str, code: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """An answer where h11 has no request to answer."""
        body = error_body(message, "invalid_request_error", code)
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {JSON_TYPE}\r\n"
            f"{more}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._out.append(head.encode() + body)
        self._is_over = True
