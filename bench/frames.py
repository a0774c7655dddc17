"""Pre-encoded client traffic: what a load generator sends, as bytes made before the clock starts.

All streams of a level send the same bytes at frame k: native audio frames carry sequence and
client offset, which are the same function of k for every stream, and Together frames are constant.
So a generator does nothing but send. WebSocket frames are masked with the key zero, which is legal
(RFC 6455 5.3 asks for unpredictable keys to protect proxies, and there is none here); the server
unmasks them like any other.
"""

from __future__ import annotations

import base64
import json
import struct

import numpy as np

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Audio, Bye, Hello, encode_message

FRAME_MS = 20
FRAME_SAMPLES = RING_RATE_HZ * FRAME_MS // 1000
FRAME_NS = FRAME_MS * 1_000_000
TEXT, BINARY, CLOSE = 1, 2, 8
TOGETHER_PATH = (
    "/v1/realtime?model=bench&input_audio_format=pcm_s16le_16000&turn_detection=server_vad"
)


def tone_pcm(num_samples: int = FRAME_SAMPLES) -> bytes:
    """Something that is not all zero; nobody behind the gateway listens here."""
    phase = np.arange(num_samples) * (2 * np.pi * 200 / RING_RATE_HZ)
    return bytes((np.sin(phase) * 8_000).astype("<i2").tobytes())


def native_hello() -> bytes:
    """The first frame of a native stream (sequence 0)."""
    return encode_message(Hello(client="bench"), 0)


def native_frames(count: int) -> list[bytes]:
    """Audio frames 0..count-1 behind a hello; the same for every stream."""
    pcm = tone_pcm()
    return [encode_message(Audio(k * FRAME_SAMPLES, pcm), k + 1) for k in range(count)]


def native_bye(num_audio_frames: int) -> bytes:
    """The last frame."""
    return encode_message(Bye(), num_audio_frames + 1)


def together_append() -> bytes:
    """20 ms of audio in Together's dialect, as a masked WebSocket text frame."""
    audio = base64.b64encode(tone_pcm()).decode()
    message = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    return websocket_frame(TEXT, message.encode())


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    """One final client frame under the zero mask."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
    elif length < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
    return head + bytes(4) + payload


def websocket_request(host: str, port: int, path: str) -> bytes:
    """An opening handshake; the nonce is RFC 6455's own example."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def split_websocket(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Whole unmasked server frames as (opcode, payload), and what is left of the last one."""
    frames: list[tuple[int, bytes]] = []
    start = 0
    while len(data) - start >= 2:
        length = data[start + 1] & 0x7F
        head = 2
        if length == 126:
            head = 4
        elif length == 127:
            head = 10
        if len(data) - start < head:
            break
        if head > 2:
            length = int.from_bytes(data[start + 2 : start + head], "big")
        end = start + head + length
        if end > len(data):
            break
        frames.append((data[start] & 0x0F, data[start + head : end]))
        start = end
    return frames, data[start:]
