"""The server's certificate: read by the parent, made a TLS context by each worker.

Workers get the PEM texts by message (supervisor_messages.Access), never by path: all of them have
the same certificate, that of the last reload that was good, also after they were restarted. OpenSSL
loads files only, so the texts pass through a nameless one in memory.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from .errors import GatewayError

MAX_PEM_BYTES = 20 * 1024  # of one file: an Access message is one datagram


class CertificateError(GatewayError):
    """The certificate or its key cannot be used; the message says which file and why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM texts. `repr` leaves the key out."""

    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"Certificate({len(self.chain_pem)} bytes)"


def read_certificate(certificate: str, key: str | None) -> Certificate:
    """A certificate with its chain, and its key (None: in the same file). Raises
    CertificateError when a server could not use them."""
    key = key or certificate
    read = Certificate(_read_pem(certificate), _read_pem(key))
    if b"ENCRYPTED" in read.key_pem:
        raise CertificateError(f"the key in {key} has a passphrase; a server needs one without")
    try:
        server_context(read)
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise CertificateError(
            f"{certificate} and {key} are no certificate with its key: {reason}"
        ) from None
    return read


def _read_pem(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            pem = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    if len(pem) > MAX_PEM_BYTES:
        raise CertificateError(f"{path} is over {MAX_PEM_BYTES} bytes: no certificate chain is")
    return pem


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 for a server. Raises ssl.SSLError when certificate and key do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make the server work for nothing
    context.set_alpn_protocols(["http/1.1"])  # browsers would try HTTP/2; native clients ask none
    # One file for both: OpenSSL finds the certificate and the key by their PEM labels.
    fd = os.memfd_create("earwire-certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, certificate.chain_pem + b"\n" + certificate.key_pem)
        # A callable, because OpenSSL would otherwise ask at the terminal for a passphrase.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: b"")
    finally:
        os.close(fd)
    return context
