"""Hostile clients of every kind at one server: each is refused or shed within limits.

Beside them a talker speaks at the pace of a microphone, over and over, and has to get every word
that it gets alone; how late its words come is measured by bench/hostile.py. What a token is and
which limits there are is in docs/SECURITY.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from clients.blocking import Client
from clients.errors import ServerError
from protocol.client_messages import Hello, MessageType
from protocol.errors import ErrorCode

from . import crafted
from .deaf import FLOODS, flood
from .every_api import form
from .processes import children_of
from .raw import frame
from .raw_http import answer, drip, upload
from .server import Server
from .storm import Storm
from .talker import Talker
from .test_security import TokenFile
from .waiting import wait_for

MEGABYTE = 1_000_000
MAX_UPLOAD_MB = 5
MAX_CONNECTIONS = 400
MAX_PER_ADDRESS = 100
MAX_REFUSED = 64  # more of them are not told why
TIMEOUT_S = 60.0
HANDSHAKE_MS = 5_000
SLACK_BYTES = 16 * MEGABYTE  # what sockets and a connection's last look may take over a limit


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenFile:
    tokens = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens")
    tokens.add("good")
    return tokens


@pytest.fixture(scope="module")
def server(tokens: TokenFile) -> Iterator[Server]:
    options = {
        "--tokens": tokens.path, "--wyoming-port": 0, "--threads": 1,
        "--handshake-timeout-ms": HANDSHAKE_MS, "--max-upload-mb": MAX_UPLOAD_MB,
        "--max-file-minutes": 1, "--max-connections": MAX_CONNECTIONS,
        "--max-connections-per-address": MAX_PER_ADDRESS,
    }  # fmt: skip
    with Server(*(str(word) for option in options.items() for word in option)) as running:
        yield running


@pytest.fixture(scope="module")
def talker(server: Server) -> Iterator[Talker]:
    talker = Talker(server)
    yield talker
    talker.stop()


@pytest.fixture(autouse=True)
def _unharmed(server: Server, talker: Talker) -> Iterator[None]:
    """After each attack: the talker is well, no process died, and no decoder or file is left."""
    workers = server.workers()
    yield
    talker.check()
    assert [w.pid for w in server.workers()] == [w.pid for w in workers]
    wait_for("the end of all decoders", lambda: not children_of(workers[0].pid))
    wait_for("the end of all files", lambda: open_files(workers[0].pid, "(deleted)") == 0)


def open_files(pid: int, name: str = "") -> int:
    """Descriptors of a process to what `name` is a part of."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(path)
            found += name in target and "/memfd" not in target and "shm" not in target
    return found


# Tokens

WEBSOCKETS = {
    "together": "/v1/realtime?model=m&input_audio_format=pcm_s16le_16000",
    "openai": "/v1/realtime?intent=transcription",
    "deepgram": "/v1/listen?encoding=linear16&sample_rate=16000",
}
MISPLACED: dict[str, tuple[str, dict[str, str], list[str]]] = {  # query, headers, subprotocols
    "none": ("", {}, []),
    "wrong": ("", {"Authorization": "Bearer guess"}, []),
    "wrong, in two places": ("", {"Authorization": "Token guess", "X-API-Key": "SECRET"}, []),
    "empty": ("", {"Authorization": "Bearer "}, []),
    "another scheme": ("", {"Authorization": "Basic SECRET"}, []),
    "a cookie": ("", {"Cookie": "api_key=SECRET"}, []),
    "another parameter": ("&token=SECRET", {}, []),
    "a bare subprotocol": ("", {}, ["SECRET"]),
    "subprotocols in the wrong order": ("", {}, ["SECRET", "token"]),
}


@pytest.mark.parametrize("place", MISPLACED)
@pytest.mark.parametrize("dialect", WEBSOCKETS)
def test_websockets_without_a_token(
    server: Server, tokens: TokenFile, dialect: str, place: str
) -> None:
    query, headers, names = filled(MISPLACED[place], tokens.secrets["good"])
    url = server.websocket_url + WEBSOCKETS[dialect] + query
    subprotocols = [Subprotocol(name) for name in names] or None
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(url, additional_headers=headers, subprotocols=subprotocols),
    ):
        pass
    assert caught.value.response.status_code == 401
    assert tokens.secrets["good"].encode() not in (caught.value.response.body or b"")


@pytest.mark.parametrize("place", [name for name in MISPLACED if "subprotocol" not in name])
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions?", "/v1/listen?"])
def test_uploads_without_a_token(server: Server, tokens: TokenFile, path: str, place: str) -> None:
    """Also not in the body, which is not read: the answer comes before it."""
    query, headers, _ = filled(MISPLACED[place], tokens.secrets["good"])
    with upload(server, path + query, headers, f"Content-Length: {4 * MEGABYTE}") as sock:
        status, body = answer(sock)
    assert status == 401
    assert error_text(path, body)


def filled(
    place: tuple[str, dict[str, str], list[str]], secret: str
) -> tuple[str, dict[str, str], list[str]]:
    query, headers, names = place
    return (
        query.replace("SECRET", secret),
        {name: value.replace("SECRET", secret) for name, value in headers.items()},
        [name.replace("SECRET", secret) for name in names],
    )


@pytest.mark.parametrize("url", ["native_url", "websocket_url"])
@pytest.mark.parametrize("fields", [{}, {"token": "guess"}, {"client": "SECRET"},
                                    {"prompt": "SECRET", "model": "SECRET"}])  # fmt: skip
def test_native_clients_without_a_token(
    server: Server, tokens: TokenFile, url: str, fields: dict[str, str]
) -> None:
    secret = tokens.secrets["good"]
    hello = Hello(**{name: text.replace("SECRET", secret) for name, text in fields.items()})
    with Client.connect(getattr(server, url)) as client, pytest.raises(ServerError) as caught:
        client.open(hello)
    assert caught.value.code is ErrorCode.UNAUTHORIZED


# Uploads


def error_text(path: str, body: bytes) -> str:
    """Of an error in the shape of the path's API."""
    error = json.loads(body)
    return str(error["error"]["message"] if "transcriptions" in path else error["err_msg"])


UPLOADS = ["/v1/audio/transcriptions", "/v1/listen"]
FILE_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
FIELD_PART = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'


def bearer(tokens: TokenFile) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.secrets['good']}"}


@pytest.mark.parametrize("path", UPLOADS)
def test_ten_gigabytes_that_are_announced(server: Server, tokens: TokenFile, path: str) -> None:
    with upload(server, path, bearer(tokens), f"Content-Length: {10_000 * MEGABYTE}") as sock:
        status, body = answer(sock)
    assert status == 413
    assert error_text(path, body)


@pytest.mark.parametrize(
    ("path", "start"), [(UPLOADS[0], FILE_PART), (UPLOADS[0], FIELD_PART), (UPLOADS[1], b"")]
)
def test_ten_gigabytes_that_are_not(
    server: Server, tokens: TokenFile, path: str, start: bytes
) -> None:
    """Chunked: what is over the limit is not taken, and a client that reads is told so."""
    sent = 0
    with upload(server, path, bearer(tokens), "Transfer-Encoding: chunked") as sock:
        sock.sendall(b"%x\r\n%b\r\n" % (len(start), start) if start else b"")
        sock.settimeout(2.0)
        piece = b"%x\r\n%b\r\n" % (65_536, bytes(65_536))
        with contextlib.suppress(OSError):
            while sent < 10_000 * MEGABYTE and not select.select([sock], [], [], 0)[0]:
                sock.sendall(piece)
                sent += 65_536
        status, body = answer(sock)
    assert status == 413 or (start == FIELD_PART and status == 400)
    assert error_text(path, body)
    assert sent < MAX_UPLOAD_MB * MEGABYTE + SLACK_BYTES


def test_slow_lorises(server: Server, tokens: TokenFile) -> None:
    """Heads that never end, and bodies that hardly come, all at once."""
    secret = bearer(tokens)["Authorization"]
    http, native = server.http_port, server.native_port
    wyoming = int(server.addresses["wyoming_port"])
    post = "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + secret + "\r\n%s\r\n\r\n"
    in_form = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000"
    chunked = "Content-Type: audio/wav\r\nTransfer-Encoding: chunked"
    bodies = [
        (http, (post % (UPLOADS[0], in_form)).encode() + FILE_PART, b"x"),
        (http, (post % (UPLOADS[1], "Content-Length: 1000000")).encode(), b"x"),
        (http, (post % (UPLOADS[1], chunked)).encode(), b"1\r\nx\r\n"),
    ]
    heads = [
        (http, b"GET / HTTP/1.1\r\nX: ", b"x"),
        (http, b"", b"G"),
        (http, f"POST {UPLOADS[0]} HTTP/1.1\r\nX: ".encode(), b"x"),
    ]
    others = [
        (native, frame(MessageType.HELLO, length=4_000), b"{"),
        (wyoming, b'{"type":"transcribe","name":"', b"x"),
    ]
    with ThreadPoolExecutor(16) as pool:
        heard = list(pool.map(lambda attempt: drip(*attempt), [*bodies, *heads, *others]))
    for said in heard[: len(bodies)]:
        assert said.startswith(b"HTTP/1.1 408"), said
    for said in heard[len(bodies) : -len(others)]:
        assert said == b"" or said.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")), said
    assert ErrorCode.HANDSHAKE_TIMEOUT.value.encode() in heard[-2]
    assert ErrorCode.HANDSHAKE_TIMEOUT.value.encode() in heard[-1]


# Media


@pytest.mark.parametrize("path", UPLOADS)
def test_truncated_files(server: Server, tokens: TokenFile, path: str) -> None:
    """What is there is transcribed, or the client is told that the file is broken."""
    for name, content in crafted.truncated().items():
        status, body = post_file(server, tokens, path, content)
        assert status in (200, 400), (name, status, body)
        assert b"best of times" in body.lower() or error_text(path, body), name


@pytest.mark.parametrize("path", UPLOADS)
def test_crafted_files(server: Server, tokens: TokenFile, path: str) -> None:
    """Each is the client's error, and nothing of this machine is in what it says."""
    answers = {
        name: post_file(server, tokens, path, content) for name, content in crafted.broken().items()
    }
    assert {name: status for name, (status, _) in answers.items()} == dict.fromkeys(answers, 400)
    for name, (_, body) in answers.items():
        said = error_text(path, body)
        assert said, name
        assert not any(word in said for word in ("root:", "Traceback", "/tmp", "/proc")), said


@pytest.mark.parametrize("path", UPLOADS)
def test_a_small_file_of_much_audio(server: Server, tokens: TokenFile, path: str) -> None:
    """Ten minutes in a few KB, where one minute may be."""
    bomb = crafted.bomb()
    assert len(bomb) < MEGABYTE
    status, body = post_file(server, tokens, path, bomb)
    assert status == 413, (status, body)
    assert error_text(path, body)


def post_file(server: Server, tokens: TokenFile, path: str, content: bytes) -> tuple[int, bytes]:
    body = form(content, "b", model="m") if path == UPLOADS[0] else content
    with upload(server, path, bearer(tokens), f"Content-Length: {len(body)}") as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(body)
        return answer(sock)


@pytest.mark.parametrize("name", ["noise", "a playlist", "matroska of nothing", "a list of files"])
def test_crafted_live_audio(server: Server, tokens: TokenFile, name: str) -> None:
    """A Deepgram session in a container that is none: an Error, and close 1008."""
    url = f"{server.websocket_url}/v1/listen?interim_results=true"
    content = crafted.broken()[name]
    with connect(url, additional_headers=bearer(tokens)) as websocket:
        with contextlib.suppress(ConnectionClosed):  # it has seen enough
            for start in range(0, len(content), 8_000):
                websocket.send(content[start : start + 8_000])
            websocket.send(json.dumps({"type": "CloseStream"}))
        with contextlib.suppress(ConnectionClosedError):
            messages = [json.loads(message) for message in websocket]
            raise AssertionError(f"closed as if all was well, after {messages}")
        assert websocket.close_code == 1008


# Clients that never read

MAX_GROWTH_BYTES = 64 * MEGABYTE


def test_clients_that_never_read(server: Server, tokens: TokenFile) -> None:
    """One of each API at a time: the server stops reading from it or hangs up, and holds little."""
    (worker,) = server.workers()
    before = resident_bytes(worker.pid)
    secret = tokens.secrets["good"]
    with ThreadPoolExecutor(len(FLOODS)) as pool:
        taken = dict(
            zip(
                FLOODS,
                pool.map(lambda name: flood(server, name, secret, 200 * MEGABYTE), FLOODS),
                strict=True,
            )
        )
    assert all(num_bytes < SLACK_BYTES for num_bytes in taken.values()), taken
    assert resident_bytes(worker.pid) - before < MAX_GROWTH_BYTES


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


# Storms


@pytest.mark.parametrize("num_addresses", [1, 500])
def test_a_thousand_connects_a_second(
    server: Server, tokens: TokenFile, num_addresses: int
) -> None:
    """All kept open: the server holds no more than it may. One address keeps nobody else out; many
    together do, but not for longer than they go on."""
    (worker,) = server.workers()
    url, headers = server.websocket_url + WEBSOCKETS["openai"], bearer(tokens)
    before = open_files(worker.pid, "socket:")
    most = 0
    storm = Storm(server.http_port, num_addresses)
    while storm.blow():
        most = max(most, open_files(worker.pid, "socket:") - before)
    assert most <= MAX_CONNECTIONS + MAX_REFUSED
    assert storm.num_connects > MAX_CONNECTIONS + MAX_REFUSED
    if num_addresses == 1:
        assert can_connect(url, headers), "one address keeps all others out"
    storm.stop()
    wait_for("room for others", lambda: can_connect(url, headers))


def can_connect(url: str, headers: dict[str, str]) -> bool:
    try:
        with connect(url, additional_headers=headers, open_timeout=5) as websocket:
            return bool(websocket.recv(timeout=5))
    except (OSError, InvalidStatus, ConnectionClosed, TimeoutError, EOFError):
        return False


def test_the_talker_has_said_something(talker: Talker) -> None:
    """Each pass is compared with what it gets alone."""
    wait_for("a whole pass", lambda: talker.num_passes > 0)
