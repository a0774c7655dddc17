"""What all connections of the web port share: settings, and how each API's dialect is made. Pure.

The worker makes one WebPort; web_transport.py takes everything from it that is not of one
connection. Dialects are built here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from protocol.client_messages import Error

from .client_token import client_token
from .dialects import Dialect, FileDialect
from .dialects.choice import Api, upload_api
from .dialects.deepgram import DeepgramDialect
from .dialects.deepgram_http import DeepgramFileDialect
from .dialects.deepgram_http import error_reply as deepgram_error
from .dialects.native import NativeDialect
from .dialects.openai_http import OpenAiFileDialect
from .dialects.openai_http import error_reply as openai_error
from .dialects.openai_realtime import OpenAiRealtimeDialect
from .dialects.together import TogetherDialect
from .http import ErrorBody, RequestHead, Upgrade
from .routes import ServerStatus

_NS_PER_S = 1_000_000_000
_ERROR_BODIES: Mapping[Api, ErrorBody] = {
    Api.OPENAI_FILE: openai_error,
    Api.OPENAI_TRANSLATION: openai_error,
    Api.DEEPGRAM_FILE: deepgram_error,
}


def everybody(token: str) -> Error | None:
    """No token is asked for."""
    return None


def no_request_id() -> str:
    """Requests have no names."""
    return ""


def nobody_counts(reason: str) -> None:
    """Refusals are not counted."""


@dataclass(frozen=True, slots=True)
class WebPort:
    """Settings of one worker's web port."""

    status: Callable[[], ServerStatus]
    allow_origins: Sequence[str] = ()
    authorize: Callable[[str], Error | None] = everybody  # Gatekeeper.authorize
    wall_offset_ns: int = 0  # added to the loop's time it makes Unix time
    max_upload_bytes: int = 0
    new_request_id: Callable[[], str] = no_request_id  # unique over all servers
    on_refused: Callable[[str], None] = nobody_counts  # gets the reason, a metric's label

    def websocket_dialect(self, api: Api, request: Upgrade) -> Dialect:
        """The dialect of a WebSocket; one of WebDialect, except the native one."""
        token = client_token(request.headers, request.query)
        if api is Api.NATIVE:
            return NativeDialect()
        if api is Api.TOGETHER:
            return TogetherDialect(request.query, token, self.wall_offset_ns)
        if api is Api.DEEPGRAM:
            return DeepgramDialect(request.query, token, self.new_request_id(), self.wall_offset_ns)
        return OpenAiRealtimeDialect(request.query, token, self.wall_offset_ns)

    def file_dialect(self, head: RequestHead, now_ns: int) -> FileDialect:
        """The dialect of an upload."""
        token = client_token(head.headers, head.query)
        api = upload_api(head.method, head.path)
        if api in (Api.OPENAI_FILE, Api.OPENAI_TRANSLATION):
            translates = api is Api.OPENAI_TRANSLATION
            return OpenAiFileDialect(head.headers, token, translates=translates)
        wall_s = (now_ns + self.wall_offset_ns) // _NS_PER_S
        return DeepgramFileDialect(head.headers, head.query, token, self.new_request_id(), wall_s)


def upload_of(method: str, path: str) -> ErrorBody | None:
    """http.UploadOf: how errors read to the clients of this upload, None if it is none."""
    api = upload_api(method, path)
    return None if api is None else _ERROR_BODIES[api]
