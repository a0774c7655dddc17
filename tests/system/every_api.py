"""The plainest client of each API: samples in, the text of the finals out.

For tests that compare the APIs. Turn detection is the same in all of them where the API lets its
client choose it: what the server does by default, in that API's words.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import wave
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from websockets.sync.client import ClientConnection, connect

from protocol.client_messages import Hello, VadOptions

from .audio import RATE_HZ, Samples
from .server import Server
from .session import transcribe

TIMEOUT_S = 120.0
PIECE_SAMPLES = 1_600
WITHOUT_VAD = VadOptions(enabled=False)
# gpu_service's defaults, which Together's and OpenAI's own differ from.
TOGETHER_VAD = {
    "turn_detection": "server_vad", "threshold": 0.5, "min_silence_duration_ms": 352,
    "min_speech_duration_ms": 64, "speech_pad_ms": 160, "max_speech_duration_s": 30,
}  # fmt: skip
OPENAI_VAD = {
    "type": "server_vad", "threshold": 0.5, "silence_duration_ms": 352, "prefix_padding_ms": 160,
}  # fmt: skip
DEEPGRAM_RAW = "encoding=linear16&sample_rate=16000"

_TRANSCRIPTION = "conversation.item.input_audio_transcription."
COMPLETED, DELTA = _TRANSCRIPTION + "completed", _TRANSCRIPTION + "delta"
COMMIT, APPEND = "input_audio_buffer.commit", "input_audio_buffer.append"


def pieces_of(samples: Samples) -> Iterator[bytes]:
    """100 ms of PCM each."""
    for start in range(0, len(samples), PIECE_SAMPLES):
        yield samples[start : start + PIECE_SAMPLES].astype("<i2").tobytes()


def joined(texts: list[str]) -> str:
    """One line of what finals say."""
    return " ".join(" ".join(texts).split())


# Native


def native(server: Server, samples: Samples, vad: VadOptions | None = None) -> str:
    """Over TCP."""
    hello = Hello(client="test", vad=vad or VadOptions())
    return transcribe(server.native_url, samples, hello=hello).text


def native_websocket(server: Server, samples: Samples) -> str:
    """In WebSocket messages."""
    return transcribe(server.websocket_url, samples).text


# JSON over WebSockets


def say(websocket: ClientConnection, kind: str, **fields: Any) -> None:
    """One JSON message."""
    websocket.send(json.dumps({"type": kind, **fields}))


def hear(websocket: ClientConnection) -> dict[str, Any]:
    """The next one."""
    message: dict[str, Any] = json.loads(websocket.recv(timeout=TIMEOUT_S))
    return message


def append(websocket: ClientConnection, pcm: bytes) -> None:
    """Audio, as Together and OpenAI take it."""
    say(websocket, APPEND, audio=base64.b64encode(pcm).decode())


def until_answered(websocket: ClientConnection, *, has_turns: bool) -> list[dict[str, Any]]:
    """Commit; all messages up to its answer: an empty one where a pause has ended the last turn."""
    say(websocket, COMMIT)
    messages = []
    while True:
        messages.append(hear(websocket))
        message = messages[-1]
        assert message["type"] not in ("error", _TRANSCRIPTION + "failed"), message
        if message["type"] == COMPLETED and not (has_turns and message["transcript"]):
            return messages


def together(server: Server, samples: Samples, **detection: Any) -> str:
    """Together's realtime API; turn_detection="none": one commit."""
    query = {"model": "m", "input_audio_format": "pcm_s16le_16000", **(detection or TOGETHER_VAD)}
    with connect(server.together_url(urlencode(query))) as websocket:
        assert hear(websocket)["type"] == "session.created"
        for pcm in pieces_of(samples):
            append(websocket, pcm)
        has_turns = query["turn_detection"] != "none"
        messages = until_answered(websocket, has_turns=has_turns)
    return joined([m["transcript"] for m in messages if m["type"] == COMPLETED])


def openai_session(
    websocket: ClientConnection, detection: dict[str, Any] | None, rate_hz: int = RATE_HZ
) -> None:
    """Configure a session that has just been opened."""
    assert hear(websocket)["type"] == "session.created"
    audio_input = {
        "format": {"type": "audio/pcm", "rate": rate_hz}, "turn_detection": detection,
    }  # fmt: skip
    session = {"type": "transcription", "audio": {"input": audio_input}}
    say(websocket, "session.update", session=session)
    assert hear(websocket)["type"] == "session.updated"


def openai(
    server: Server, samples: Samples, detection: dict[str, Any] | None, query: str = "deltas=final"
) -> str:
    """OpenAI's realtime API. In each item the sum of the deltas is looked at."""
    url = f"{server.websocket_url}/v1/realtime?intent=transcription&{query}"
    with connect(url) as websocket:
        openai_session(websocket, detection)
        for pcm in pieces_of(samples):
            append(websocket, pcm)
        messages = until_answered(websocket, has_turns=detection is not None)
    return joined([item.transcript for item in items_of(messages)])


class Item:
    """One item of OpenAI's API."""

    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.shown = ""  # what the client had read before the item was committed
        self.transcript = ""


def items_of(messages: list[dict[str, Any]]) -> list[Item]:
    """Items in the order of their transcripts; each is the sum of its deltas."""
    items: dict[str, Item] = {}
    for message in messages:
        item = items.setdefault(message.get("item_id", ""), Item())
        if message["type"] == DELTA:
            item.deltas.append(message["delta"])
        elif message["type"] == "input_audio_buffer.committed":
            item.shown = "".join(item.deltas)
        elif message["type"] == COMPLETED:
            item.transcript = message["transcript"]
    done = [message["item_id"] for message in messages if message["type"] == COMPLETED]
    for name in done:
        assert "".join(items[name].deltas) == items[name].transcript
    return [items[name] for name in done]


def deepgram(server: Server, samples: Samples, query: str = "punctuate=true") -> str:
    """Deepgram's live API."""
    url = f"{server.websocket_url}/v1/listen?{DEEPGRAM_RAW}&endpointing=352&{query}"
    with connect(url, close_timeout=TIMEOUT_S) as websocket:
        for pcm in pieces_of(samples):
            websocket.send(pcm)
        say(websocket, "CloseStream")
        messages = [json.loads(message) for message in websocket]
    assert messages[-1]["type"] == "Metadata"
    results = [m for m in messages if m["type"] == "Results" and m["is_final"]]
    return joined([m["channel"]["alternatives"][0]["transcript"] for m in results])


# HTTP


def wav_of(samples: Samples) -> bytes:
    """As a file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def form(content: bytes, boundary: str, **fields: str) -> bytes:
    """multipart/form-data with one file."""
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    opened = f'{head}"file"; filename="a.wav"\r\n\r\n'.encode()
    return b"".join((*parts, opened, content, f"\r\n--{boundary}--\r\n".encode()))


def post(server: Server, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post_openai(server: Server, content: bytes, **fields: str) -> tuple[int, bytes]:
    """A file to OpenAI's HTTP API."""
    body = form(content, "a-boundary", model="whisper-1", **fields)
    headers = {"Content-Type": "multipart/form-data; boundary=a-boundary"}
    return post(server, "/v1/audio/transcriptions", body, headers)


def post_deepgram(server: Server, content: bytes, query: str = "") -> tuple[int, bytes]:
    """A file to Deepgram's pre-recorded API."""
    return post(server, f"/v1/listen?{query}", content, {"Content-Type": "audio/wav"})


def openai_file(server: Server, samples: Samples, **fields: str) -> str:
    """OpenAI's HTTP API; the words of whatever format was asked for."""
    status, body = post_openai(server, wav_of(samples), **fields)
    assert status == 200, body
    text = body.decode()
    if fields.get("stream") == "true":
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert "".join(event.get("delta", "") for event in events) == events[-1]["text"]
        return joined([events[-1]["text"]])
    response_format = fields.get("response_format", "json")
    if response_format in ("srt", "vtt"):
        return joined([line for line in text.splitlines() if is_spoken(line)])
    return joined([text if response_format == "text" else spelled(json.loads(text))])


def is_spoken(line: str) -> bool:
    """A line of subtitles that is no number, time or title."""
    return bool(line) and not line.isdecimal() and "-->" not in line and line != "WEBVTT"


def spelled(answer: dict[str, Any]) -> str:
    """The text of a JSON answer, which its segments and words spell if it has them."""
    text = str(answer["text"])
    for name, key in (("segments", "text"), ("words", "word")):
        if name in answer:
            assert joined([part[key] for part in answer[name]]) == joined([text])
    return text


def deepgram_file(server: Server, samples: Samples, query: str = "punctuate=true") -> str:
    """Deepgram's pre-recorded API."""
    status, body = post_deepgram(server, wav_of(samples), query)
    assert status == 200, body
    alternative = json.loads(body)["results"]["channels"][0]["alternatives"][0]
    return joined([alternative["transcript"]])


# Wyoming


def wyoming_event(kind: str, data: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame."""
    inside = json.dumps(data).encode()
    head = {"type": kind, "data_length": len(inside), "payload_length": len(payload)}
    return json.dumps(head).encode() + b"\n" + inside + payload


def wyoming(server: Server, samples: Samples) -> str:
    """As Home Assistant asks; the chunks are the transcript."""
    shape = {"rate": RATE_HZ, "width": 2, "channels": 1}
    address = ("127.0.0.1", int(server.addresses["wyoming_port"]))
    with socket.create_connection(address, timeout=TIMEOUT_S) as sock:
        sock.sendall(wyoming_event("transcribe", {"language": "en"}))
        sock.sendall(wyoming_event("audio-start", shape))
        for pcm in pieces_of(samples):
            sock.sendall(wyoming_event("audio-chunk", shape, pcm))
        sock.sendall(wyoming_event("audio-stop", {}))
        chunks = ""
        with sock.makefile("rb") as reader:
            while line := reader.readline():
                head = json.loads(line)
                data = json.loads(reader.read(head.get("data_length") or 0) or b"{}")
                data = {**head.get("data", {}), **data}
                chunks += data["text"] if head["type"] == "transcript-chunk" else ""
                if head["type"] == "transcript":
                    assert data["text"] == chunks
                    return joined([data["text"]])
    raise AssertionError("the connection ended before the transcript")
