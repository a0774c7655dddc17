"""Files over HTTP against a real server: any container, every answer, the same words."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.media import encode

from . import audio
from .processes import children_of
from .server import Server
from .session import transcribe
from .waiting import wait_for

BOUNDARY = "a-boundary"
FORM_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(content: bytes, **fields: str) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"".join((*parts, head.encode(), content, f"\r\n--{BOUNDARY}--\r\n".encode()))


def post(server: Server, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Status, content type, body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()
    finally:
        connection.close()


def openai(server: Server, content: bytes, **fields: str) -> tuple[int, str, bytes]:
    return post(server, "/v1/audio/transcriptions", form(content, **fields), FORM_TYPE)


def deepgram(server: Server, content: bytes, query: str = "") -> tuple[int, Any]:
    status, _, body = post(server, f"/v1/listen?{query}", content, {"Content-Type": "audio/x"})
    return status, json.loads(body)


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    return audio.write_wav(folder / "a.wav", audio.short_clip())


@pytest.fixture(scope="module")
def native_text(server: Server) -> str:
    """What the native protocol says about the same samples."""
    return transcribe(server.native_url, audio.short_clip()).text


def test_every_api_says_the_same_words(server: Server, wav: Path, native_text: str) -> None:
    content = wav.read_bytes()
    status, _, body = openai(server, content, model="whisper-1")
    assert (status, json.loads(body)["text"]) == (200, native_text)
    status, answer = deepgram(server, content, "smart_format=true")
    alternative = answer["results"]["channels"][0]["alternatives"][0]
    assert (status, alternative["transcript"]) == (200, native_text)
    raw = audio.short_clip().astype("<i2").tobytes()
    _, answer = deepgram(server, raw, "encoding=linear16&sample_rate=16000&punctuate=true")
    assert answer["results"]["channels"][0]["alternatives"][0]["transcript"] == native_text


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz"),
    [
        ("a.flac", "flac", 16_000),
        ("a.mp3", "libmp3lame", 44_100),
        ("a.m4a", "aac", 44_100),
        ("a.webm", "libopus", 48_000),
    ],
)
def test_other_containers(
    server: Server, tmp_path: Path, native_text: str, name: str, codec: str, rate_hz: int
) -> None:
    path = encode(tmp_path / name, codec, rate_hz, "mono", samples=audio.at_rate(rate_hz))
    status, _, body = openai(server, path.read_bytes())
    assert status == 200
    assert audio.word_error_rate(native_text, json.loads(body)["text"]) < 0.1


def test_a_stream_of_events_sums_up_to_the_text(
    server: Server, wav: Path, native_text: str
) -> None:
    status, content_type, body = openai(server, wav.read_bytes(), stream="true")
    assert (status, content_type.partition(";")[0]) == (200, "text/event-stream")
    *lines, end = [line[6:] for line in body.decode().splitlines() if line]
    events = [json.loads(line) for line in lines]
    assert end == "[DONE]"
    assert "".join(event["delta"] for event in events[:-1]) == native_text
    assert events[-1]["text"] == native_text


def test_words_and_subtitles(server: Server, wav: Path, native_text: str) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    _, _, body = openai(server, wav.read_bytes(), **fields)
    verbose = json.loads(body)
    assert " ".join(word["word"] for word in verbose["words"]) == native_text
    assert verbose["duration"] == pytest.approx(len(audio.short_clip()) / 16_000, abs=0.01)
    _, content_type, body = openai(server, wav.read_bytes(), response_format="srt")
    assert content_type.startswith("text/plain")
    assert body.startswith(b"1\n00:00:0")


def test_what_is_no_audio(server: Server) -> None:
    status, _, body = openai(server, b"nothing like it")
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_file_format")
    assert deepgram(server, b"nothing like it")[0] == 400


def test_too_large_an_upload_is_refused_before_it_is_sent(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
        head = "POST /v1/listen HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(4_096).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_vanishes_leaves_no_decoder(server: Server, wav: Path) -> None:
    content = wav.read_bytes() * 20
    head = f"POST /v1/listen HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    for sent in (content[: len(content) // 2], content):
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
            sock.sendall(head.encode() + sent)

    (worker,) = server.workers()

    def has_no_decoder() -> bool:
        return not any("gateway.decoder" in child.command for child in children_of(worker.pid))

    wait_for("the end of decoders", has_no_decoder)
