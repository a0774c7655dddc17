"""Which client API a request on the web port belongs to: path, query and subprotocols. Pure.

Several APIs share one port and two of them one path: Together's clients name the audio format in
the query of /v1/realtime, which OpenAI's never do (`intent` decides nothing, some of Together's
send it as well). web_transport.py asks here and builds the dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from ..client_token import NATIVE_SUBPROTOCOL

NATIVE_PATH = "/v1/stream"
REALTIME_PATH = "/v1/realtime"
LISTEN_PATH = "/v1/listen"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
TRANSLATIONS_PATH = "/v1/audio/translations"
WEBSOCKET_PATHS = frozenset({NATIVE_PATH, REALTIME_PATH, LISTEN_PATH})
UPLOAD_PATHS = frozenset({LISTEN_PATH, TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH})


class Api(Enum):
    """A client API, by the way its audio comes."""

    NATIVE = "native"
    TOGETHER = "together"
    OPENAI = "openai"
    DEEPGRAM = "deepgram"
    OPENAI_FILE = "openai_http"
    OPENAI_TRANSLATION = "openai_translation"
    DEEPGRAM_FILE = "deepgram_http"


_UPLOADS = {
    TRANSCRIPTIONS_PATH: Api.OPENAI_FILE,
    TRANSLATIONS_PATH: Api.OPENAI_TRANSLATION,
    LISTEN_PATH: Api.DEEPGRAM_FILE,
}


def websocket_api(
    path: str, query: Mapping[str, list[str]], subprotocols: Sequence[str]
) -> Api | None:
    """The API of a WebSocket handshake; None where there is no WebSocket."""
    path = plain_path(path)
    if path == NATIVE_PATH or NATIVE_SUBPROTOCOL in subprotocols:
        return Api.NATIVE
    if path == LISTEN_PATH:
        return Api.DEEPGRAM
    if path == REALTIME_PATH:
        return Api.TOGETHER if "input_audio_format" in query else Api.OPENAI
    return None


def upload_api(method: str, path: str) -> Api | None:
    """The API of a request whose body is audio; None for any other request."""
    return _UPLOADS.get(plain_path(path)) if method == "POST" else None


def plain_path(path: str) -> str:
    """Without the slash that base URLs like to leave at the end."""
    return path.rstrip("/") or "/"
