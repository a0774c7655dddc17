"""What a client may not do: it reads why, and the healthy client beside it never notices."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from clients.blocking import Client
from clients.errors import ClientError, ServerError
from protocol.client_messages import (
    MAX_AUDIO_PAYLOAD_BYTES,
    MAX_CONTROL_BYTES,
    Audio,
    Bye,
    Finalize,
    Hello,
    MessageType,
    Ping,
    Pong,
    Started,
)
from protocol.errors import ErrorCode
from protocol.framing import MAJOR

from . import audio
from .raw import RawClient, frame
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .waiting import wait_for

QUIET = Hello(client="test", partials=False)
NOT_OURS = int.from_bytes(b"XX", "little")
HANDSHAKE_MS = 300


@pytest.fixture(scope="module")
def expected(server: Server) -> Heard:
    """The finals of a client that is alone."""
    return transcribe(server.native_url, healthy_samples(), 100, QUIET)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """A server that waits for nobody. Its limits of time are below what a busy machine may stall,
    so only tests that wait for a time-out may use it.
    """
    with Server(
        "--handshake-timeout-ms", str(HANDSHAKE_MS), "--idle-timeout-ms", "1500", "--threads", "2"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def crowded() -> Iterator[Server]:
    """A server with little room."""
    with Server("--max-connections", "8", "--max-sessions", "2", "--threads", "2") as running:
        yield running


def healthy_samples() -> audio.Samples:
    return audio.two_cities()[: 7 * audio.RATE_HZ]


def in_session(client: RawClient, data: bytes) -> None:
    client.hello()
    client.send(data)


def torn(client: RawClient) -> None:
    client.hello()
    client.say(Audio(0, b"\0\0\0"))


def gap(client: RawClient) -> None:
    client.hello()
    client.say(Audio(0, bytes(640)))
    client.say(Audio(321, bytes(640)))


def second_hello(client: RawClient) -> None:
    client.hello()
    client.say(Hello())


def after_bye(client: RawClient) -> None:
    client.hello()
    client.say(Audio(0, bytes(640)))
    client.send(
        frame(MessageType.BYE, b"{}", 2) + frame(MessageType.AUDIO, bytes(8) + bytes(640), 3)
    )


HELLO, AUDIO = MessageType.HELLO, MessageType.AUDIO
MISTAKES: dict[str, tuple[Callable[[RawClient], None], ErrorCode]] = {
    "http on the native port": (lambda c: c.send(b"GET / HTTP/1.1\r\n\r\n"), ErrorCode.BAD_MAGIC),
    "two wrong bytes": (lambda c: c.send(b"XX"), ErrorCode.BAD_MAGIC),
    "magic, in the session": (
        lambda c: in_session(c, frame(AUDIO, bytes(648), 1, magic=NOT_OURS)),
        ErrorCode.BAD_MAGIC,
    ),
    "version": (
        lambda c: c.send(frame(HELLO, b"{}", version=(MAJOR + 1) << 4)),
        ErrorCode.BAD_VERSION,
    ),
    "oversize header": (
        lambda c: c.send(frame(HELLO, length=MAX_AUDIO_PAYLOAD_BYTES + 1)),
        ErrorCode.FRAME_TOO_LARGE,
    ),
    "4 GiB header, in the session": (
        lambda c: in_session(c, frame(AUDIO, sequence=1, length=2**32 - 1)),
        ErrorCode.FRAME_TOO_LARGE,
    ),
    "oversize hello": (
        lambda c: c.send(frame(HELLO, b'"' + b"x" * MAX_CONTROL_BYTES)),
        ErrorCode.FRAME_TOO_LARGE,
    ),
    "not json": (lambda c: c.send(frame(HELLO, b"{nope")), ErrorCode.BAD_MESSAGE),
    "json of another shape": (lambda c: c.send(frame(HELLO, b"[1, 2]")), ErrorCode.BAD_MESSAGE),
    "deep json": (lambda c: c.send(frame(HELLO, b"[" * 60_000)), ErrorCode.BAD_MESSAGE),
    "not utf-8": (
        lambda c: c.send(frame(HELLO, b'{"client":"\xff\xfe"}')),
        ErrorCode.BAD_MESSAGE,
    ),
    "rate too low": (
        lambda c: c.send(frame(HELLO, b'{"sample_rate_hz":4000}')),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
    "rate too high": (
        lambda c: c.send(frame(HELLO, b'{"sample_rate_hz":1000000}')),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
    "too many channels": (
        lambda c: c.send(frame(HELLO, b'{"channels":64}')),
        ErrorCode.UNSUPPORTED_FORMAT,
    ),
    "unknown encoding": (
        lambda c: c.send(frame(HELLO, b'{"encoding":"mp3"}')),
        ErrorCode.BAD_MESSAGE,
    ),
    "audio before hello": (lambda c: c.say(Audio(0, bytes(640))), ErrorCode.UNEXPECTED_MESSAGE),
    "second hello": (second_hello, ErrorCode.UNEXPECTED_MESSAGE),
    "unknown type": (lambda c: in_session(c, frame(0x3F, b"", 1)), ErrorCode.UNKNOWN_TYPE),
    "a server's message": (
        lambda c: in_session(c, frame(MessageType.FINAL, b"{}", 1)),
        ErrorCode.UNKNOWN_TYPE,
    ),
    "sequence": (
        lambda c: in_session(c, frame(AUDIO, bytes(648), 7)),
        ErrorCode.BAD_SEQUENCE,
    ),
    "torn samples": (torn, ErrorCode.BAD_MESSAGE),
    "audio gap": (gap, ErrorCode.AUDIO_GAP),
    "audio after bye": (after_bye, ErrorCode.UNEXPECTED_MESSAGE),
    "half a ping": (
        lambda c: in_session(c, frame(MessageType.PING, b"\0\0", 1)),
        ErrorCode.BAD_MESSAGE,
    ),
}


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "audio after bye"])
def test_a_mistake_is_named_to_its_client(server: Server, mistake: str) -> None:
    """Its own error code and words, not retryable, and the connection ends."""
    commit, code = MISTAKES[mistake]
    with RawClient(server.native_port) as client:
        commit(client)
        error = client.error()
    assert (error.code, error.retryable) == (code, False)
    assert len(error.message) > 10


def test_audio_after_bye_ends_the_connection(server: Server) -> None:
    """Whatever races whatever: an error or the close record, and then the end."""
    with RawClient(server.native_port) as client:
        after_bye(client)
        client.drain()
        assert client.events


def test_a_healthy_client_beside_all_mistakes(server: Server, expected: Heard) -> None:
    """Every mistake is made while a client streams: its finals are those of a client alone."""
    samples = healthy_samples()
    step = len(samples) // len(MISTAKES) + 1
    with Stream(server.native_url, QUIET) as stream:
        for number, (commit, _) in enumerate(MISTAKES.values()):
            with RawClient(server.native_port) as client:
                commit(client)
                stream.send(samples[number * step : (number + 1) * step])
                client.drain()
        heard = stream.finish()
    assert_sane(heard, len(samples))
    assert heard.identity() == expected.identity()


def test_resets_in_every_state_leave_no_stream(server: Server, expected: Heard) -> None:
    """Connections reset before hello, after it, in audio, in a frame and after bye."""
    for stage in range(5):
        client = RawClient(server.native_port)
        if stage >= 1:
            client.hello()
        if stage >= 2:
            client.say(Audio(0, audio.short_clip()[:16_000].tobytes()))
        if stage == 3:
            client.send(frame(AUDIO, bytes(100), client.sequence, length=648))
        if stage == 4:
            client.say(Bye())
        client.reset()
    heard = transcribe(server.native_url, healthy_samples(), 100, QUIET)
    assert heard.identity() == expected.identity()


def test_a_torn_frame_at_the_end_is_an_error(server: Server) -> None:
    """The client stops writing in the middle of a frame, and still reads why that is wrong."""
    with RawClient(server.native_port) as client:
        client.hello()
        client.send(frame(AUDIO, bytes(100), client.sequence, length=648))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.error().code is ErrorCode.BAD_FRAME


def test_half_closed_after_audio_gets_its_finals(server: Server) -> None:
    """A client that only shuts down its sending side has vanished as a speaker; it still hears
    the last words and the close record."""
    samples = audio.spoken("yes")
    with RawClient(server.native_port) as client:
        client.hello()
        client.say(Audio(0, samples.astype("<i2").tobytes()))
        client.sock.shutdown(socket.SHUT_WR)
        client.drain()
        closed = client.events[-1]
    assert getattr(closed, "reason", None) == "vanished"
    assert getattr(closed, "engine_samples", None) == len(samples)


def test_garbage_on_the_http_port(server: Server) -> None:
    """Binary noise, an endless head and a huge header: 4xx and the end; HTTP works on."""
    attempts = (
        bytes(range(256)) * 4,
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000,
    )
    for data in attempts:
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
            try:
                sock.sendall(data)
                answer = b"".join(iter(lambda: sock.recv(4096), b""))
            except (BrokenPipeError, ConnectionResetError):
                continue  # it had read enough
            assert answer.startswith(b"HTTP/1.1 4"), answer[:80]
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    connection.request("GET", "/health/ready")
    assert connection.getresponse().status == 200
    connection.close()


# A server with little patience and little room


@pytest.mark.parametrize("start", [b"", b"E", frame(HELLO, b'{"client":', length=200)])
def test_a_slow_handshake_is_ended(impatient: Server, start: bytes) -> None:
    """Nothing, one byte, half a hello: handshake_timeout, retryable, soon after its time."""
    with RawClient(impatient.native_port) as client:
        begin_s = time.monotonic()
        client.send(start)
        error = client.error()
        assert time.monotonic() - begin_s >= HANDSHAKE_MS / 1000 * 0.9
    assert (error.code, error.retryable) == (ErrorCode.HANDSHAKE_TIMEOUT, True)


@pytest.mark.parametrize("start", [b"", b"GET /v1/stream HT", b"GET /health/live HTTP/1.1\r\nHost"])
def test_a_slow_request_is_ended(impatient: Server, start: bytes) -> None:
    """The same on the HTTP port, where the answer is HTTP."""
    with socket.create_connection(("127.0.0.1", impatient.http_port), timeout=10) as sock:
        sock.sendall(start)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 503"))


def test_an_idle_stream_is_ended(impatient: Server) -> None:
    """Admitted, spoke a little, then nothing: idle_timeout, and its words before that."""
    with RawClient(impatient.native_port) as client:
        client.hello()
        client.say(Audio(0, audio.spoken("yes").astype("<i2").tobytes()))
        error = client.error()
    assert (error.code, error.retryable) == (ErrorCode.IDLE_TIMEOUT, True)


def test_the_connection_cap(crowded: Server) -> None:
    """More connections than --max-connections: at_capacity at once, retryable, with a time; those
    inside are served, and there is room again afterwards."""
    with ExitStack() as stack:
        inside = wait_for("room for eight", lambda: open_eight(crowded))
        for client in inside:
            stack.enter_context(client)
        with RawClient(crowded.native_port) as refused:
            error = refused.error()
        assert (error.code, error.retryable) == (ErrorCode.AT_CAPACITY, True)
        assert error.retry_after_ms
        inside[0].ping(5)
        assert inside[0].next_event(5.0) is not None
    wait_until_empty(crowded)
    assert audio.words_of(transcribe(crowded.native_url, audio.spoken("yes"), 20).text) == ["yes"]


def open_eight(server: Server) -> list[Client] | None:
    """Sessions, as soon as connections that were closed before are gone at the server, too."""
    clients = []
    try:
        for _ in range(8):
            clients.append(Client.connect(server.native_url))
            clients[-1].open(QUIET)
    except ClientError:
        for client in clients:
            client.close()
        return None
    return clients


def test_the_session_cap(crowded: Server) -> None:
    """The third speaker of two: AT_CAPACITY, retryable, with retry_after; the two go on, and its
    next try after one of them left succeeds."""
    wait_until_empty(crowded)
    samples = audio.spoken("yes")
    with Stream(crowded.native_url, QUIET) as one, Stream(crowded.native_url, QUIET) as two:
        for stream in (one, two):
            take_a_seat(stream, samples[:4_000])
        with pytest.raises(ServerError) as refused:
            transcribe(crowded.native_url, samples, 100, QUIET)
        assert refused.value.code is ErrorCode.AT_CAPACITY
        assert refused.value.retryable
        assert refused.value.retry_after_ms
        one.send(samples[4_000:])
        assert audio.words_of(one.finish().text) == ["yes"]
        third = wait_for("room for the third", lambda: try_to_transcribe(crowded, samples))
        assert audio.words_of(third.text) == ["yes"]
        two.send(samples[4_000:])
        assert audio.words_of(two.finish().text) == ["yes"]


def test_a_stream_that_ended_makes_room_at_once(crowded: Server) -> None:
    """Not with the service's next health report: two come in the moment that one has left."""
    samples = audio.spoken("yes")
    for _ in range(5):
        wait_until_empty(crowded)
        transcribe(crowded.native_url, samples, 100, QUIET)
        with Stream(crowded.native_url, QUIET) as one, Stream(crowded.native_url, QUIET) as two:
            for stream in (one, two):
                take_a_seat(stream, samples)
            for stream in (one, two):
                assert audio.words_of(stream.finish().text) == ["yes"]


def take_a_seat(stream: Stream, samples: audio.Samples) -> None:
    """Send audio, and know that the server has it: from then on the stream holds a slot."""
    stream.send(samples)
    stream.client.ping()
    stream.wait_event(Pong)


def try_to_transcribe(server: Server, samples: audio.Samples) -> Heard | None:
    try:
        return transcribe(server.native_url, samples, 100, QUIET)
    except ServerError as error:
        if error.code is not ErrorCode.AT_CAPACITY:
            raise
        return None


def wait_until_empty(server: Server) -> None:
    """Connections that were just closed are gone at the server, too."""

    def is_empty() -> bool:
        try:
            with ExitStack() as stack:
                for _ in range(7):
                    client = stack.enter_context(Client.connect(server.native_url))
                    assert isinstance(client.open(QUIET), Started)
        except ClientError:
            return False
        return True

    wait_for("an empty server", is_empty)


def send_until_blocked(sock: socket.socket, data: bytes) -> int:
    """Bytes that the other side took of an endless stream before it stopped reading."""
    sent = 0
    try:
        while sent < 100 * len(data):
            sent += sock.send(data[sent % len(data) :])
    except BlockingIOError:
        pass
    return sent


def test_a_client_that_never_reads_is_dropped(server: Server, expected: Heard) -> None:
    """Megabytes of answers nobody reads: the server stops reading from that client, or ends it,
    and serves the others meanwhile."""
    with RawClient(server.native_port) as deaf:
        deaf.hello()
        deaf.sock.setblocking(False)
        data = b"".join(
            frame(MessageType.PING, (n).to_bytes(8, "little"), n + 1) for n in range(20_000)
        )
        assert send_until_blocked(deaf.sock, data) < 100 * len(data)
        heard = transcribe(server.native_url, healthy_samples(), 100, QUIET)
    assert heard.identity() == expected.identity()


def test_finalizes_without_end_do_not_hurt(server: Server) -> None:
    """Sixty finalizes in silence: sixty answers, in order."""
    with RawClient(server.native_port) as client:
        client.hello()
        client.say(Audio(0, bytes(3_200)))
        for number in range(60):
            client.say(Finalize(finalize_id=number))
        client.say(Ping(1))
        client.say(Bye())
        client.drain()
        answers = [getattr(e, "finalize_id", None) for e in client.events]
    assert [number for number in answers if number is not None] == list(range(60))
