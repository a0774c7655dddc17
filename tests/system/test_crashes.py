"""Processes that die, freeze or are told to stop: what clients see and what is left behind."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients.blocking import Client
from clients.errors import ClientError, ConnectionLost, ServerError
from protocol.client_messages import Closed, Final, Hello, Partial, SpeechStarted
from protocol.errors import ErrorCode

from . import audio
from .audio import RATE_HZ, Samples, words_of
from .processes import Process, arenas_in_shm
from .server import Server
from .session import Stream, assert_counts_agree, assert_sane, transcribe
from .waiting import wait_for

SOON_S = 2.0
QUIET = Hello(client="test", partials=False)


def says(name: str) -> Hello:
    return Hello(client=name, partials=False)


def speech() -> Samples:
    """6.4 s: one utterance and the pause behind it."""
    return audio.two_cities()[: int(6.4 * RATE_HZ)]


@pytest.fixture(scope="module")
def fragile() -> Iterator[Server]:
    """Two workers, one service; the tests kill them."""
    with Server("--workers", "2", "--threads", "2") as running:
        yield running


def talk_until_speech(stream: Stream) -> None:
    """The stream is in the middle of an utterance, and the service is at work on it."""
    stream.send(speech()[: 3 * RATE_HZ])
    stream.wait_event(SpeechStarted)


def failure_of(stream: Stream) -> tuple[ClientError, float]:
    """What ends the session, and after how many seconds."""
    begin_s = time.monotonic()
    while True:
        try:
            event = stream.client.next_event(30.0)
        except ClientError as error:
            return error, time.monotonic() - begin_s
        assert event is not None, "the client hangs"


def works(server: Server) -> bool:
    """A new client gets its words."""
    try:
        return words_of(transcribe(server.native_url, audio.spoken("yes"), 100, QUIET).text) == [
            "yes"
        ]
    except ClientError as error:
        if not error.retryable:
            raise
        return False


def worker_of(server: Server, stream: Stream) -> Process:
    """The worker at the other end of this client's TCP connection."""
    ours = stream.client._sock.getsockname()[1]  # the only way to tell
    inode = _server_socket_inode(server.native_port, ours)
    for worker in server.workers():
        for fd in Path(f"/proc/{worker.pid}/fd").iterdir():
            if os.readlink(fd) == f"socket:[{inode}]":
                return worker
    raise AssertionError("no worker holds this connection")


def _server_socket_inode(server_port: int, client_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[i].split(":")[1], 16) for i in (1, 2))
        if (local, remote) == (server_port, client_port):
            return fields[9]
    raise AssertionError("the connection is not there")


def readiness(server: Server) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status
    finally:
        connection.close()


# One process dies


def test_kill_9_of_the_service(fragile: Server) -> None:
    """A streaming client gets its words from the next service, as if nothing had happened; nothing
    lies in /dev/shm; new clients are served. More of this in test_recovery.py."""
    wait_for("a working server", lambda: works(fragile))
    (service,) = fragile.services()
    with Stream(fragile.native_url, says("orphan")) as stream:
        talk_until_speech(stream)
        fragile.kill(service)
        stream.send(speech()[3 * RATE_HZ :])
        heard = stream.finish()
    assert words_of(heard.text)[:6] == words_of("it was the best of times")
    assert_sane(heard, len(speech()))
    assert fragile.wait_close_record("orphan")["reason"] == heard.closed.reason
    assert arenas_in_shm() == []
    wait_for("a new service", lambda: works(fragile), 60)
    (restarted,) = fragile.services()
    assert restarted.pid != service.pid
    assert len(fragile.workers()) == 2
    assert arenas_in_shm() == []


def test_a_client_without_audio_survives_the_service(fragile: Server) -> None:
    """An idle session holds nothing of the service: it speaks after the restart and is heard."""
    wait_for("a working server", lambda: works(fragile))
    with Stream(fragile.native_url, QUIET) as stream:
        fragile.kill(fragile.services()[0])
        wait_for("a new service", lambda: works(fragile), 60)
        stream.send(audio.spoken("yes"))
        assert words_of(stream.finish().text) == ["yes"]


def test_a_refusal_while_no_service_is_there(fragile: Server) -> None:
    """Between death and restart a hello is refused as retryable, with a time, and is not ready."""
    wait_for("a working server", lambda: works(fragile))
    fragile.kill(fragile.services()[0])
    seen: set[ErrorCode] = set()

    def refused() -> bool:
        try:
            with Stream(fragile.native_url, QUIET):
                return False
        except ServerError as error:
            seen.add(error.code)
            return error.retryable and bool(error.retry_after_ms)

    wait_for("a refusal", refused, 5)
    assert readiness(fragile) == 503
    assert seen == {ErrorCode.AT_CAPACITY}
    wait_for("a new service", lambda: works(fragile), 60)
    assert readiness(fragile) == 200


def test_kill_9_of_a_worker(fragile: Server) -> None:
    """Its client loses the connection within 2 s and may retry; the client of the other worker
    gets its words; the worker comes back on the same ports; nothing lies in /dev/shm."""
    wait_for("a working server", lambda: works(fragile))
    with Stream(fragile.native_url, says("victim"), resume=False) as victim:
        talk_until_speech(victim)
        doomed = worker_of(fragile, victim)
        with other_worker_stream(fragile, doomed) as healthy:
            talk_until_speech(healthy)
            fragile.kill(doomed)
            error, seconds = failure_of(victim)
            healthy.send(speech()[3 * RATE_HZ :])
            heard = healthy.finish()
    assert isinstance(error, ConnectionLost)
    assert error.retryable
    assert seconds < SOON_S
    assert words_of(heard.text)[:6] == words_of("it was the best of times")
    assert_counts_agree(heard.closed)
    assert arenas_in_shm() == []
    wait_for("a new worker", lambda: len(fragile.workers()) == 2)
    start = len(fragile.log)
    wait_for("both workers to serve", lambda: {0, 1} <= served_by(fragile), 60)
    assert not [line for line in fragile.log[start:] if "Traceback" in line]
    assert len(fragile.services()) == 1
    assert arenas_in_shm() == []


def other_worker_stream(server: Server, worker: Process) -> Stream:
    """A session with any other worker: the kernel spreads connections by a hash of their port."""

    def attempt() -> Stream | None:
        stream = Stream(server.native_url, says("healthy"))
        if worker_of(server, stream).pid != worker.pid:
            return stream
        stream.close()
        return None

    return wait_for("a connection to the other worker", attempt)


def served_by(server: Server) -> set[int]:
    """Which workers took ten new sessions, by the first figure of their session ids."""
    found = set()
    for _ in range(10):
        try:
            with Stream(server.native_url, QUIET) as stream:
                assert stream.heard.started is not None
                found.add(int(stream.heard.started.session_id[0]))
        except ClientError:
            continue
    return found


def test_kill_9_of_the_parent(tmp_path: Path) -> None:
    """All children are gone within 2 s, clients lose their connections, /dev/shm is empty. The
    Unix socket's file stays, as nobody is left to remove it, refuses connections, and the next
    server on the same path takes its place."""
    uds = tmp_path / "native.sock"
    with Server("--workers", "2", "--threads", "2", uds=uds) as server:
        with Stream(server.unix_url, QUIET, resume=False) as stream:
            talk_until_speech(stream)
            server.process.kill()
            server.process.wait()
            error, seconds = failure_of(stream)
        assert error.retryable
        assert seconds < SOON_S
        wait_for("the end of all children", lambda: not server.survivors(), SOON_S)
        assert arenas_in_shm() == []
        assert uds.is_socket()
        with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(uds))
    with Server("--threads", "2", uds=uds) as successor:
        assert words_of(transcribe(successor.unix_url, audio.spoken("yes"), 100, QUIET).text) == [
            "yes"
        ]
        successor.terminate()
        assert successor.wait() == 0
    assert not uds.exists()


# Clients that vanish


@pytest.mark.parametrize("scheme", ["native", "websocket"])
def test_a_client_that_vanishes_mid_word(server: Server, scheme: str) -> None:
    """It is decoded to its last sample: the logged close record has equal counts, and they are
    what was sent."""
    url = server.native_url if scheme == "native" else server.websocket_url
    samples = speech()[: int(2.345 * RATE_HZ)]
    name = f"vanishing-{scheme}"
    with Stream(url, says(name), resume=False) as stream:
        stream.send(samples, 20)
        wait_for("the bytes to leave", lambda: not stream.client._unsent or None)
        unsent_by_kernel_is_none(stream)
    record = server.wait_close_record(name)
    assert record["reason"] == "vanished"
    assert record["client_samples"] == len(samples)
    assert record["socket_samples"] == record["ring_samples"] == record["engine_samples"]
    assert record["socket_samples"] == len(samples)
    assert record["lost_samples"] == 0


def unsent_by_kernel_is_none(stream: Stream) -> None:
    """A pong proves that the server has read everything before it."""
    stream.client.ping(7)
    wait_for("the pong", lambda: _is_pong(stream))


def _is_pong(stream: Stream) -> bool:
    stream.poll()
    return any(type(event).__name__ == "Pong" for event in stream.heard.events)


def test_resampled_audio_of_a_vanished_client_is_counted(server: Server) -> None:
    """At 44.1 kHz: ring position floor(n x 16000 / 44100), drained although nobody waits."""
    samples = audio.at_rate(44_100)[: int(1.777 * 44_100)]
    hello = Hello(client="vanishing-44100", sample_rate_hz=44_100, partials=False)
    with Stream(server.native_url, hello, resume=False) as stream:
        stream.send(samples, 20)
        unsent_by_kernel_is_none(stream)
    record = server.wait_close_record("vanishing-44100")
    due = len(samples) * RATE_HZ // 44_100
    assert record["client_samples"] == len(samples)
    assert {record[f"{name}_samples"] for name in ("socket", "ring", "engine")} == {due}


# Being told to stop


def test_sigterm_drains() -> None:
    """A stream in mid-sentence gets its final with the words so far, and Closed(draining); new
    clients are turned away; exit status 0; no process and no file is left."""
    with Server("--threads", "2") as server:
        with Stream(server.native_url, says("drained")) as stream:
            stream.send(speech()[: 4 * RATE_HZ])
            stream.wait_event(SpeechStarted)
            unsent_by_kernel_is_none(stream)
            server.terminate()
            closed = stream.wait_event(Closed)
            text = stream.heard.text
        assert server.wait() == 0
        assert closed.reason == "draining"
        assert closed.client_samples == 4 * RATE_HZ
        assert_counts_agree(closed)
        assert words_of(text)[:6] == words_of("it was the best of times")
        assert server.survivors() == []
        assert not server.uds.exists()
        with pytest.raises(ConnectionLost):
            Client.connect(server.native_url)
        assert "Traceback" not in "\n".join(server.log)
    assert arenas_in_shm() == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(second: signal.Signals) -> None:
    """The drain waits for a long final; the second signal does not: the client loses its
    connection, the exit status is 0, nothing is left."""
    with Server("--threads", "1") as server:
        with Stream(server.native_url, QUIET, resume=False) as stream:
            (service,) = server.services()
            talk_until_speech(stream)
            os.kill(service.pid, signal.SIGSTOP)  # a final that never comes
            server.terminate()
            server.wait_log("draining")
            with pytest.raises(ServerError) as refused:
                transcribe_once(server)
            assert refused.value.retryable
            begin_s = time.monotonic()
            server.terminate(second)
            status = server.wait(15)
            seconds = time.monotonic() - begin_s
            error, _ = failure_of(stream)
        assert status == 0
        assert seconds < 5.0
        assert error.retryable
        assert server.survivors() == []
    assert arenas_in_shm() == []


def transcribe_once(server: Server) -> None:
    try:
        transcribe(server.native_url, audio.spoken("yes"), 100, QUIET)
    except ConnectionLost as error:  # its listeners may be closed already: that is a refusal too
        raise ServerError(ErrorCode.DRAINING, str(error), retryable=True) from None


def test_an_idle_server_stops_at_once_on_sigint() -> None:
    """Ctrl-C with an idle connection open: exit status 0."""
    with Server("--threads", "1") as server:
        with Stream(server.native_url, QUIET) as stream:
            server.terminate(signal.SIGINT)
            closed = stream.wait_event(Closed)
        assert closed.reason == "draining"
        assert server.wait(10) == 0
        assert server.survivors() == []


# A process that hangs


@pytest.mark.slow  # health reports are believed for 10 s
def test_a_frozen_service_is_not_ready() -> None:
    """SIGSTOP of the only service: /health/live stays 200, /health/ready turns 503, new clients
    are refused as retryable; after SIGCONT everything works again, and the client that streamed
    all the time has lost nothing."""
    patient = ("--threads", "2", "--service-timeout-ms", "0")  # else it would be killed by then
    with Server(*patient) as server, Stream(server.native_url, QUIET) as stream:
        (service,) = server.services()
        talk_until_speech(stream)
        os.kill(service.pid, signal.SIGSTOP)
        try:
            wait_for("503", lambda: readiness(server) == 503, 45)
            with pytest.raises(ServerError) as refused, Stream(server.native_url, QUIET):
                pass
            assert refused.value.retryable
            stream.send(speech()[3 * RATE_HZ :])
        finally:
            os.kill(service.pid, signal.SIGCONT)
        wait_for("200", lambda: readiness(server) == 200)
        heard = stream.finish()
        assert words_of(heard.text)[:6] == words_of("it was the best of times")
        assert_counts_agree(heard.closed)
        assert works(server)


def test_a_blocked_client_behind_a_frozen_service_loses_nothing(server: Server) -> None:
    """Backpressure: 89 s of audio against a ring of 47 s and a service that stands still. The
    client is slowed down; afterwards all samples were decoded."""
    samples = np.concatenate([audio.two_cities(), audio.two_cities()])
    (service,) = server.services()
    with Stream(server.unix_url, says("slowed")) as stream:
        sender = threading.Thread(target=stream.client.send_audio, args=(samples.tobytes(),))
        os.kill(service.pid, signal.SIGSTOP)
        try:
            sender.start()
            left = bytes_left_behind(stream)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        sender.join(60)
        assert not sender.is_alive()
        heard = stream.finish()
    assert left > 0
    assert heard.closed.client_samples == len(samples)
    assert heard.closed.lost_samples == 0
    assert_counts_agree(heard.closed)
    assert heard.of(Final)
    assert heard.of(Partial) == []


def bytes_left_behind(stream: Stream) -> int:
    """What the client could not send when nothing has moved for half a second."""
    last, since = -1, time.monotonic()

    def stands_still() -> bool:
        nonlocal last, since
        unsent = len(stream.client._unsent)
        if unsent != last or not unsent:
            last, since = unsent, time.monotonic()
        return time.monotonic() - since > 0.5

    wait_for("the worker to stop reading", stands_still)
    return last
