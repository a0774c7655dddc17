"""The files of the caption page and the overlay: a table from path to bytes and headers.

Read once, at import, from the folder `web` of this package; from then on pure. routes.py asks it.
It knows no request: which methods are allowed, and who may ask, is decided there.

Pages name their scripts and styles by a digest of all of them, `/web/DIGEST/app.js`, and modules
import each other relatively. So these may be cached for good, and a page that is open while the
server is replaced never mixes two versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGES = {"/": "index.html", "/overlay": "overlay.html"}
_FOLDER = "/web/"

# No inline script, no inline style, nothing from elsewhere. ws: and wss: because some browsers do
# not count a WebSocket to the page's own server as 'self'.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_PAGE_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("Permissions-Policy", "microphone=(self), camera=(), geolocation=(), display-capture=()"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-cache"),
    *_SAFE,
)
_FOREVER = (("Cache-Control", "public, max-age=31536000, immutable"), *_SAFE)
_FRESH = (("Cache-Control", "no-cache"), *_SAFE)


@dataclass(frozen=True, slots=True)
class Asset:
    """One answer."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]


def asset(path: str) -> Asset | None:
    """What GET `path` (unquoted, without a query) answers; None when there is no such file."""
    return _ASSETS.get(path)


def asset_paths() -> tuple[str, ...]:
    """All paths there are."""
    return tuple(_ASSETS)


def _read() -> dict[str, tuple[str, bytes]]:
    """Name to content type and content."""
    files = sorted(
        resources.files(__package__).joinpath("web").iterdir(), key=lambda entry: entry.name
    )
    return {
        file.name: (_TYPES[suffix], file.read_bytes())
        for file in files
        if (suffix := "." + file.name.rpartition(".")[2]) in _TYPES
    }


def _table(files: dict[str, tuple[str, bytes]]) -> dict[str, Asset]:
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    versioned = f"{_FOLDER}{digest}/"
    table = {}
    for path, name in _PAGES.items():
        content_type, body = files[name]
        linked = body.replace(f'"{_FOLDER}'.encode(), f'"{versioned}'.encode())
        table[path] = Asset(linked, content_type, _PAGE_HEADERS)
    for name, (content_type, body) in files.items():
        if name not in _PAGES.values():
            table[versioned + name] = Asset(body, content_type, _FOREVER)
            table[_FOLDER + name] = Asset(body, content_type, _FRESH)
    return table


_ASSETS = _table(_read())
