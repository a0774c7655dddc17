"""What the head of an HTTP request says: target, headers, length, and the wish for a WebSocket.

Pure; http.py reads requests with it. h11 has checked the grammar before.
"""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import h11

MAX_QUERY_FIELDS = 64


class RequestError(Exception):
    """How to answer what cannot be served; never leaves HttpCore."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def target_of(request: h11.Request) -> tuple[str, dict[str, list[str]]]:
    """The path, unquoted, and the query. Raises RequestError."""
    try:
        parts = urlsplit(request.target.decode("latin-1"))
        query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise RequestError(400, f"the request target is malformed: {error}") from None
    return unquote(parts.path), query


def headers_of(request: h11.Request) -> dict[str, str]:
    """Names in lower case; values of repeated ones joined with ", "."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def length_bytes_of(request: h11.Request) -> int | None:
    """How long the body is; None: it comes in chunks."""
    headers = headers_of(request)
    if "transfer-encoding" in headers:
        return None
    return int(headers.get("content-length", "0"))


def wants_websocket(request: h11.Request) -> bool:
    """True for the opening handshake of RFC 6455."""
    headers = headers_of(request)
    options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
    return (
        request.method == b"GET"
        and headers.get("upgrade", "").strip().lower() == "websocket"
        and "upgrade" in options
    )
