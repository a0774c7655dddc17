"""TLS between the socket and another wire: OpenSSL over memory, for both clients alike.

`TlsWire` has the verbs of wire.Wire and does no I/O, so neither client knows whether its bytes are
encrypted. `client_context` says whom to trust.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from .address import Address
from .errors import ClientError, ConnectionLost
from .wire import PlainWire, WebSocketWire, Wire

RECORD_BYTES = 16 * 1024  # the most plaintext of one TLS record
_NO_TLS = "WRONG_VERSION_NUMBER"  # OpenSSL's name for an answer that is no TLS


def client_context(tls_ca: str | None) -> ssl.SSLContext:
    """Trust the system's authorities, or only the certificates in `tls_ca` (PEM).

    Raises ClientError when that file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=tls_ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if not isinstance(error, ssl.SSLError) else "no certificate in it"
        raise ClientError(f"cannot use {tls_ca} as certificate authority: {reason}") from None


class TlsWire:
    """See the module text; `server_name` is what the certificate has to be for."""

    def __init__(self, inner: Wire, context: ssl.SSLContext, server_name: str) -> None:
        self._inner = inner
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_name)
        self._is_encrypted = False
        self._shake_hands()

    @property
    def is_open(self) -> bool:
        """Both handshakes are done."""
        return self._is_encrypted and self._inner.is_open

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Decrypt, and pass on to the inner wire. Raises ClientError."""
        if not data:
            if not self._is_encrypted:
                raise ConnectionLost("the server closed the connection in the TLS handshake")
            yield from self._inner.receive_data(b"")
            return
        self._received.write(data)
        if not self._is_encrypted:
            self._shake_hands()
        if self._is_encrypted:
            for piece in self._decrypt():
                yield from self._inner.receive_data(piece)

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLCertVerificationError as error:
            raise ClientError(
                f"the server's certificate is not trusted: {error.verify_message}; "
                "--tls-ca FILE names one to trust"
            ) from None
        except ssl.SSLError as error:
            reason = error.reason or str(error)
            if reason == _NO_TLS:
                raise ClientError("the server does not speak TLS on this port") from None
            raise ClientError(f"the TLS handshake failed: {reason}") from None
        self._is_encrypted = True

    def _decrypt(self) -> Iterator[bytes]:
        try:
            while piece := self._tls.read(RECORD_BYTES):
                yield piece
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise ConnectionLost(f"the TLS connection broke: {error.reason or error}") from None

    def send(self, data: bytes) -> None:
        """Queue protocol bytes."""
        self._inner.send(data)

    def data_to_send(self) -> bytes:
        """Take the encrypted bytes queued so far."""
        if self._is_encrypted:
            left = memoryview(self._inner.data_to_send())
            while left:
                left = left[self._tls.write(left) :]
        return self._to_send.read()


def make_wire(address: Address, tls_ca: str | None = None) -> Wire:
    """The wire for an address. Raises ClientError when `tls_ca` cannot be used."""
    wire: Wire = WebSocketWire(address.url) if address.is_websocket else PlainWire()
    if not address.has_tls:
        return wire
    return TlsWire(wire, client_context(tls_ca), address.host)
