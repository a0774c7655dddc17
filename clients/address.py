"""Server URLs, parsed: earwire://host:port, unix:///path, ws://host:port[/v1/stream].

With TLS the first and the last are earwires:// and wss://. Pure. Both clients and the command line
use it, so that --server means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import AddressError

STREAM_PATH = "/v1/stream"
_FORMS = "use earwire://HOST:PORT, unix:///PATH or ws://HOST:PORT, and with TLS earwires or wss"
# What people type: (scheme of the Address, port when none is given)
_WEB = {"ws": ("ws", 80), "http": ("ws", 80), "wss": ("wss", 443), "https": ("wss", 443)}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server may ask for, and what it is trusted by."""

    token: str = ""
    tls_ca: str | None = None  # PEM file of authorities; None: the system's


NO_CREDENTIALS = Credentials()


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
        return self.scheme in ("ws", "wss")

    @property
    def has_tls(self) -> bool:
        """True when everything is encrypted."""
        return self.scheme in ("wss", "earwires")

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
    path = parts.path.rstrip("/")
    if parts.scheme in ("earwire", "earwires") and parts.hostname and port and not path:
        return Address(parts.scheme, parts.hostname, port)
    if parts.scheme in _WEB and parts.hostname:
        scheme, default_port = _WEB[parts.scheme]
        return Address(scheme, parts.hostname, port or default_port, path or STREAM_PATH)
    raise AddressError(f"server {url!r} is not understood; {_FORMS}")
