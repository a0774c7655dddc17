"""bench/frames.py: what the generator sends is what the protocols say."""

from __future__ import annotations

import base64
import json

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from bench import frames
from protocol.client_messages import Audio, Hello
from protocol.session import Role, Session, State


def test_native_frames_are_a_legal_stream() -> None:
    server = Session(Role.SERVER)
    server.receive_data(frames.native_hello() + b"".join(frames.native_frames(3)))
    events = []
    while (event := server.next_event()) is not None:
        events.append(event)
        assert server.state is not State.FAILED
    assert isinstance(events[0], Hello)
    offsets = [event.client_offset for event in events[1:] if isinstance(event, Audio)]
    assert offsets == [0, 320, 640]


def websocket_events(*data: bytes) -> list[object]:
    """What websockets makes of a client's bytes."""
    server = ServerProtocol()
    server.receive_data(frames.websocket_request("localhost", 80, frames.TOGETHER_PATH))
    (request,) = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    for piece in data:
        server.receive_data(piece)
    return list(server.events_received())


def test_together_frames_are_websocket_text() -> None:
    (frame,) = websocket_events(frames.together_append())
    assert isinstance(frame, Frame)
    assert frame.opcode is Opcode.TEXT
    message = json.loads(frame.data)
    assert message["type"] == "input_audio_buffer.append"
    assert base64.b64decode(message["audio"]) == frames.tone_pcm()


def test_frames_of_all_lengths() -> None:
    payloads = [b"x" * size for size in (0, 125, 126, 65_535, 65_536)]
    sent = [frames.websocket_frame(frames.BINARY, payload) for payload in payloads]
    got = websocket_events(*sent)
    assert [frame.data for frame in got] == payloads  # type: ignore[attr-defined]


def test_server_frames_are_split_at_any_cut() -> None:
    data = b"\x81\x05hello" + b"\x82\x7e\x00\x80" + b"y" * 128
    for cut in range(len(data)):
        first, rest = frames.split_websocket(data[:cut])
        second, left = frames.split_websocket(rest + data[cut:])
        assert first + second == [(1, b"hello"), (2, b"y" * 128)]
        assert left == b""


def test_long_server_frames() -> None:
    payload = b"z" * 70_000
    data = b"\x82\x7f" + len(payload).to_bytes(8, "big") + payload
    assert frames.split_websocket(data) == ([(2, payload)], b"")
    assert frames.split_websocket(data[:5]) == ([], data[:5])
