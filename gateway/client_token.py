"""The token of a request on the web port, wherever its API's clients put it. Pure.

Headers first, then subprotocols (a browser's WebSocket cannot set headers), then the query, which
proxies like to log. It judges no token, gatekeeper.py does; web_transport.py asks. A subprotocol
that carries a key is never the one that the handshake names in its answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NATIVE_SUBPROTOCOL = "earwire.v1"
_OPENAI_SUBPROTOCOL = "realtime"
_OPENAI_KEY_PREFIX = "openai-insecure-api-key."
_KEY_FOLLOWS = ("token", "bearer")  # Deepgram: the next subprotocol is the key
_ANSWERS = (NATIVE_SUBPROTOCOL, _OPENAI_SUBPROTOCOL, *_KEY_FOLLOWS)
_SCHEMES = ("bearer", "token")


def client_token(headers: Mapping[str, str], query: Mapping[str, list[str]]) -> str:
    """The token, "" when there is none; header names are in lower case."""
    return (
        _authorization(headers.get("authorization", ""))
        or headers.get("x-api-key", "").strip()
        or _subprotocol_key(offered_subprotocols(headers))
        or next((key for key in query.get("api_key", ()) if key), "")
    )


def offered_subprotocols(headers: Mapping[str, str]) -> list[str]:
    """What the client of a WebSocket offers, in its order."""
    names = headers.get("sec-websocket-protocol", "").split(",")
    return [name.strip() for name in names if name.strip()]


def answered_subprotocol(offered: Sequence[str]) -> str | None:
    """The one that the handshake's answer names; None names none, which every client accepts."""
    return next((name for name in _ANSWERS if name in offered), None)


def _authorization(value: str) -> str:
    scheme, _, token = value.strip().partition(" ")
    return token.strip() if scheme.lower() in _SCHEMES else ""


def _subprotocol_key(offered: Sequence[str]) -> str:
    for index, name in enumerate(offered):
        if name.startswith(_OPENAI_KEY_PREFIX):
            return name.removeprefix(_OPENAI_KEY_PREFIX)
        if name in _KEY_FOLLOWS:
            return "".join(offered[index + 1 : index + 2])
    return ""
