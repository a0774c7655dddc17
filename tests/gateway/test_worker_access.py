"""Who a whole worker lets in: tokens, TLS, addresses, and what a reload changes."""

from __future__ import annotations

import random
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.tls import TlsWire, client_context
from clients.wire import PlainWire
from gateway.child_process import control_pair
from gateway.quota import QuotaTable, table_bytes
from gateway.tokens import secret_digest
from protocol.client_messages import Bye, Closed, Error, Hello, Started
from protocol.errors import ErrorCode
from protocol.shm import send_message
from protocol.supervisor_messages import Access, Token
from tests.certificates import CertificateFiles, make_certificate

from .rig import NativeClient, Rig

TOKENS = (Token("agents", secret_digest("s3cret"), max_sessions=1),)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(max_connections_per_address=2)
    rig.add_service()
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def refused(client: NativeClient) -> Error:
    (error,) = client.of(Error)
    assert client.saw_end
    return error


def test_native_clients_say_their_token_in_the_hello(rig: Rig) -> None:
    rig.worker.door.take_access(Access(1, TOKENS))
    for hello in (Hello(), Hello(token="guess")):
        assert refused(rig.connect(hello)).code is ErrorCode.UNAUTHORIZED
    assert rig.connect(Hello(token="s3cret")).of(Started)
    assert rig.worker.metrics.refused.labels("unauthorized").value == 2


def test_a_reload_is_for_new_clients(rig: Rig) -> None:
    rig.worker.door.take_access(Access(1, TOKENS))
    client = rig.connect(Hello(token="s3cret"))
    rig.worker.door.take_access(Access(2, ()))
    assert refused(rig.connect(Hello(token="s3cret"))).code is ErrorCode.UNAUTHORIZED
    client.send_audio(bytes(640))
    client.send(Bye())
    rig.settle()
    assert client.of(Closed)[0].ring_samples == 320


def test_the_unix_socket_needs_none(rig: Rig) -> None:
    rig.worker.door.take_access(Access(1, TOKENS))
    ours, theirs = socket.socketpair()
    rig.sockets.append(theirs)
    rig.worker.door.accept_unix(ours)
    client = NativeClient(theirs)
    rig.clients.append(client)
    client.send(Hello())
    rig.settle()
    assert client.of(Started)


def test_sessions_of_a_token_are_given_back_when_they_end() -> None:
    quota = QuotaTable(memoryview(bytearray(table_bytes(1))), 1, 0)
    rig = Rig(quota=quota)
    rig.worker.door.take_access(Access(1, TOKENS))
    rig.add_service()
    for _ in range(3):
        client = rig.connect(Hello(token="s3cret"))
        assert client.of(Started)
        assert refused(rig.connect(Hello(token="s3cret"))).code is ErrorCode.RATE_LIMITED
        client.send_audio(bytes(640))
        client.send(Bye())
        rig.settle()
        assert client.of(Closed)
        assert quota.num_sessions(0) == 0
    vanished = rig.connect(Hello(token="s3cret"))
    vanished.sock.close()
    rig.settle()
    assert quota.num_sessions(0) == 0
    rig.close()


def connect_from(rig: Rig, address: str) -> NativeClient:
    ours, theirs = socket.socketpair()
    rig.sockets.append(theirs)
    rig.worker.door.accept_native(ours, address)
    client = NativeClient(theirs)
    rig.clients.append(client)
    rig.settle()
    return client


def test_an_address_has_so_many_connections(rig: Rig) -> None:
    first, second = connect_from(rig, "192.0.2.1"), connect_from(rig, "192.0.2.1")
    rig.clock.advance_ms(1_000)
    rig.settle()
    assert refused(connect_from(rig, "192.0.2.1")).code is ErrorCode.RATE_LIMITED
    assert not connect_from(rig, "192.0.2.2").saw_end
    first.sock.close()
    rig.settle()
    assert not connect_from(rig, "192.0.2.1").saw_end
    assert not second.saw_end
    assert rig.worker.metrics.refused.labels("address_connections").value == 1


def test_those_turned_away_for_their_address_take_nobodys_place(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.front_door.MAX_REFUSED_CONNECTIONS", 2)
    for _ in range(2):
        connect_from(rig, "192.0.2.1")
    told = []
    for _ in range(2):
        rig.clock.advance_ms(1_000)
        rig.settle()
        told.append(connect_from(rig, "192.0.2.1"))
    assert [refused(client).code for client in told] == [ErrorCode.RATE_LIMITED] * 2
    rig.clock.advance_ms(1_000)
    rig.settle()
    third = connect_from(rig, "192.0.2.1")
    assert third.saw_end
    assert not third.of(Error)  # closed without a word
    assert rig.worker.door.num_connections == 2
    for client in told:
        client.sock.close()
    rig.settle()
    assert rig.worker.door.num_connections == 2
    assert refused(connect_from(rig, "192.0.2.1")).code is ErrorCode.RATE_LIMITED


def test_too_many_connects_in_a_row_are_closed_without_a_word(rig: Rig) -> None:
    for _ in range(2):
        connect_from(rig, "192.0.2.1").sock.close()
        rig.settle()
    shed = connect_from(rig, "192.0.2.1")
    assert shed.saw_end
    assert shed.events == []
    assert rig.worker.door.num_connections == 0
    assert rig.worker.metrics.refused.labels("address_rate").value == 1


def certificate(files: CertificateFiles, revision: int) -> Access:
    return Access(revision, None, files.cert.read_bytes(), files.key.read_bytes())


class TlsNativeClient(NativeClient):
    """Its bytes go through the clients' own TLS."""

    def __init__(self, sock: socket.socket, files: CertificateFiles) -> None:
        super().__init__(sock)
        self.wire = TlsWire(PlainWire(), client_context(str(files.cert)), "localhost")

    def flush(self) -> None:
        if self.wire.is_open:
            self.wire.send(self.session.data_to_send())
        self.sock.sendall(self.wire.data_to_send())

    def receive(self) -> bool:
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        if not data:
            self.saw_end = True
            return False
        for piece in self.wire.receive_data(data):
            self.session.receive_data(piece)
        self.flush()
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
        return True


def connect_tls(rig: Rig, files: CertificateFiles) -> TlsNativeClient:
    ours, theirs = socket.socketpair()
    rig.sockets.append(theirs)
    rig.worker.door.accept_native(ours)
    client = TlsNativeClient(theirs, files)
    rig.clients.append(client)
    client.send(Hello())
    rig.settle()
    return client


def test_native_tcp_speaks_tls_with_the_newest_certificate(
    rig: Rig, files: CertificateFiles, tmp_path: Path
) -> None:
    service = rig.services[0]
    rig.worker.door.take_access(certificate(files, 1))
    first = connect_tls(rig, files)
    newer = make_certificate(tmp_path)
    rig.worker.door.take_access(certificate(newer, 2))
    for client in (first, connect_tls(rig, newer)):
        assert client.of(Started)
        audio = random.Random(1).randbytes(40_000)
        client.send_audio(audio)
        client.send(Bye())
        rig.settle()
        assert service.all_streams[-1].pcm == audio
        assert client.of(Closed)[0].ring_samples == 20_000
        assert client.saw_end


def test_a_certificate_that_can_not_be_taken_leaves_the_old_one(
    rig: Rig, files: CertificateFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, parent = control_pair()
    rig.sockets.append(parent)
    rig.worker.attach_parent(ours)
    rig.worker.door.take_access(certificate(files, 1))
    send_message(parent, certificate(make_certificate(tmp_path), 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # OpenSSL reads files only
    try:
        rig.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "certificate" in caplog.text
    assert connect_tls(rig, files).of(Started)


def test_what_is_no_tls_is_closed_and_counted(rig: Rig, files: CertificateFiles) -> None:
    rig.worker.door.take_access(certificate(files, 1))
    client = rig.connect(Hello())
    assert client.saw_end
    assert not client.of(Started)
    assert rig.worker.metrics.refused.labels("tls").value == 1
