"""A real server that asks for tokens and speaks TLS: who gets in, who does not, and what a reload
changes. Token limits are over two workers; docs/SECURITY.md says what this file holds it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from clients.aio import AsyncClient
from clients.blocking import Client
from clients.errors import ClientError, ServerError
from gateway.tokens_command import main as tokens_command
from protocol.client_messages import Hello
from protocol.errors import ErrorCode
from tests.certificates import make_certificate

from . import audio
from .server import Server
from .waiting import wait_for

TOGETHER = "model=tiny.en&input_audio_format=pcm_s16le_16000"
LIMIT = 4


class TokenFile:
    """A token file as the command keeps it, and the secrets that were shown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}

    def add(self, name: str, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "clients.cli", "tokens", "add", self.path, name, *options],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.secrets[name] = done.stdout.strip()
        return self.secrets[name]

    def remove(self, name: str) -> None:
        assert tokens_command(["remove", str(self.path), name]) == 0


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    tokens = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens")
    tokens.add("everything")
    tokens.add("few", "--max-sessions", str(LIMIT))
    tokens.add("slow", "--per-minute", "2")
    return tokens


@pytest.fixture(scope="module")
def guarded(tokens: TokenFile) -> Iterator[Server]:
    """Two workers and a token file."""
    with Server("--tokens", str(tokens.path), "--workers", "2", "--threads", "1") as running:
        wait_for("both workers", lambda: all(said(running, f"worker {i} ready") for i in (0, 1)))
        yield running


def said(server: Server, text: str) -> bool:
    return any(text in line for line in list(server.log))


def ask(
    server: Server, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read()


def refused(url: str, token: str) -> ServerError:
    with Client.connect(url, token=token) as client, pytest.raises(ServerError) as caught:
        client.open()
    return caught.value


@pytest.mark.parametrize("url_of", ["native_url", "websocket_url"])
def test_native_clients_need_the_right_token(
    guarded: Server, tokens: TokenFile, url_of: str
) -> None:
    url = getattr(guarded, url_of)
    for token in ("", "guess", tokens.secrets["everything"][:-1], tokens.secrets["few"] + "x"):
        error = refused(url, token)
        assert error.code is ErrorCode.UNAUTHORIZED
        assert not error.retryable
        assert token not in str(error) or not token
    with Client.connect(url, token=tokens.secrets["everything"]) as client:
        assert client.open().session_id


def test_the_unix_socket_is_guarded_by_its_mode(guarded: Server) -> None:
    with Client.connect(guarded.unix_url) as client:
        assert client.open().session_id


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
def test_http_needs_one_where_clients_put_it(guarded: Server, tokens: TokenFile, path: str) -> None:
    secret = tokens.secrets["everything"]
    for headers in (
        {"Authorization": f"Bearer {secret}"},
        {"Authorization": f"Token {secret}"},
        {"X-API-Key": secret},
    ):
        assert ask(guarded, path, headers)[0] == 200
    assert ask(guarded, f"{path}?api_key={secret}")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic SECRET"},
        {"Authorization": "SECRET"},
        {"Cookie": "token=SECRET"},
        {"Proxy-Authorization": "Bearer SECRET"},
        {"Token": "SECRET"},
        {"Authorization": "Bearer SECRET SECRET"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models?token=SECRET", "/v1/models#SECRET"])
def test_a_token_in_the_wrong_place_is_none(
    guarded: Server, tokens: TokenFile, headers: dict[str, str], path: str
) -> None:
    secret = tokens.secrets["everything"]
    filled = {name: value.replace("SECRET", secret) for name, value in headers.items()}
    status, body = ask(guarded, path.replace("SECRET", secret), filled)
    assert status == 401
    assert json.loads(body)["error"]["message"]
    assert secret.encode() not in body


def test_health_and_the_page_need_none(guarded: Server) -> None:
    assert ask(guarded, "/health/live")[0] == 200
    assert ask(guarded, "/health/ready")[0] == 200
    assert ask(guarded, "/")[0] == 200


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/listen"])
def test_uploads_are_refused_before_their_body(
    guarded: Server, tokens: TokenFile, path: str
) -> None:
    """Megabytes or gigabytes are announced and nothing is sent: the answer is there at once."""
    good = f"Authorization: Bearer {tokens.secrets['everything']}\r\n"
    for header, num_bytes, status in (("", 50_000_000, 401), (good, 10_000_000_000, 413)):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n{header}"
            f"Content-Length: {num_bytes}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", guarded.http_port), 10) as sock:
            sock.sendall(head.encode())
            assert sock.recv(100).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "path", [f"/v1/realtime?{TOGETHER}", "/v1/realtime?intent=transcription", "/v1/listen"]
)
def test_websockets_are_refused_in_the_handshake(
    guarded: Server, tokens: TokenFile, path: str
) -> None:
    url = f"ws://127.0.0.1:{guarded.http_port}{path}"
    for headers in ({}, {"Authorization": "Bearer guess"}):
        with pytest.raises(InvalidStatus) as caught, connect(url, additional_headers=headers):
            pass
        assert caught.value.response.status_code == 401
    good = {"Authorization": f"Bearer {tokens.secrets['everything']}"}
    with connect(url, additional_headers=good):
        pass


def test_browsers_send_theirs_as_a_subprotocol(guarded: Server, tokens: TokenFile) -> None:
    secret = tokens.secrets["everything"]
    base = f"ws://127.0.0.1:{guarded.http_port}"
    for path, offered, answered in (
        ("/v1/realtime?intent=transcription",
         ["realtime", f"openai-insecure-api-key.{secret}"], "realtime"),
        ("/v1/listen", ["token", secret], "token"),
    ):  # fmt: skip
        names = [Subprotocol(name) for name in offered]
        with connect(base + path, subprotocols=names) as websocket:
            assert websocket.subprotocol == answered


# Limits over both workers


def open_session(server: Server, secret: str) -> tuple[Client, str]:
    """A client with a stream, and the worker it is on."""
    client = Client.connect(server.native_url, token=secret)
    try:
        started = client.open(Hello(client="quota"))
    except BaseException:
        client.close()
        raise
    return client, started.session_id[0]


def open_on_both_workers(server: Server, secret: str) -> list[tuple[Client, str]]:
    """LIMIT sessions of which each worker has one at least; the kernel spreads connections."""
    for _ in range(50):
        sessions = [open_session(server, secret) for _ in range(LIMIT)]
        if {worker for _, worker in sessions} == {"0", "1"}:
            return sessions
        close_all(sessions)
        wait_until_free(server, secret)
    raise AssertionError("fifty times all on one worker")


def close_all(sessions: list[tuple[Client, str]]) -> None:
    for client, _ in sessions:
        client.close()


def wait_until_free(server: Server, secret: str) -> None:
    """Until the server has noticed that its clients are gone."""

    def is_free() -> bool:
        sessions = []
        try:
            for _ in range(LIMIT):
                sessions.append(open_session(server, secret))
        except ServerError:
            return False
        finally:
            close_all(sessions)
        return True

    wait_for("all sessions of the token", is_free)


def test_sessions_of_a_token_are_counted_over_both_workers(
    guarded: Server, tokens: TokenFile
) -> None:
    secret = tokens.secrets["few"]
    sessions = open_on_both_workers(guarded, secret)
    for _ in range(8):  # whichever worker is asked
        error = refused(guarded.native_url, secret)
        assert error.code is ErrorCode.RATE_LIMITED
        assert "all 4 sessions of the token 'few'" in str(error)
        assert error.retryable
    with Client.connect(guarded.native_url, token=tokens.secrets["everything"]) as other:
        other.open()
    close_all(sessions)
    wait_until_free(guarded, secret)


def test_a_killed_workers_sessions_count_no_more(guarded: Server, tokens: TokenFile) -> None:
    secret = tokens.secrets["few"]
    wait_until_free(guarded, secret)
    sessions = open_on_both_workers(guarded, secret)
    guarded.kill(guarded.workers()[0])
    close_all(sessions)
    wait_until_free(guarded, secret)
    wait_for("both workers", lambda: len(guarded.workers()) == 2)


def test_sessions_begun_in_a_minute(guarded: Server, tokens: TokenFile) -> None:
    secret = tokens.secrets["slow"]
    for _ in range(2):
        with Client.connect(guarded.native_url, token=secret) as client:
            client.open()
    error = refused(guarded.native_url, secret)
    assert "may begin 2 sessions a minute" in str(error)


# SIGHUP


def test_a_reload_takes_new_tokens_and_drops_old_ones(guarded: Server, tokens: TokenFile) -> None:
    old, new = tokens.add("old"), tokens.add("new")
    tokens.remove("old")
    # A worker may still have the old list for a moment; it answers by it.
    guarded.terminate(signal.SIGHUP)
    wait_for("the new token", lambda: status_of(guarded, new) == 200)
    assert status_of(guarded, old) == 401
    with Client.connect(guarded.native_url, token=new) as open_before:
        open_before.open()
        tokens.remove("new")
        guarded.terminate(signal.SIGHUP)
        wait_for("its end", lambda: status_of(guarded, new) == 401)
        open_before.finalize()  # what is open goes on
        open_before.bye()
        assert [event for event in open_before.events()]
    assert open_before.closed is not None


def status_of(server: Server, secret: str) -> int:
    """Asked several times, so that both workers are: the worst answer."""
    headers = {"Authorization": f"Bearer {secret}"}
    return max(ask(server, "/v1/models", headers)[0] for _ in range(6))


def test_a_bad_file_is_an_error_in_the_log_and_the_old_one_stays(
    guarded: Server, tokens: TokenFile
) -> None:
    good = tokens.path.read_text()
    seen = len(guarded.log)
    tokens.path.write_text("broken line\n")
    guarded.terminate(signal.SIGHUP)
    line = guarded.wait_log("what was read before stays in force", start=seen)
    assert "line 1" in line
    assert status_of(guarded, tokens.secrets["everything"]) == 200
    tokens.path.write_text(good)
    guarded.terminate(signal.SIGHUP)
    guarded.wait_log("tokens in force", start=len(guarded.log) - 1)


def test_no_secret_is_in_the_log_or_on_a_command_line(guarded: Server, tokens: TokenFile) -> None:
    everything = "\n".join([*guarded.log, *(child.command for child in guarded.children())])
    for secret in tokens.secrets.values():
        assert secret not in everything


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_not_served_without_tokens(host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "--host", host, "--port", "0"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"refusing to listen on {host} without --tokens" in done.stderr
    assert done.stderr.count("\n") == 1


# TLS


@pytest.fixture(scope="module")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def encrypted(tls_folder: Path) -> Iterator[Server]:
    """TLS with a self-signed certificate; JSON logs with transcripts."""
    files = make_certificate(tls_folder)
    with Server(
        "--tls-cert", str(files.cert), "--tls-key", str(files.key), "--threads", "2",
        "--log-format", "json", "--log-transcripts",
    ) as running:  # fmt: skip
        yield running


def clip() -> audio.Samples:
    """6.6 s: one sentence of the reading."""
    return audio.two_cities()[: int(6.6 * audio.RATE_HZ)]


def heard_text(url: str, tls_ca: Path) -> str:
    with Client.connect(url, tls_ca=str(tls_ca)) as client:
        client.open(Hello(client="tls", partials=False))
        client.send_audio(clip().astype("<i2").tobytes())
        client.bye()
        finals = [getattr(event, "text", "") for event in client.events()]
    assert client.closed is not None
    assert client.closed.engine_samples == len(clip())
    return " ".join(text for text in finals if text)


@pytest.mark.parametrize("scheme", ["earwires", "wss"])
def test_the_same_words_over_tls(
    encrypted: Server, tls_folder: Path, server: Server, scheme: str
) -> None:
    port = encrypted.native_port if scheme == "earwires" else encrypted.http_port
    text = heard_text(f"{scheme}://127.0.0.1:{port}", tls_folder / "server.pem")
    with Client.connect(server.native_url) as plain:
        plain.open(Hello(client="plain", partials=False))
        plain.send_audio(clip().astype("<i2").tobytes())
        plain.bye()
        expected = " ".join(t for e in plain.events() if (t := getattr(e, "text", "")))
    assert text == expected
    assert "best of times" in text.lower()


def test_the_asyncio_client_speaks_it_too(encrypted: Server, tls_folder: Path) -> None:
    async def session() -> int:
        url = f"wss://localhost:{encrypted.http_port}"
        authority = str(tls_folder / "server.pem")
        async with await AsyncClient.connect(url, tls_ca=authority) as client:
            await client.open(Hello(client="aio"))
            await client.send_audio(bytes(64_000))
            await client.bye()
            async for _ in client.events():
                pass
            assert client.closed is not None
            return client.closed.engine_samples

    assert asyncio.run(session()) == 32_000


def test_https_and_what_a_plain_request_is_told(encrypted: Server, tls_folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(tls_folder / "server.pem"))
    connection = http.client.HTTPSConnection(
        "localhost", encrypted.http_port, context=context, timeout=10
    )
    with contextlib.closing(connection):
        connection.request("GET", "/health/ready")
        assert connection.getresponse().status == 200
    status, body = ask(encrypted, "/health/ready")
    assert status == 400
    assert b"https://" in body


def test_clients_say_whom_they_do_not_trust(encrypted: Server) -> None:
    url = f"wss://127.0.0.1:{encrypted.http_port}"
    with pytest.raises(ClientError, match="not trusted: self-signed certificate; --tls-ca FILE"):
        Client.connect(url)
    with pytest.raises(ClientError):
        Client.connect(f"ws://127.0.0.1:{encrypted.http_port}")


def test_the_command_takes_token_and_authority_from_the_environment(
    encrypted: Server, tls_folder: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", "transcribe", audio.DEMO_CLIP,
         "--server", f"wss://localhost:{encrypted.http_port}"],
        capture_output=True, text=True, timeout=120, check=False,
        env={
            **os.environ, "EARWIRE_TOKEN": "unasked",
            "EARWIRE_TLS_CA": str(tls_folder / "server.pem"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "real gateway" in done.stdout


def test_a_new_certificate_is_taken_at_sighup(
    encrypted: Server, tls_folder: Path, tmp_path: Path
) -> None:
    """And a bad one is not."""
    before = served_certificate(encrypted)
    good = (tls_folder / "server.pem").read_bytes(), (tls_folder / "server.key").read_bytes()
    (tls_folder / "server.key").write_text("broken")
    encrypted.terminate(signal.SIGHUP)
    encrypted.wait_log("what was read before stays in force")
    assert served_certificate(encrypted) == before
    newer = make_certificate(tmp_path, "newer")
    shutil.copy(newer.cert, tls_folder / "server.pem")
    shutil.copy(newer.key, tls_folder / "server.key")
    encrypted.terminate(signal.SIGHUP)
    wait_for("the new certificate", lambda: served_certificate(encrypted) != before)
    (tls_folder / "server.pem").write_bytes(good[0])
    (tls_folder / "server.key").write_bytes(good[1])
    encrypted.terminate(signal.SIGHUP)
    wait_for("the old certificate", lambda: served_certificate(encrypted) == before)


def served_certificate(server: Server) -> str:
    return ssl.get_server_certificate(("127.0.0.1", server.http_port))


def test_json_logs_have_sessions_and_words_if_asked(encrypted: Server, tls_folder: Path) -> None:
    heard_text(f"wss://127.0.0.1:{encrypted.http_port}", tls_folder / "server.pem")
    encrypted.wait_log('"stream_closed"')
    lines = [json.loads(line) for line in list(encrypted.log)]
    assert {"time", "level", "source", "event"} <= set.intersection(*(set(line) for line in lines))
    assert {"server", "worker 0"} <= {line["source"] for line in lines}
    closed = [line for line in lines if line["event"] == "stream_closed"][-1]
    finals = [line for line in lines if line["event"] == "final"]
    assert closed["dialect"] == "native"
    assert closed["session_id"] in {line["session_id"] for line in finals}
    assert any("times" in line["text"] for line in finals)


def test_no_words_are_logged_unless_asked(server: Server) -> None:
    with Client.connect(server.native_url) as client:
        client.open(Hello(client="unlogged"))
        client.send_audio(clip().astype("<i2").tobytes())
        client.bye()
        words = " ".join(getattr(event, "text", "") for event in client.events())
    assert "times" in words
    server.wait_close_record("unlogged")
    assert not said(server, "best of times")


# Addresses


def test_a_flood_of_connects_is_shed_and_others_are_served() -> None:
    with Server("--max-connections-per-address", "20", "--threads", "1") as flooded:
        alive = []
        for _ in range(200):
            with contextlib.suppress(OSError):
                alive.append(socket.create_connection(("127.0.0.1", flooded.http_port), 5))
        for sock in alive:
            sock.close()
        with Client.connect(flooded.unix_url) as client:  # no address, no limit
            client.open()
        wait_for("an answer again", lambda: answers(flooded))
        reasons = wait_for("the count", lambda: refusals(flooded))
        assert sum(reasons) >= 100


def answers(server: Server) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(server, "/health/live")[0] == 200
    return False


def refusals(server: Server) -> list[float]:
    try:
        text = ask(server, "/metrics")[1].decode()
    except (OSError, http.client.HTTPException):
        return []
    lines = [line for line in text.splitlines() if line.startswith("earwire_refused_total{")]
    return [float(line.split()[-1]) for line in lines if "address_" in line]
