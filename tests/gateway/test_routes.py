"""Routes beside health, metrics and models (test_http.py): the page, uploads, who is public."""

from __future__ import annotations

import json

import pytest

from gateway.http import Request
from gateway.routes import (
    Response,
    ServerStatus,
    answer,
    cors_headers,
    foreign_origin,
    is_public,
    preflight,
    unauthorized,
)
from gateway.web_assets import asset


def get(path: str, method: str = "GET") -> Response:
    return answer(Request(method, path, {}, {}, b""), ServerStatus(last_step_age_s=1.0))


@pytest.mark.parametrize("path", ["/", "/overlay"])
def test_pages_come_with_their_headers(path: str) -> None:
    file = asset(path)
    assert file is not None
    response = get(path)
    assert (response.status, response.body) == (200, file.body)
    assert (response.content_type, response.headers) == (file.content_type, file.headers)
    assert get(path, "HEAD").status == 200
    assert get(path, "POST").status == 405


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/transcriptions/"])
def test_audio_is_not_fetched(path: str) -> None:
    response = get(path)
    assert (response.status, response.headers) == (405, (("Allow", "POST"),))


def test_a_slash_too_many_is_forgiven() -> None:
    assert get("/v1/models/").status == 200
    assert get("/v1/listen/").status == 426


def test_what_needs_no_token() -> None:
    public = ["/", "/overlay", "/health/live", "/health/ready"]
    assert all(is_public(path) for path in public)
    private = ["/metrics", "/v1/models", "/web/nothing", "/nothing", "/v1/listen"]
    assert not any(is_public(path) for path in private)


def test_refusals() -> None:
    refused = unauthorized("no token")
    assert (refused.status, refused.headers) == (401, (("WWW-Authenticate", "Bearer"),))
    assert json.loads(refused.body)["error"]["message"] == "no token"
    assert foreign_origin().status == 403


def test_what_browsers_ask_for_other_pages() -> None:
    assert preflight().status == 204
    assert "Authorization" in dict(preflight().headers)["Access-Control-Allow-Headers"]
    assert cors_headers(None) == ()
    assert dict(cors_headers("https://a.example")) == {
        "Access-Control-Allow-Origin": "https://a.example", "Vary": "Origin",
    }  # fmt: skip


def test_an_origin_that_no_browser_sends_is_not_repeated() -> None:
    """Names outside ASCII come as punycode; a header can not carry anything else back."""
    assert cors_headers("http://b\xfccher.example") == ()
