"""The port that HTTP and WebSocket share, as a transport: plain requests are answered here, an
upgrade turns into a dialect's messages. Pure.

It joins http.HttpCore, routes.answer and websocket.WebSocketCore, and picks the dialect: the
native one for /v1/stream or the subprotocol earwire.v1, Together's for /v1/realtime. The
connection shell drives it as any transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from protocol.client_messages import Error
from protocol.errors import ErrorCode

from . import routes
from .dialects import WriteAudio
from .dialects.native import NativeDialect
from .dialects.together import TogetherDialect
from .http import Failed, HttpCore, Request, Upgrade, error_body
from .transport import AudioLane, InputEnded, TransportEvent, Upgraded
from .websocket import WebSocketCore, WsClosed, plain_text

NATIVE_PATH = "/v1/stream"
NATIVE_SUBPROTOCOL = "earwire.v1"
TOGETHER_PATH = "/v1/realtime"
CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_TRY_AGAIN = 1013
_STATUS = {ErrorCode.HANDSHAKE_TIMEOUT: 408}  # anything else that refuses is 503


class WebTransport:
    """See the module text and transport.Transport."""

    def __init__(
        self,
        status: Callable[[], routes.ServerStatus],
        allow_origins: Sequence[str],
        wall_offset_ns: int,
    ) -> None:
        self._status = status
        self._allow_origins = allow_origins
        self._wall_offset_ns = wall_offset_ns
        self._now_ns = 0
        self._http: HttpCore | None = HttpCore()
        self._websocket: WebSocketCore | None = None
        self._together: TogetherDialect | None = None
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
        """False once the WebSocket was closed from either side: finals have nowhere to go."""
        return self._websocket is None or self._websocket.is_open

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """Bytes of the socket; empty at the end of input."""
        self._now_ns = now_ns
        if self._together is not None:
            self._together.now_ns = now_ns
        if self._websocket is not None:
            self._websocket.receive_data(data)
        elif self._http is not None:
            self._input_ended = self._input_ended or not data
            self._http.receive_data(data)

    def discard_data(self, data: memoryview) -> None:
        """The client's answer to our close frame changes nothing: the socket's end does."""

    def next_event(self) -> TransportEvent | None:
        """The next message, the upgrade, or the end; plain requests are answered on the way."""
        if self._websocket is not None:
            event = self._websocket.next_event()
            return InputEnded() if isinstance(event, WsClosed) else event
        if self._http is None or self._is_over:
            return None
        request = self._http.next_event()
        if isinstance(request, Upgrade):
            return self._upgrade(request)
        if isinstance(request, Request):
            self._answer(request)
        elif isinstance(request, Failed):
            self._is_over = True
        elif self._input_ended:
            return InputEnded()
        return None

    def audio_lane(self) -> AudioLane | None:
        """Together's appends; a native client that wants the short way has a socket of its own."""
        return self._receive_audio if self._together is not None else None

    def _receive_audio(self, view: memoryview, size: int, write: WriteAudio, now_ns: int) -> int:
        """transport.AudioLane: from the receive buffer to the ring, frame by frame.

        Of 28 us a frame at 700 streams, unmasking, JSON and base64 were 3; most of the rest went
        into handing events and intents from one core to the next, which this does without.
        """
        websocket, together = self._websocket, self._together
        start = 0
        if websocket is None or together is None or not websocket.is_between_messages:
            return start
        while (frame := plain_text(view, start, size)) is not None:
            text, end = frame
            if not together.receive_audio(text, write, now_ns):
                break
            start = end
        return start

    def _answer(self, request: Request) -> None:
        """One request a connection: what idles here is a WebSocket, not a browser's pool."""
        if self._http is None:
            raise AssertionError("a request came out of nothing")
        response = routes.answer(request, self._status())
        self._http.respond(
            response.status, response.body, response.content_type, response.headers, close=True
        )
        self._is_over = True

    def _upgrade(self, request: Upgrade) -> TransportEvent | None:
        offered = [name.strip() for name in _subprotocols(request.headers)]
        is_native = request.path == NATIVE_PATH or NATIVE_SUBPROTOCOL in offered
        if not is_native and request.path != TOGETHER_PATH:
            self._say(404, f"there is no WebSocket at {request.path[:200]}", "not_found")
            return None
        self._http = None
        self._websocket = WebSocketCore(
            request.head, select_subprotocol=_select, allow_origins=self._allow_origins
        )
        if not self._websocket.accepted:
            return None
        if is_native:
            return Upgraded(NativeDialect())
        self._together = TogetherDialect(
            request.query, _bearer_token(request.headers), self._wall_offset_ns
        )
        self._together.now_ns = self._now_ns
        return Upgraded(self._together)

    def send(self, item: bytes | str) -> None:
        """One item of a dialect's output is one message."""
        if self._websocket is not None:
            self._websocket.send(item)

    def refuse(self, error: Error) -> None:
        """No dialect yet: an HTTP answer."""
        self._say(_STATUS.get(error.code, 503), error.message, error.code.value)

    def close(self, error: Error | None, now_ns: int) -> None:
        """The close frame; the dialect's own code, if it has one."""
        self._is_over = True
        if self._websocket is None:
            return
        code, reason = CLOSE_NORMAL, ""
        if self._together is not None and self._together.close_code is not None:
            code, reason = self._together.close_code, self._together.close_reason
        elif error is not None:
            code = CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY
            reason = f"{error.code.value}: {error.message}"
        self._websocket.close(code, reason, now_ns)

    def data_to_send(self) -> bytes:
        """Everything queued."""
        if self._websocket is not None:
            return self._websocket.data_to_send()
        if self._http is not None:
            self._out.append(self._http.data_to_send())
        out, self._out = self._out, []
        return b"".join(out)

    def _say(self, status: int, message: str, code: str) -> None:
        """An answer where h11 has no request to answer."""
        body = error_body(message, "invalid_request_error", code)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._out.append(head.encode() + body)
        self._is_over = True


def _subprotocols(headers: Mapping[str, str]) -> list[str]:
    return headers.get("sec-websocket-protocol", "").split(",")


def _select(offered: Sequence[str]) -> str | None:
    return NATIVE_SUBPROTOCOL if NATIVE_SUBPROTOCOL in offered else None


def _bearer_token(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
