"""The clients' TLS: handshakes in every split, whom they trust, and what they say if not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.address import parse_address
from clients.errors import ClientError, ConnectionLost
from clients.tls import TlsWire, client_context, make_wire
from clients.wire import PlainWire, WebSocketWire
from tests.certificates import CertificateFiles, make_certificate

BIG = bytes(range(256)) * 300
SPLITS = [1, 3, 64, 1 << 20]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Server:
    """OpenSSL's server over memory, joined to a wire by pieces of one size."""

    def __init__(self, files: CertificateFiles, wire: TlsWire, size: int = 1 << 20) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.wire = wire
        self.size = size
        self.received = b""
        self.sent = b""  # what the wire made of it
        self.is_open = False

    def carry(self) -> None:
        """Until both have nothing more to say."""
        moved = True
        while moved:
            data = self.wire.data_to_send()
            self.incoming.write(data)
            self.pump()
            answer = self.outgoing.read()
            for piece in self.pieces(answer):
                self.sent += b"".join(self.wire.receive_data(piece))
            moved = bool(data or answer)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), self.size):
            yield data[start : start + self.size]

    def pump(self) -> None:
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
            while piece := self.tls.read(1 << 16):
                self.received += piece
        except ssl.SSLWantReadError:
            pass


def trusting(files: CertificateFiles, name: str = "localhost") -> TlsWire:
    return TlsWire(PlainWire(), client_context(str(files.cert)), name)


@pytest.mark.parametrize("size", SPLITS)
def test_both_directions_in_every_split(files: CertificateFiles, size: int) -> None:
    wire = trusting(files)
    assert not wire.is_open
    server = Server(files, wire, size)
    server.carry()
    assert wire.is_open
    wire.send(BIG)
    server.tls.write(b"hello")
    server.carry()
    assert server.received == BIG
    assert server.sent == b"hello"
    assert b"".join(wire.receive_data(b"")) == b""


def test_an_address_is_a_name_too(files: CertificateFiles) -> None:
    server = Server(files, trusting(files, "127.0.0.1"))
    server.carry()
    assert server.is_open


def test_a_certificate_that_nobody_vouches_for(files: CertificateFiles) -> None:
    wire = TlsWire(PlainWire(), client_context(None), "localhost")
    with pytest.raises(ClientError, match="not trusted: self-signed certificate; --tls-ca FILE"):
        Server(files, wire).carry()


def test_a_certificate_for_somebody_else(files: CertificateFiles) -> None:
    with pytest.raises(ClientError, match=r"not trusted: Hostname mismatch.*other\.example"):
        Server(files, trusting(files, "other.example")).carry()


def test_a_port_without_tls(files: CertificateFiles) -> None:
    with pytest.raises(ClientError, match="does not speak TLS on this port"):
        list(trusting(files).receive_data(b"HTTP/1.1 400 Bad Request\r\n\r\n"))


def test_an_alert_and_an_end_in_the_handshake(files: CertificateFiles) -> None:
    with pytest.raises(ClientError, match="the TLS handshake failed: "):
        list(trusting(files).receive_data(bytes.fromhex("15030300020228")))
    with pytest.raises(ConnectionLost, match="in the TLS handshake"):
        list(trusting(files).receive_data(b""))


def test_a_forged_record_breaks_the_connection(files: CertificateFiles) -> None:
    wire = trusting(files)
    server = Server(files, wire)
    server.carry()
    server.tls.write(b"hello")
    data = bytearray(server.outgoing.read())
    data[-1] ^= 1
    with pytest.raises(ConnectionLost, match="the TLS connection broke"):
        list(wire.receive_data(bytes(data)))


def test_the_servers_close_notify_is_no_data(files: CertificateFiles) -> None:
    wire = trusting(files)
    server = Server(files, wire)
    server.carry()
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    assert list(wire.receive_data(server.outgoing.read())) == []


def test_the_scheme_decides(files: CertificateFiles, tmp_path: Path) -> None:
    ca = str(files.cert)
    assert isinstance(make_wire(parse_address("earwire://h:1")), PlainWire)
    assert isinstance(make_wire(parse_address("ws://h:1")), WebSocketWire)
    for url in ("earwires://h:1", "wss://h"):
        wire = make_wire(parse_address(url), ca)
        assert isinstance(wire, TlsWire)
        assert wire.data_to_send()[:1] == b"\x16"  # a ClientHello, at once


def test_authorities_that_cannot_be_used(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    for path, reason in ((tmp_path / "none", "No such file"), (junk, "no certificate in it")):
        with pytest.raises(ClientError, match=f"cannot use {path} .*{reason}"):
            client_context(str(path))
