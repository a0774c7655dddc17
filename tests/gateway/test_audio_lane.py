"""The fast lanes of Together's and Deepgram's audio equal the slow way: any frames, split anywhere.

What native's own lane does with its frames is in dialects/test_native.py.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from gateway.dialects import AudioIn, Dialect, FinalizeIn, Intent, OpenStream
from gateway.routes import ServerStatus
from gateway.transport import EmptyMessage, InputEnded, Upgraded
from gateway.web_port import WebPort
from gateway.web_transport import WebTransport
from protocol.client_messages import Closed, Final
from tests.harness import STARTED

REQUEST = (
    b"GET /v1/realtime?input_audio_format=pcm_s16le_16000 HTTP/1.1\r\nHost: localhost\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LISTEN = REQUEST.replace(
    b"/v1/realtime?input_audio_format=pcm_s16le_16000",
    b"/v1/listen?encoding=linear16&sample_rate=16000",
)
MASK = bytes((0x5A, 0x00, 0xFF, 0x13))
NO_LIMIT = 1 << 40


def no_status() -> ServerStatus:
    raise AssertionError("no HTTP route is asked for")


def frame(
    payload: bytes, first: int = 0x80 | Opcode.TEXT, length_bytes: int | None = None
) -> bytes:
    """A masked frame; `length_bytes` (0, 2, 8) chooses how its length is written."""
    length = len(payload)
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2
    code = {0: length, 2: 126, 8: 127}[length_bytes]
    head = bytes((first, 0x80 | code))
    if length_bytes:
        head += length.to_bytes(length_bytes, "big")
    return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))


def message(type_: str, **fields: object) -> bytes:
    return json.dumps({"type": type_, **fields}).encode()


def append(num_bytes: int) -> bytes:
    pcm = bytes((num_bytes + i) % 251 for i in range(num_bytes))
    return message("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())


def fragmented(payload: bytes) -> bytes:
    half = len(payload) // 2
    return frame(payload[:half], Opcode.TEXT) + frame(payload[half:], 0x80 | Opcode.CONT)


def with_note(num_bytes: int, note: bytes) -> bytes:
    """An append with a key that nobody reads, which may be no UTF-8."""
    return append(num_bytes)[:-1] + b', "note": "' + note + b'"}'


MAKERS: dict[str, Callable[[int], bytes]] = {
    "append": lambda n: frame(append(n & ~1)),
    "append of any length": lambda n: frame(append(n)),
    "append with a long header": lambda n: frame(append(n & ~1), length_bytes=8),
    "append with a middle header": lambda n: frame(append(n & ~1), length_bytes=2),
    "append in fragments": lambda n: fragmented(append(n & ~1)),
    "begin of fragments": lambda n: frame(append(n & ~1), Opcode.TEXT),
    "append in a binary frame": lambda n: frame(append(n), 0x80 | Opcode.BINARY),
    "append with a reserved bit": lambda n: frame(append(n), 0xC0 | Opcode.TEXT),
    "append in other letters": lambda n: frame(with_note(n & ~1, "ü".encode())),
    "append that is no UTF-8": lambda n: frame(with_note(n & ~1, b"\xff")),
    "append that is no base64": lambda n: frame(append(n & ~1).replace(b'": "', b'": "?')),
    "append that is no JSON": lambda n: frame(append(n)[:-1]),
    "commit": lambda n: frame(message("input_audio_buffer.commit", pad="x" * n)),
    "clear": lambda n: frame(message("input_audio_buffer.clear")),
    "echo": lambda n: frame(message("echo", echo_id=n, payload="x" * n)),
    "another type": lambda n: frame(message("later", audio="AAAA" * n)),
    "ping": lambda n: frame(b"x" * (n % 125), 0x80 | Opcode.PING),
    "close": lambda n: frame(struct.pack("!H", 1000), 0x80 | Opcode.CLOSE),
}
USUAL = ("append", "append of any length", "commit", "ping")
FRAMES = st.builds(
    lambda name, number: MAKERS[name](number),
    st.one_of(st.sampled_from(USUAL), st.sampled_from(sorted(MAKERS))),
    st.integers(0, 700),
)


LISTEN_MAKERS: dict[str, Callable[[int], bytes]] = {
    "audio": lambda n: frame(bytes(i % 251 for i in range(2 * n)), 0x80 | Opcode.BINARY),
    "audio of any length": lambda n: frame(bytes(n), 0x80 | Opcode.BINARY),
    "audio in fragments": lambda n: (
        frame(bytes(n), Opcode.BINARY) + frame(bytes(n), 0x80 | Opcode.CONT)
    ),
    "audio in a text frame": lambda n: frame(b"a" * n),
    "begin of fragments": lambda n: frame(bytes(n), Opcode.BINARY),
    "keep alive": lambda n: frame(message("KeepAlive", pad="x" * n)),
    "finalize": lambda n: frame(message("Finalize", pad="x" * n)),
    "close stream": lambda n: frame(message("CloseStream", pad="x" * n)),
    "ping": lambda n: frame(b"x" * (n % 125), 0x80 | Opcode.PING),
    "close": lambda n: frame(struct.pack("!H", 1000), 0x80 | Opcode.CLOSE),
}
LISTEN_FRAMES = st.builds(
    lambda name, number: LISTEN_MAKERS[name](number),
    st.one_of(st.just("audio"), st.sampled_from(sorted(LISTEN_MAKERS))),
    st.integers(0, 700),
)


class Receiver:
    """The shell's reading side, with or without the lane."""

    last_message = MAKERS["clear"](0)

    def __init__(self, fast: bool, room_samples: int = NO_LIMIT, request: bytes = REQUEST) -> None:
        self.fast = fast
        self.room_samples = room_samples
        self.transport = WebTransport(WebPort(no_status))
        self.dialect: Dialect | None = None
        self.pcm = b""
        self.fast_appends = 0
        self.others: list[tuple[int, Intent | InputEnded]] = []  # (samples before it, what)
        self.behind = MAKERS["append"](320) + LISTEN_MAKERS["audio"](160)
        self.receive(request)
        self.transport.data_to_send()  # the handshake's answer: it names the time of day

    def write(self, pcm: bytes | memoryview, now_ns: int) -> bool:
        if not pcm or len(pcm) // 2 > self.room_samples:
            return False
        self.room_samples -= len(pcm) // 2
        self.pcm += pcm
        self.fast_appends += 1
        return True

    def receive(self, data: bytes) -> None:
        view = memoryview(data)
        lane = self.transport.audio_lane() if self.fast else None
        if lane is not None:
            # A receive buffer is longer than what is in it: what lies behind must not be read.
            view = view[lane(memoryview(data + self.behind), len(data), self.write, 1) :]
        if view:
            self.transport.receive_data(view, 1)
        self._pump()

    def _pump(self) -> None:
        while (event := self.transport.next_event()) is not None:
            if isinstance(event, Upgraded):
                self.dialect = event.dialect
            elif isinstance(event, InputEnded):
                self._note(event)
            elif not isinstance(event, EmptyMessage):
                assert self.dialect is not None
                self.dialect.receive_data(event)
            self._take_intents()

    def _take_intents(self) -> None:
        assert self.dialect is not None
        while (intent := self.dialect.next_event()) is not None:
            if isinstance(intent, AudioIn):
                self.pcm += intent.pcm
            elif isinstance(intent, OpenStream):
                self.dialect.handle_event(STARTED, 1)
            else:
                self._note(intent)

    def _note(self, what: Intent | InputEnded) -> None:
        self.others.append((len(self.pcm) // 2, what))

    def outcome(self) -> tuple[object, ...]:
        """Everything seen outside, with the client's audio clock after a clear."""
        self.receive(self.last_message)
        assert self.dialect is not None
        for _, what in self.others:
            if isinstance(what, FinalizeIn):
                self.dialect.handle_event(final(what.finalize_id), 1)
        self.dialect.handle_event(final(None), 1)
        for item in self.dialect.data_to_send():
            self.transport.send(item)
        return self.pcm, self.others, self.transport.data_to_send(), self.transport.should_close


class Listener(Receiver):
    """The same at Deepgram's path, whose last words have a digest of all audio."""

    last_message = LISTEN_MAKERS["close stream"](0)

    def __init__(self, fast: bool, room_samples: int = NO_LIMIT) -> None:
        super().__init__(fast, room_samples, LISTEN)

    def outcome(self) -> tuple[object, ...]:
        """With Metadata."""
        pcm, *others = super().outcome()
        assert self.dialect is not None
        samples = len(self.pcm) // 2
        record = Closed(
            reason="client", client_samples=samples, socket_samples=samples, ring_samples=samples,
            engine_samples=samples,
        )  # fmt: skip
        self.dialect.handle_event(record, 1)
        return pcm, *others, self.dialect.data_to_send()


def final(finalize_id: int | None) -> Final:
    return Final(
        audio_received=1, audio_decoded=1, utterance=1, start_sample=10**9, end_sample=10**9,
        text="x", finalize_id=finalize_id,
    )  # fmt: skip


def both(
    pieces: list[bytes], room_samples: int = NO_LIMIT, kind: type[Receiver] = Receiver
) -> Receiver:
    """Feed the pieces to both receivers; they must agree. Returns the fast one."""
    fast, slow = kind(True, room_samples), kind(False)
    for piece in pieces:
        fast.receive(piece)
        slow.receive(piece)
    assert fast.outcome() == slow.outcome()
    return fast


@settings(max_examples=200, deadline=None)
@given(
    frames=st.lists(FRAMES, max_size=12),
    cuts=st.lists(st.integers(0, 6_000), max_size=12),
    at_frames=st.booleans(),
    room_samples=st.one_of(st.integers(0, 2_000), st.just(NO_LIMIT)),
)
def test_any_frames_split_anywhere(
    frames: list[bytes], cuts: list[int], at_frames: bool, room_samples: int
) -> None:
    if at_frames:
        both(frames, room_samples)
        return
    data = b"".join(frames)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(data)}), len(data)]
    both([data[a:b] for a, b in pairwise(edges) if a < b], room_samples)


@settings(max_examples=150, deadline=None)
@given(
    frames=st.lists(LISTEN_FRAMES, max_size=12),
    cuts=st.lists(st.integers(0, 6_000), max_size=12),
    at_frames=st.booleans(),
    room_samples=st.one_of(st.integers(0, 2_000), st.just(NO_LIMIT)),
)
def test_any_binary_frames_split_anywhere(
    frames: list[bytes], cuts: list[int], at_frames: bool, room_samples: int
) -> None:
    if at_frames:
        both(frames, room_samples, Listener)
        return
    data = b"".join(frames)
    edges = [0, *sorted({c for c in cuts if 0 < c < len(data)}), len(data)]
    both([data[a:b] for a, b in pairwise(edges) if a < b], room_samples, Listener)


def test_whole_binary_messages_take_the_lane_and_others_do_not() -> None:
    usual, odd = LISTEN_MAKERS["audio"](320), LISTEN_MAKERS["audio of any length"](641)
    assert both([usual, usual + usual, usual[:9], usual[9:]], kind=Listener).fast_appends == 3
    assert both([usual, odd, usual, odd, usual], kind=Listener).fast_appends == 2
    keep_alive = LISTEN_MAKERS["keep alive"](9)
    assert both([usual + keep_alive + usual, usual], kind=Listener).fast_appends == 2


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 4_000), value=st.integers(0, 255), in_frames=st.booleans())
def test_damaged_bytes(at: int, value: int, in_frames: bool) -> None:
    frames = [bytearray(MAKERS["append"](n)) for n in (640, 200, 640)]
    damaged = frames[at % 3]
    damaged[at // 3 % len(damaged)] = value
    pieces = [bytes(piece) for piece in frames]
    both(pieces if in_frames else [b"".join(pieces)])


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("number", [0, 1, 2, 125, 641])
def test_one_byte_at_a_time(name: str, number: int) -> None:
    data = MAKERS["append"](640) + MAKERS[name](number) + MAKERS["append"](320)
    both([data[i : i + 1] for i in range(len(data))])
    both([data])


def test_whole_appends_take_the_lane_and_others_do_not() -> None:
    usual, odd = MAKERS["append"](640), MAKERS["append of any length"](641)
    assert both([usual, usual + usual, usual[:9], usual[9:]]).fast_appends == 3
    assert both([usual, odd, usual, odd, usual]).fast_appends == 2, "half a sample waits"
    assert both([usual, MAKERS["append in other letters"](640)]).fast_appends == 1
    assert both([usual + MAKERS["ping"](5) + usual, usual]).fast_appends == 2


def test_a_frame_inside_a_torn_frame_is_none() -> None:
    inner = MAKERS["append"](640)
    outer = frame(bytes(byte ^ MASK[i % 4] for i, byte in enumerate(inner)))
    assert outer.endswith(inner)
    both([MAKERS["append"](640), outer[: -len(inner)], inner])


def test_what_lies_behind_the_received_bytes_is_not_read() -> None:
    receiver, data = Receiver(True), MAKERS["append"](640)
    lane = receiver.transport.audio_lane()
    assert lane is not None
    assert lane(memoryview(data), len(data) - 1, receiver.write, 1) == 0
    assert lane(memoryview(data), len(data), receiver.write, 1) == len(data)


def test_a_message_between_fragments_is_no_audio() -> None:
    usual = MAKERS["append"](640)
    assert both([usual, MAKERS["begin of fragments"](640), usual]).fast_appends == 1


def test_native_over_websocket_has_no_lane() -> None:
    transport = WebTransport(WebPort(no_status))
    assert transport.audio_lane() is None
    transport.receive_data(memoryview(REQUEST.replace(b"/v1/realtime", b"/v1/stream")), 1)
    assert isinstance(transport.next_event(), Upgraded)
    assert transport.audio_lane() is None
