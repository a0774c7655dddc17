"""All client APIs against one server at the same time, channels apart, files that are none.

That each of them says the same words is in test_same_words.py, their own wire behaviour in
tests/gateway/dialects.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

from protocol.client_messages import Hello

from . import audio
from .audio import RATE_HZ
from .server import Server
from .session import Stream

PIECE_BYTES = 3_200
TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With every listener there is."""
    with Server("--threads", "2", "--wyoming-port", "0") as running:
        yield running


def speech() -> bytes:
    """Two sentences and a silence that ends the last."""
    return np.concatenate([audio.short_clip(), np.zeros(RATE_HZ, np.int16)]).astype("<i2").tobytes()


def wav() -> bytes:
    """The same as a file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(speech())
    return out.getvalue()


def native(server: Server) -> str:
    """The answer that all others are compared with."""
    with Stream(server.native_url, Hello(client="test")) as stream:
        stream.send(np.frombuffer(speech(), "<i2").astype(np.int16))
        return stream.finish().text


def post(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """One request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=TIMEOUT_S)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, names)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def form(**fields: str) -> bytes:
    """With the file first, as some clients send it."""
    parts = [b'name="file"; filename="a.wav"\r\n\r\n' + wav()]
    parts += [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    head = b"--limit\r\nContent-Disposition: form-data; "
    return head + (b"\r\n" + head).join(parts) + b"\r\n--limit--\r\n"


def openai_file(server: Server, **fields: str) -> str:
    """POST /v1/audio/transcriptions."""
    status, body = post(
        server, "/v1/audio/transcriptions", form(model="whisper-1", **fields),
        Content_Type="multipart/form-data; boundary=limit",
    )  # fmt: skip
    assert status == 200, body
    return body.decode() if "response_format" in fields else str(json.loads(body)["text"])


def deepgram_file(server: Server) -> str:
    """POST /v1/listen."""
    status, body = post(server, "/v1/listen?punctuate=true", wav(), Content_Type="audio/wav")
    assert status == 200, body
    return str(json.loads(body)["results"]["channels"][0]["alternatives"][0]["transcript"])


def deepgram(server: Server, query: str, pieces: list[bytes]) -> list[dict[str, Any]]:
    """Everything that came until the server closed."""
    url = f"{server.websocket_url}/v1/listen?{query}"
    with connect(url, open_timeout=TIMEOUT_S, close_timeout=TIMEOUT_S) as ws:
        for piece in pieces:
            ws.send(piece)
        ws.send(json.dumps({"type": "CloseStream"}))
        return [json.loads(message) for message in ws]


def transcript_of(messages: list[dict[str, Any]], channel: int = 0) -> str:
    """Of all final results of one channel."""
    texts = [
        message["channel"]["alternatives"][0]["transcript"]
        for message in messages
        if message["type"] == "Results"
        and message["is_final"]
        and message["channel_index"][0] == channel
    ]
    return " ".join(text for text in texts if text)


def wyoming(server: Server) -> str:
    """As Home Assistant asks."""
    port = int(server.addresses["wyoming_port"])
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
        shape = {"rate": RATE_HZ, "width": 2, "channels": 1}
        say(sock, "transcribe", {"language": "en"})
        say(sock, "audio-start", shape)
        for piece in pieces_of(speech()):
            say(sock, "audio-chunk", shape, piece)
        say(sock, "audio-stop", {})
        with sock.makefile("rb") as reader:
            while True:
                head = json.loads(reader.readline())
                data = json.loads(reader.read(head.get("data_length") or 0) or b"{}")
                if head["type"] == "transcript":
                    return str({**head.get("data", {}), **data}["text"])


def say(sock: socket.socket, kind: str, data: dict[str, Any], payload: bytes = b"") -> None:
    """One Wyoming event."""
    inside = json.dumps(data).encode()
    head = {"type": kind, "data_length": len(inside), "payload_length": len(payload)}
    sock.sendall(json.dumps(head).encode() + b"\n" + inside + payload)


def pieces_of(pcm: bytes) -> list[bytes]:
    return [pcm[start : start + PIECE_BYTES] for start in range(0, len(pcm), PIECE_BYTES)]


def test_each_channel_has_its_own_words(server: Server) -> None:
    left = np.frombuffer(speech(), "<i2")
    both = np.stack([left, np.zeros_like(left)], axis=1).astype("<i2").tobytes()
    query = "encoding=linear16&sample_rate=16000&punctuate=true&endpointing=352"
    messages = deepgram(server, f"{query}&channels=2&multichannel=true", pieces_of(both))
    assert transcript_of(messages, 0) == native(server)
    assert transcript_of(messages, 1) == ""
    assert messages[-1]["type"] == "Metadata"
    assert messages[-1]["channels"] == 2


def test_all_at_once(server: Server) -> None:
    expected = native(server)
    with ThreadPoolExecutor() as pool:
        answers = list(
            pool.map(lambda ask: ask(server), [native, openai_file, deepgram_file, wyoming] * 2)
        )
    assert answers == [expected] * 8


def test_a_file_that_is_none_is_the_clients_error(server: Server) -> None:
    status, body = post(server, "/v1/listen", bytes(1000), Content_Type="audio/ogg")
    assert status == 400
    assert json.loads(body)["err_code"]
    status, body = post(
        server, "/v1/audio/transcriptions", form(model="whisper-1")[:200],
        Content_Type="multipart/form-data; boundary=limit",
    )  # fmt: skip
    assert status == 400
    assert json.loads(body)["error"]["message"]
