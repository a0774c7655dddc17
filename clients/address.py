"""Server URLs, parsed: earwire://host:port, unix:///path, ws://host:port[/v1/stream].

Pure. Both clients and the command line use it, so that --server means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import AddressError

STREAM_PATH = "/v1/stream"
_FORMS = "use earwire://HOST:PORT, unix:///PATH or ws://HOST:PORT"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is; `path` is a file for unix and a resource for ws."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_websocket(self) -> bool:
        """True when the native protocol travels inside WebSocket messages."""
        return self.scheme == "ws"

    @property
    def url(self) -> str:
        """As `parse_address` takes it."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(url: str) -> Address:
    """Raises AddressError, whose text shows the forms that work."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"server {url!r}: {error}; {_FORMS}") from None
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return Address("unix", path=parts.path)
    if parts.scheme == "earwire" and parts.hostname and port and parts.path in ("", "/"):
        return Address("earwire", parts.hostname, port)
    if parts.scheme in ("ws", "http") and parts.hostname:
        path = parts.path if parts.path not in ("", "/") else STREAM_PATH
        return Address("ws", parts.hostname, port or 80, path)
    if parts.scheme in ("wss", "https"):
        raise AddressError(f"server {url!r}: TLS is not spoken yet; use ws:// through a tunnel")
    raise AddressError(f"server {url!r} is not understood; {_FORMS}")
