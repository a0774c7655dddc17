"""A real server with more clients than places: who gets one, what the others hear, and what those
inside hear when drafts cannot come as often as they asked.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import time
import wave
from collections.abc import Iterator

import pytest

from clients.blocking import Client
from clients.errors import ServerError
from gateway.gatekeeper import DEMANDS_MAX_AGE_NS
from gateway.tokens import format_token, secret_digest
from protocol.client_messages import Hello, Latency, LatencyClass, Partial, Pong
from protocol.errors import ErrorCode
from protocol.supervisor_messages import Token

from . import audio
from .server import Server
from .waiting import wait_for

pytestmark = pytest.mark.system

PLACES = 4
QUIET = Hello(client="overload", partials=False)
HOP_MS = 10  # no engine makes a hundred drafts a second: it is overloaded by one speaker
CHUNK = 1_600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens = [Token(name, secret_digest(name)) for name in ("many", "few")]
    path.write_text("".join(format_token(token) + "\n" for token in tokens))
    with Server(
        "--tokens", str(path), "--max-sessions", str(PLACES), "--hop-ms", str(HOP_MS)
    ) as running:
        yield running


def enter(server: Server, token: str) -> Client:
    """A client with a place: the server has audio of it. Raises ServerError."""
    client = Client.connect(server.native_url, token=token, resume=False)
    try:
        client.open(QUIET)
        client.send_audio(bytes(2 * CHUNK))
        client.ping()
        while not isinstance(client.next_event(20.0), Pong):
            pass
    except BaseException:
        client.close()
        raise
    return client


def refused(server: Server, token: str) -> ServerError:
    """How one is turned away."""
    with pytest.raises(ServerError) as info:
        enter(server, token).close()
    return info.value


def upload(server: Server, token: str) -> tuple[int, str | None]:
    """Status and Retry-After of a file that is sent."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(bytes(2 * CHUNK))
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Token {token}", "Content-Type": "audio/wav"}
        connection.request("POST", "/v1/listen", file.getvalue(), headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After")


def test_a_crowd_leaves_a_place_and_the_refused_hear_when_to_come(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(enter(server, "many")) for _ in range(PLACES - 1)]
        error = refused(server, "many")
        assert (error.code, error.retryable) == (ErrorCode.AT_CAPACITY, True)
        assert "kept for others" in error.message
        assert (error.retry_after_ms or 0) >= 1_000
        stack.enter_context(enter(server, "few"))
        full = refused(server, "few")
        assert (full.code, full.message) == (ErrorCode.AT_CAPACITY, "all sessions are taken")
        status, retry_after = upload(server, "few")
        assert (status, int(retry_after or 0) >= 1) == (503, True)
        time.sleep(DEMANDS_MAX_AGE_NS / 1e9)  # until it is counted again who wants what
        crowd[0].bye()
        crowd[0].close()
        assert "kept for others" in refused(server, "many").message
        stack.enter_context(wait_for("the place that is theirs", lambda: try_to_enter(server)))
    wait_for("an empty server", lambda: upload(server, "few")[0] == 200)


def try_to_enter(server: Server) -> Client | None:
    try:
        return enter(server, "few")
    except ServerError as error:
        if error.code is not ErrorCode.AT_CAPACITY:
            raise
        return None


def test_clients_hear_of_it_when_drafts_come_less_often_and_when_that_is_over(
    server: Server,
) -> None:
    speech, silence = audio.short_clip()[: 3 * audio.RATE_HZ], audio.silence(6.0)
    with Client.connect(server.native_url, token="many", resume=False) as client:
        started = client.open(Hello(client="overload"))
        assert (started.latency_class, started.hop_ms) == (LatencyClass.FULL, HOP_MS)
        events = say(client, speech.tobytes() + silence.tobytes())
    told = [event for event in events if isinstance(event, Latency)]
    assert [event.latency_class for event in told] == [LatencyClass.SLOW, LatencyClass.FULL]
    assert told[0].hop_ms > 1.25 * HOP_MS
    assert told[1].hop_ms == HOP_MS
    assert any(isinstance(event, Partial) for event in events)


def say(client: Client, pcm: bytes) -> list[object]:
    """At real time, until it is told that all is well again; everything that was heard."""
    events: list[object] = []
    begin_s = time.monotonic()
    for number, at in enumerate(range(0, len(pcm), 2 * CHUNK)):
        client.send_audio(pcm[at : at + 2 * CHUNK])
        due_s = begin_s + (number + 1) * CHUNK / audio.RATE_HZ
        while (left_s := due_s - time.monotonic()) > 0:
            event = client.next_event(left_s)
            if event is None:
                break
            events.append(event)
        if sum(isinstance(event, Latency) for event in events) == 2:
            break
    client.bye()
    return [*events, *client.events()]
