"""Which API a request is of: several share a port, and two of them a path."""

from __future__ import annotations

import pytest

from gateway.dialects.choice import Api, plain_path, upload_api, websocket_api


@pytest.mark.parametrize(
    ("path", "query", "subprotocols", "api"),
    [
        ("/v1/stream", {}, [], Api.NATIVE),
        ("/v1/stream/", {}, [], Api.NATIVE),
        ("/", {}, ["earwire.v1"], Api.NATIVE),
        ("/v1/realtime", {}, ["realtime"], Api.OPENAI),
        ("/v1/realtime", {"intent": ["transcription"], "model": ["m"]}, [], Api.OPENAI),
        (
            "/v1/realtime",
            {"intent": ["transcription"], "input_audio_format": ["pcm_s16le_16000"]},
            [],
            Api.TOGETHER,
        ),
        ("/v1/realtime/", {"input_audio_format": [""]}, [], Api.TOGETHER),
        ("/v1/listen", {"model": ["nova-3"]}, ["token", "key"], Api.DEEPGRAM),
        ("/v1/audio/transcriptions", {}, [], None),
        ("/v2/listen", {}, [], None),
        ("", {}, [], None),
        ("/", {}, ["realtime"], None),
    ],
)
def test_websockets(
    path: str, query: dict[str, list[str]], subprotocols: list[str], api: Api | None
) -> None:
    assert websocket_api(path, query, subprotocols) is api


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("POST", "/v1/audio/transcriptions", Api.OPENAI_FILE),
        ("POST", "/v1/audio/transcriptions/", Api.OPENAI_FILE),
        ("POST", "/v1/listen", Api.DEEPGRAM_FILE),
        ("GET", "/v1/listen", None),
        ("POST", "/v1/audio/translations", Api.OPENAI_TRANSLATION),
        ("PUT", "/v1/audio/transcriptions", None),
        ("POST", "/v1/models", None),
    ],
)
def test_uploads(method: str, path: str, api: Api | None) -> None:
    assert upload_api(method, path) is api


def test_a_path_is_never_empty() -> None:
    assert plain_path("") == plain_path("///") == "/"
    assert plain_path("/web/app.js") == "/web/app.js"
