"""Which web pages may use this server: the Origin check of a WebSocket handshake, pure.

A browser opens a WebSocket to any address for any page and sends the page's origin along; nothing
else stops a page from using a server on the visitor's own machine. So: no Origin (no browser)
passes, the server's own pages pass, others only when the operator named them.

"Own" is decided by Host, and Host is not proof by itself: after DNS rebinding, evil.example
resolves to 127.0.0.1 and the browser sends equal Origin and Host. No such game works with an IP
address or with `localhost`, so only these count as own; a server with a name needs that name in
allow_origins. Over TLS any name will do: the browser has seen our certificate for it, which for
evil.example we have not got.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

ANY_ORIGIN = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_allowed(
    origin: str | None,
    host: str | None,
    allow_origins: Collection[str],
    *,
    over_tls: bool = False,
) -> bool:
    """May a page of `origin` (None: no browser) use the server it reached as `host`?"""
    if origin is None:
        return True
    if ANY_ORIGIN in allow_origins:
        return True
    wanted = _normal(origin)
    if wanted in {_normal(allowed) for allowed in allow_origins}:
        return True
    return host is not None and _is_own(wanted, host, over_tls)


def _normal(origin: str) -> str:
    return origin.strip().rstrip("/").lower()


def _is_own(origin: str, host: str, over_tls: bool) -> bool:
    try:
        page = urlsplit(origin)
        server = urlsplit(f"{page.scheme}://{host.strip().lower()}")
        default_port = _DEFAULT_PORTS[page.scheme]
        same = (page.hostname, page.port or default_port) == (
            server.hostname,
            server.port or default_port,
        )
    except (ValueError, KeyError):
        return False  # not an origin of the web: "null", a malformed port, an extension
    if not same or page.hostname is None:
        return False
    return (over_tls and page.scheme == "https") or _cannot_be_rebound(page.hostname)


def _cannot_be_rebound(hostname: str) -> bool:
    if hostname == "localhost":
        return True
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return False
    return True
