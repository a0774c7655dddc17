"""TlsTransport against OpenSSL's own client, in memory: every handshake and end in every split."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from gateway.certificates import Certificate, server_context
from gateway.dialects import Output
from gateway.errors import refusal
from gateway.tls import TlsTransport
from gateway.transport import AudioLane, InputEnded, TransportEvent
from protocol.client_messages import Error
from protocol.errors import ErrorCode
from tests.certificates import make_certificate

SPLITS = [1, 2, 3, 7, 64, 1 << 20]
BIG = bytes(range(256)) * 300  # several records


class Inner:
    """A transport that keeps what it gets; see gateway.transport.Transport."""

    def __init__(self) -> None:
        self.received = b""
        self.ends = 0
        self.num_calls = 0
        self.out = b""
        self.should_close = False
        self.can_send = True
        self.is_uploading = False
        self.timers: list[int] = []
        self.refused: Error | None = None

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        self.num_calls += 1
        self.received += data
        self.ends += not data

    def discard_data(self, data: memoryview) -> None:
        raise AssertionError("nothing is decrypted after the end")

    def next_event(self) -> TransportEvent | None:
        return InputEnded() if self.ends else None

    def next_deadline(self) -> int | None:
        return 7

    def handle_timer(self, now_ns: int) -> None:
        self.timers.append(now_ns)

    def audio_lane(self) -> AudioLane | None:
        raise AssertionError("ciphertext is no audio")

    def send(self, item: Output) -> None:
        assert isinstance(item, bytes)
        self.out += item

    def refuse(self, error: Error) -> None:
        self.refused = error
        self.out += b"refused"

    def close(self, error: Error | None, now_ns: int) -> None:
        self.out += b"bye"

    def data_to_send(self) -> bytes:
        out, self.out = self.out, b""
        return out


class Client:
    """OpenSSL's client over memory."""

    def __init__(self, ca: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        context.minimum_version = context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.received = b""
        self.is_open = False
        self.saw_close_notify = False

    def pump(self) -> None:
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
            while piece := self.tls.read(1 << 16):
                self.received += piece
            self.saw_close_notify = True
        except ssl.SSLWantReadError:
            pass


class Pair:
    """A client, a server, and everything they say carried in pieces of one size."""

    def __init__(self, files: tuple[Path, ssl.SSLContext], size: int = 1 << 20, **options: object):
        ca, context = files
        self.inner = Inner()
        self.failures = 0
        self.server = TlsTransport(self.inner, context, self._failed)
        self.client = Client(ca, **options)  # type: ignore[arg-type]
        self.size = size

    def _failed(self) -> None:
        self.failures += 1

    def carry(self) -> None:
        """Until both have nothing more to say."""
        moved = True
        while moved:
            self.client.pump()
            moved = self.to_server(self.client.outgoing.read())
            answer = self.server.data_to_send()
            for start in range(0, len(answer), self.size):
                self.client.incoming.write(answer[start : start + self.size])
                self.client.pump()
                moved = True

    def to_server(self, data: bytes) -> bool:
        for start in range(0, len(data), self.size):
            self.server.receive_data(memoryview(data)[start : start + self.size], 5)
        return bool(data)

    def open(self) -> Pair:
        self.carry()
        assert self.client.is_open
        return self


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    certificate = Certificate(made.cert.read_bytes(), made.key.read_bytes())
    return made.cert, server_context(certificate)


Files = tuple[Path, ssl.SSLContext]


@pytest.mark.parametrize("size", SPLITS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_directions_in_every_split(files: Files, size: int, version: ssl.TLSVersion) -> None:
    pair = Pair(files, size, version=version)
    pair.server.send(b"before the handshake ")  # waits for it
    pair.open()
    pair.client.tls.write(b"hello")
    pair.server.send(BIG)
    pair.carry()
    assert pair.inner.received == b"hello"
    assert pair.client.received == b"before the handshake " + BIG
    pair.client.tls.write(BIG[:16_384])
    pair.carry()
    assert pair.inner.received == b"hello" + BIG[:16_384]
    assert pair.inner.ends == 0
    assert pair.client.tls.version() in ("TLSv1.2", "TLSv1.3")


def test_many_records_at_once_are_one_piece_for_the_inner_transport(files: Files) -> None:
    pair = Pair(files).open()
    for _ in range(50):
        pair.client.tls.write(b"x" * 1_000)
    pair.carry()
    assert (len(pair.inner.received), pair.inner.num_calls) == (50_000, 1)


@pytest.mark.parametrize("size", SPLITS)
def test_our_close_says_the_last_words_and_then_close_notify(files: Files, size: int) -> None:
    pair = Pair(files, size).open()
    pair.server.close(None, 5)
    pair.carry()
    assert pair.client.received == b"bye"
    assert pair.client.saw_close_notify
    pair.server.send(b"too late")
    assert pair.server.data_to_send() == b""
    pair.server.discard_data(memoryview(b"whatever comes now"))
    pair.server.receive_data(memoryview(b"or so"), 5)
    assert (pair.inner.received, pair.inner.ends) == (b"", 0)


@pytest.mark.parametrize("size", SPLITS)
def test_a_client_that_ended_its_direction_still_hears(files: Files, size: int) -> None:
    pair = Pair(files, size).open()
    pair.client.tls.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.tls.unwrap()
    pair.to_server(pair.client.outgoing.read())
    assert (pair.inner.received, pair.inner.ends) == (b"last", 1)
    assert pair.server.can_send
    pair.server.send(b"final")
    # OpenSSL's client discards what comes behind its own close_notify; the record is there.
    assert len(pair.server.data_to_send()) > len(b"final")
    pair.server.receive_data(memoryview(b""), 5)  # and then the socket's end
    assert pair.inner.ends == 1


def test_what_comes_behind_close_notify_is_not_kept(files: Files) -> None:
    pair = Pair(files).open()
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.tls.unwrap()
    pair.to_server(pair.client.outgoing.read())
    for _ in range(3):
        pair.server.receive_data(memoryview(bytes(64 * 1024)), 5)
    assert pair.server._received.pending == 0
    assert (pair.inner.received, pair.inner.ends) == (b"", 1)


def test_an_end_without_close_notify_is_an_end_of_input(files: Files) -> None:
    pair = Pair(files).open()
    pair.client.tls.write(b"cut off")
    pair.to_server(pair.client.outgoing.read())
    pair.server.receive_data(memoryview(b""), 5)
    assert (pair.inner.received, pair.inner.ends) == (b"cut off", 1)
    assert pair.server.next_event() == InputEnded()
    assert not pair.server.can_send


def test_a_forged_record_ends_the_input_and_says_nothing_more(files: Files) -> None:
    pair = Pair(files).open()
    pair.client.tls.write(b"good")
    pair.client.tls.write(b"forged")
    data = bytearray(pair.client.outgoing.read())
    data[-1] ^= 1
    pair.to_server(bytes(data))
    assert (pair.inner.received, pair.inner.ends) == (b"good", 1)
    assert not pair.server.can_send
    assert not pair.server.should_close  # the stream's end is told by the event
    pair.server.send(b"secret")
    pair.server.close(None, 5)
    assert b"secret" not in pair.server.data_to_send()  # an alert at most
    pair.server.receive_data(memoryview(b"more"), 5)
    assert pair.inner.ends == 1
    assert pair.failures == 0


@pytest.mark.parametrize("size", SPLITS)
@pytest.mark.parametrize("data", [b"\x16\x03\x01\x00\x05hello", bytes(64), b"SSH-2.0-x\r\n" * 9])
def test_what_is_no_tls_is_an_end(files: Files, size: int, data: bytes) -> None:
    pair = Pair(files, size)
    pair.to_server(data)
    assert pair.server.should_close
    assert not pair.server.can_send
    assert (pair.failures, pair.inner.received, pair.inner.ends) == (1, b"", 0)


@pytest.mark.parametrize("size", SPLITS)
def test_plain_http_is_told_to_use_https(files: Files, size: int) -> None:
    pair = Pair(files, size)
    pair.to_server(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = pair.server.data_to_send()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"use https:// or wss://\n")
    head, body = answer.split(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert pair.server.should_close


def test_an_end_in_the_handshake(files: Files) -> None:
    pair = Pair(files)
    pair.server.receive_data(memoryview(b""), 5)
    assert pair.server.should_close
    assert pair.failures == 1


def test_a_refusal_before_the_handshake_costs_none(files: Files) -> None:
    pair = Pair(files)
    error = refusal(ErrorCode.AT_CAPACITY, "full")
    pair.server.refuse(error)
    pair.server.close(error, 5)
    assert pair.inner.refused is error
    assert pair.server.data_to_send() == b""


def test_old_versions_are_refused(files: Files) -> None:
    pair = Pair(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    old = context.wrap_bio(pair.client.incoming, pair.client.outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        old.do_handshake()
    pair.to_server(pair.client.outgoing.read())
    assert pair.server.should_close


def test_everything_else_is_the_inner_transports(files: Files) -> None:
    pair = Pair(files)
    assert pair.server.next_event() is None
    assert pair.server.next_deadline() == 7
    pair.server.handle_timer(9)
    assert pair.inner.timers == [9]
    assert pair.server.audio_lane() is None
    assert not pair.server.is_uploading
    assert not pair.server.should_close
    pair.inner.should_close = True
    assert pair.server.should_close
    pair.inner.can_send = False
    assert not pair.server.can_send


def test_without_anybody_who_counts(files: Files) -> None:
    transport = TlsTransport(Inner(), files[1])
    transport.receive_data(memoryview(b"no TLS at all"), 5)
    assert transport.should_close
