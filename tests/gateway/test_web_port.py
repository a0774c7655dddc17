"""WebPort: each API's request becomes that API's dialect, with its token and its time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.dialects import OpenStream
from gateway.dialects.choice import Api
from gateway.http import RequestHead, Upgrade
from gateway.routes import ServerStatus
from gateway.web_port import WebPort, upload_of
from protocol.client_messages import Closed
from protocol.errors import ErrorCode

HEADERS = {"authorization": "Bearer secret", "content-type": "audio/wav"}
QUERIES: dict[Api, dict[str, list[str]]] = {
    Api.TOGETHER: {"input_audio_format": ["pcm_s16le_16000"]},
    Api.DEEPGRAM: {"encoding": ["linear16"], "sample_rate": ["16000"]},
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
)


def port(**changes: Any) -> WebPort:
    status = ServerStatus(last_step_age_s=None)
    return WebPort(**{"status": lambda: status, "wall_offset_ns": 1_000_000_000, **changes})


@pytest.mark.parametrize("api", [Api.NATIVE, Api.TOGETHER, Api.OPENAI, Api.DEEPGRAM])
def test_websockets(api: Api) -> None:
    request = Upgrade(b"", "/v1/x", QUERIES.get(api, {}), HEADERS)
    dialect = port().websocket_dialect(api, request)
    assert dialect.name == api.value
    intent = dialect.next_event()
    if api is Api.NATIVE:
        assert intent is None
    else:
        assert isinstance(intent, OpenStream)
        assert intent.hello.token == "secret"


def test_an_openai_upload() -> None:
    headers = {**HEADERS, "content-type": "multipart/form-data; boundary=b"}
    head = RequestHead("POST", "/v1/audio/transcriptions", {}, headers, None)
    dialect = port().file_dialect(head, 5)
    assert dialect.name == "openai_http"
    dialect.receive_data(FORM)
    intent = dialect.next_event()
    assert isinstance(intent, OpenStream)
    assert intent.hello.token == "secret"


def test_a_deepgram_upload_knows_its_name_and_the_time() -> None:
    head = RequestHead("POST", "/v1/listen", {}, HEADERS, None)
    dialect = port(new_request_id=lambda: "id-1").file_dialect(head, 2_000_000_000)
    assert dialect.name == "deepgram_http"
    dialect.receive_data(b"RIFF")
    intent = dialect.next_event()
    assert isinstance(intent, OpenStream)
    assert intent.hello.token == "secret"
    dialect.end_of_body()
    record = Closed(
        reason="client", client_samples=1, socket_samples=1, ring_samples=1, engine_samples=1
    )
    dialect.handle_event(record, 3)
    (reply,) = dialect.data_to_send()
    metadata = json.loads(getattr(reply, "body", b"{}"))["metadata"]
    assert metadata["request_id"] == "id-1"
    assert metadata["created"].startswith("1970-01-01T00:00:03")


def test_errors_of_uploads_are_in_their_apis_shape() -> None:
    openai, deepgram = (
        upload_of("POST", "/v1/audio/transcriptions"),
        upload_of("POST", "/v1/listen"),
    )
    assert openai is not None
    assert deepgram is not None
    assert "error" in json.loads(openai(413, "too large"))
    assert "err_code" in json.loads(deepgram(413, "too large"))
    assert upload_of("POST", "/v1/models") is None


def test_by_default_everybody_comes_in_and_nothing_is_counted() -> None:
    plain = port()
    assert plain.authorize("") is None
    assert plain.new_request_id() == ""
    plain.on_refused(ErrorCode.UNAUTHORIZED.value)
