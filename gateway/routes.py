"""What the HTTP port answers: the page, health, metrics and the list of models. Pure.

It knows no connection and no clock: the worker describes the server in a ServerStatus and passes
each request on. Errors are JSON in OpenAI's shape. The paths of WebSockets and uploads are here
only to tell a plain GET on them what it should have been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from protocol.supervisor_messages import Sample

from .dialects.choice import UPLOAD_PATHS, WEBSOCKET_PATHS, plain_path
from .http import JSON_TYPE, Request, error_body
from .metrics import CONTENT_TYPE, render
from .web_assets import asset

MAX_STEP_AGE_S = 30.0  # an idle service makes a step of its own more often than this
CORS_MAX_AGE_S = 600  # how long a browser may remember a preflight
FOREIGN_TEXT = "this origin may not use this server"
FOREIGN_CODE = "forbidden_origin"
_HEALTH = "/health/"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What a worker knows about its server at the moment of a request."""

    last_step_age_s: float | None  # since a recognition step succeeded; None: never, or no service
    is_draining: bool = False
    models: tuple[str, ...] = ()
    started_s: int = 0  # Unix time, shown as `created` of the models
    samples: tuple[Sample, ...] = ()  # metrics of the whole server

    @property
    def not_ready_reason(self) -> str | None:
        """None when the server takes work."""
        if self.is_draining:
            return "draining"
        if self.last_step_age_s is None:
            return "no recognition step has succeeded yet"
        if self.last_step_age_s > MAX_STEP_AGE_S:
            return f"the last recognition step was {self.last_step_age_s:.0f} s ago"
        return None


@dataclass(frozen=True, slots=True)
class Response:
    """Arguments of HttpCore.respond."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = field(default=())


def answer(request: Request, status: ServerStatus) -> Response:
    """The answer to one request; HEAD is answered as GET, HttpCore leaves the body out."""
    path = plain_path(request.path)
    if path in WEBSOCKET_PATHS:
        return _error(426, "this path is a WebSocket", "upgrade_required", ("Upgrade", "websocket"))
    if path in UPLOAD_PATHS:
        return _error(405, "audio is sent here by POST", "method_not_allowed", ("Allow", "POST"))
    handler, file = _ROUTES.get(path), asset(request.path)
    if handler is None and file is None:
        return _error(404, f"there is no {request.path[:200]}", "not_found")
    if request.method not in ("GET", "HEAD"):
        return _error(405, "only GET and HEAD", "method_not_allowed", ("Allow", "GET, HEAD"))
    if handler is not None:
        return handler(status)
    assert file is not None
    return Response(200, file.body, file.content_type, file.headers)


def is_public(path: str) -> bool:
    """Answered without a token: the page, which has to ask for one, and what orchestrators ask."""
    return path.startswith(_HEALTH) or asset(path) is not None


# What web_transport.py answers before it comes to a route.


def unauthorized(message: str) -> Response:
    """No token, or a wrong one."""
    return _error(401, message, "invalid_api_key", ("WWW-Authenticate", "Bearer"))


def foreign_origin() -> Response:
    """A web page of somebody else may not act here."""
    return _error(403, FOREIGN_TEXT, FOREIGN_CODE)


def preflight() -> Response:
    """What a browser asks before it sends another page's request."""
    return Response(
        204,
        b"",
        headers=(
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Allow-Headers", "Authorization, Content-Type, X-API-Key"),
            ("Access-Control-Max-Age", str(CORS_MAX_AGE_S)),
        ),
    )


def cors_headers(origin: str | None) -> tuple[tuple[str, str], ...]:
    """What lets a page of an allowed origin read the answer."""
    if origin is None or not origin.isascii():  # a header is ASCII, and so is a browser's origin
        return ()
    return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


def _live(_: ServerStatus) -> Response:
    return Response(200, b'{"status":"live"}')


def _ready(status: ServerStatus) -> Response:
    reason = status.not_ready_reason
    if reason is None:
        return Response(200, b'{"status":"ready"}')
    return Response(503, msgspec.json.encode({"status": "not ready", "reason": reason}))


def _metrics(status: ServerStatus) -> Response:
    return Response(200, render(status.samples), CONTENT_TYPE)


def _models(status: ServerStatus) -> Response:
    data = [
        {"id": model, "object": "model", "created": status.started_s, "owned_by": "earwire"}
        for model in status.models
    ]
    return Response(200, msgspec.json.encode({"object": "list", "data": data}))


_ROUTES: dict[str, Callable[[ServerStatus], Response]] = {
    "/health/live": _live,
    "/health/ready": _ready,
    "/metrics": _metrics,
    "/v1/models": _models,
}


def _error(status: int, message: str, code: str, *headers: tuple[str, str]) -> Response:
    body = error_body(message, "invalid_request_error", code)
    return Response(status, body, headers=headers)
