"""OpenAI's realtime transcription over a real WebSocket: the words that every other API says."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from protocol.client_messages import Hello, VadOptions

from . import audio
from .audio import Samples, words_of
from .server import Server
from .session import transcribe

COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"
TIMEOUT_S = 60.0
SERVER_VAD = {"type": "server_vad"}
# The same in the native protocol's terms.
NATIVE_VAD = VadOptions(threshold=0.5, min_silence_ms=500, speech_pad_ms=300)


def say(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def until_the_answer(socket: ClientConnection, *, is_turns: bool) -> list[dict[str, Any]]:
    """All events up to the transcript of a commit: behind turns and silence, an empty one."""
    say(socket, "input_audio_buffer.commit")
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != COMPLETED or (is_turns and events[-1]["transcript"]):
        events.append(json.loads(socket.recv(timeout=TIMEOUT_S)))
    return events


def session_of(
    server: Server, data: bytes, detection: dict[str, Any] | None, audio_format: str = "audio/pcm"
) -> list[dict[str, Any]]:
    """Everything a client reads that sends `data` as fast as it is taken, and commits."""
    url = f"ws://127.0.0.1:{server.http_port}/v1/realtime?intent=transcription"
    with connect(url) as socket:
        assert json.loads(socket.recv(timeout=TIMEOUT_S))["type"] == "session.created"
        fields = {"format": {"type": audio_format}, "turn_detection": detection}
        session = {"type": "transcription", "audio": {"input": fields}}
        say(socket, "session.update", session=session)
        assert json.loads(socket.recv(timeout=TIMEOUT_S))["type"] == "session.updated"
        for start in range(0, len(data), 32_001):  # odd: samples are cut as well
            piece = base64.b64encode(data[start : start + 32_001]).decode()
            say(socket, "input_audio_buffer.append", audio=piece)
        return until_the_answer(socket, is_turns=detection is not None)


def clip(rate_hz: int) -> Samples:
    """Speech that ends in silence."""
    return np.concatenate([audio.at_rate(rate_hz), np.zeros(rate_hz, np.int16)])


def transcripts(events: list[dict[str, Any]]) -> list[str]:
    """Of all items in order, after a look at their deltas."""
    sums: dict[str, str] = {}
    for event in events:
        if event["type"] == DELTA:
            sums[event["item_id"]] = sums.get(event["item_id"], "") + event["delta"]
        elif event["type"] == COMPLETED:
            assert event["transcript"] == sums.pop(event["item_id"], "")
    assert sums == {}
    return [event["transcript"] for event in events if event["type"] == COMPLETED]


@pytest.mark.parametrize("detection", [SERVER_VAD, None])
def test_the_words_are_those_of_the_native_protocol(
    server: Server, detection: dict[str, Any] | None
) -> None:
    """24 kHz, faster than real time, where there are no drafts: the same finals, item by item."""
    pcm = clip(24_000)
    vad = NATIVE_VAD if detection else VadOptions(enabled=False)
    hello = Hello(client="test", sample_rate_hz=24_000, vad=vad, partials=False)
    expected = transcribe(server.native_url, pcm, 100, hello)
    events = session_of(server, pcm.astype("<i2").tobytes(), detection)
    finals = [final.text for final in expected.finals if final.text]
    assert [text for text in transcripts(events) if text] == finals
    kinds = {event["type"].rpartition(".")[2] for event in events}
    assert ("speech_started" in kinds) == ("speech_stopped" in kinds) == bool(detection)


def test_telephone_audio(server: Server) -> None:
    """u-law at 8 kHz: the same sentence, as a telephone carries it."""
    data = ulaw(clip(8_000))
    (text,) = transcripts(session_of(server, data, None, "audio/pcmu"))
    heard = words_of(text)
    assert heard[:6] == words_of("it was the best of times")
    assert "foolishness" in heard


def ulaw(samples: Samples) -> bytes:
    """G.711 by its definition: the nearest code by search."""
    from gateway.dialects.g711 import ulaw_to_pcm16

    levels = np.frombuffer(ulaw_to_pcm16(bytes(range(256))), "<i2").astype(np.int32)
    order = np.argsort(levels, kind="stable")
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    codes = order[np.searchsorted(middles, samples.astype(np.int32))]
    return codes.astype(np.uint8).tobytes()
