"""Fuzz targets of the protocol package: frames, messages, sessions, the arena's header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from gateway.control_messages import SwapModel, decode_request, encode_line
from gateway.dialects import AudioIn, Intent, OpenStream, RelayIn, ResumeIn
from gateway.dialects.native import NativeDialect
from gateway.resume_token import ResumeToken, parse_resume_token
from protocol import client_messages as c
from protocol.errors import RemoteProtocolError
from protocol.framing import CLIENT_MAGIC, SERVICE_MAGIC, Frame, FrameDecoder, encode_frame
from protocol.ring import ArenaLayout
from protocol.service_messages import (
    ServiceMessageType,
    decode_samples,
    decode_service_payload,
    encode_samples,
    encode_service_message,
)
from protocol.session import Event, Role, Session, State
from protocol.supervisor_messages import decode_supervisor_message, encode_supervisor_message
from tests.harness import STARTED
from tests.protocol.examples import CLIENT_MESSAGES, SERVICE_MESSAGES, SUPERVISOR_MESSAGES

from .target import MEDIUM_BYTES, SHORT_BYTES, Script, Target, pieces, script

MAX_LAYOUT_BYTES = 1 << 20
_MAGICS = (CLIENT_MAGIC, SERVICE_MAGIC)
_HELLO = CLIENT_MESSAGES[c.MessageType.HELLO]
_HELLO_AS_RING = c.Hello(resumable=True)
_RESUMED = c.Resumed(session_id="s", client_samples=0, finalizes_received=0, hop_ms=320)

Refusal: TypeAlias = str


# Frames


def run_framing(data: bytes) -> None:
    """Frames and the refusal do not depend on how the bytes were cut."""
    source = Script(data)
    magic, size = source.choice(_MAGICS), 1 + source.byte() % 32
    rest = source.rest()
    whole = _frames(FrameDecoder(magic, 1 << 12), [rest])
    assert whole == _frames(FrameDecoder(magic, 1 << 12), pieces(rest, size))


def _frames(decoder: FrameDecoder, chunks: list[bytes]) -> list[Frame | Refusal]:
    found: list[Frame | Refusal] = []
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            while (frame := decoder.next_frame()) is not None:
                found.append(frame)
    except RemoteProtocolError as error:
        found.append(error.code.value)
    return found


def framing_seeds() -> Iterator[bytes]:
    """Two whole frames of each protocol, and one of a later minor version."""
    for choice, magic in enumerate(_MAGICS):
        frames = b"".join(encode_frame(magic, 2, n, bytes(n * 20)) for n in range(2))
        yield bytes((choice, 7)) + frames
        yield bytes((choice, 1)) + frames[:3] + bytes((0x11,)) + frames[4:]


# Payloads


def run_client_payload(data: bytes) -> None:
    """What decodes encodes again, and means the same."""
    try:
        message = c.decode_payload(data[0] if data else 0, data[1:])
    except RemoteProtocolError:
        return
    if message is not None:
        again = c.decode_payload(message.TYPE, c.encode_payload(message))
        assert again is not None
        assert c.encode_payload(again) == c.encode_payload(message)


def client_payload_seeds() -> Iterator[bytes]:
    """Every message."""
    for type_, message in CLIENT_MESSAGES.items():
        yield bytes((type_,)) + c.encode_payload(message)


def run_service_payload(data: bytes) -> None:
    """The same for the messages between a worker and a service."""
    type_, payload = (data[0] if data else 0), data[1:]
    try:
        if type_ == ServiceMessageType.SAMPLES:
            records = list(decode_samples(payload))
            assert list(decode_samples(encode_samples(records, 0)[16:])) == records
            return
        message = decode_service_payload(type_, payload)
    except RemoteProtocolError:
        return
    if message is not None:
        frame = encode_service_message(message, 0)
        again = decode_service_payload(type_, frame[16:])
        assert again is not None
        assert encode_service_message(again, 0) == frame


def service_payload_seeds() -> Iterator[bytes]:
    """Every message, and audio."""
    for type_, message in SERVICE_MESSAGES.items():
        yield bytes((type_,)) + encode_service_message(message, 0)[16:]
    yield bytes((ServiceMessageType.SAMPLES,)) + bytes(range(64))


def run_supervisor(data: bytes) -> None:
    """The same for the parent's datagrams."""
    try:
        message = decode_supervisor_message(data)
    except msgspec.DecodeError:
        return
    encoded = encode_supervisor_message(message)
    assert encode_supervisor_message(decode_supervisor_message(encoded)) == encoded


def supervisor_seeds() -> Iterator[bytes]:
    """Every message."""
    for message in SUPERVISOR_MESSAGES:
        yield encode_supervisor_message(message)


def run_control(data: bytes) -> None:
    """A line of the control socket is a request that comes back, or is answered."""
    request = decode_request(data)
    if isinstance(request, SwapModel):
        assert decode_request(encode_line(request)) == request


def control_seeds() -> Iterator[bytes]:
    """One request with everything in it."""
    yield encode_line(SwapModel("tiny.en", "parakeet"))


# Sessions


def run_session(data: bytes) -> None:
    """Either end of a connection: the events do not depend on how the bytes were cut."""
    source = Script(data)
    role, size = source.choice((Role.SERVER, Role.CLIENT)), 1 + source.byte() % 64
    rest = source.rest()
    whole = _session_events(role, [rest])
    assert whole == _session_events(role, pieces(rest, size))


def _session_events(role: Role, chunks: list[bytes]) -> list[Event]:
    session = Session(role)
    if role is Role.CLIENT:
        session.send(_HELLO)
    events: list[Event] = []
    for chunk in [*chunks, b""]:
        session.receive_data(chunk)
        while (event := session.next_event()) is not None:
            events.append(event)
            if role is Role.SERVER and session.state is State.AWAIT_STARTED:
                session.send(STARTED)
            elif role is Role.SERVER and session.state is State.AWAIT_RESUMED:
                session.send(_RESUMED)
    session.data_to_send()
    return events


def session_seeds() -> Iterator[bytes]:
    """A whole conversation, seen from either end."""
    for role, types in (
        (0, [_M.HELLO, _M.PING, _M.FINALIZE, _M.BYE, _M.ACK]),
        (0, [_M.RESUME, _M.PING, _M.ACK, _M.FINALIZE, _M.BYE, _M.ACK]),
        (1, [_M.STARTED, *(t for t in c.FROM_SERVER if t is not _M.STARTED)]),
    ):
        frames = [c.encode_message(CLIENT_MESSAGES[t], n) for n, t in enumerate(types)]
        yield bytes((role, 31)) + b"".join(frames)
    audio = [c.Hello(), c.Audio(0, bytes(320)), c.Audio(80, bytes(320)), c.Finalize(), c.Bye()]
    yield bytes((0, 63)) + b"".join(c.encode_message(m, n) for n, m in enumerate(audio))


_M = c.MessageType


def run_native(data: bytes) -> None:
    """The fast lane for audio of the ring's format changes nothing: same samples, intents and
    answers.
    """
    source = Script(data)
    size = 1 + source.byte()
    chunks = pieces(source.rest(), size)
    assert _native_life(chunks, with_lane=True) == _native_life(chunks, with_lane=False)


def _native_life(
    chunks: list[bytes], *, with_lane: bool
) -> tuple[bytes, list[Intent | c.Resume], bytes]:
    dialect = NativeDialect()
    audio = bytearray()
    intents: list[Intent | c.Resume] = []
    out = b""
    has_ring_format = False  # the lane is for no other

    def write(pcm: bytes | memoryview, now_ns: int) -> bool:
        audio.extend(pcm)
        return True

    for chunk in [*chunks, b""]:
        taken = 0
        if with_lane and chunk and has_ring_format:
            taken = dialect.receive_audio(memoryview(chunk), len(chunk), write, 0)
        if taken < len(chunk) or not chunk:
            dialect.receive_data(chunk[taken:])
        while (intent := dialect.next_event()) is not None:
            if isinstance(intent, AudioIn):
                audio += intent.pcm
                continue
            intents.append(intent.resume if isinstance(intent, ResumeIn) else intent)
            has_ring_format |= _has_ring_format(intent)
            _begin(dialect, intent)
        out += b"".join(piece for piece in dialect.data_to_send() if isinstance(piece, bytes))
    return bytes(audio), intents, out


def _has_ring_format(intent: Intent) -> bool:
    """Whether a stream begins with it that is of the ring's format."""
    if isinstance(intent, OpenStream):
        return intent.hello.audio_format().is_ring_format
    return isinstance(intent, ResumeIn)


def _begin(dialect: NativeDialect, intent: Intent) -> None:
    """As a gateway answers that lets everybody in."""
    if isinstance(intent, OpenStream):
        dialect.handle_event(STARTED, 0)
    elif isinstance(intent, ResumeIn):
        dialect.adopt(_HELLO_AS_RING)
        dialect.handle_event(_RESUMED, 0)


def run_relayed(data: bytes) -> None:
    """A worker that passes on what it does not parse loses no byte and adds none, and the other
    one sees what it would have seen itself.
    """
    source = Script(data)
    size = 1 + source.byte()
    chunks = pieces(source.rest(), size)
    first, passed_on = NativeDialect(), b""
    for chunk in chunks:
        first.receive_data(chunk)
        while (intent := first.next_event()) is not None:
            if isinstance(intent, ResumeIn):
                passed_on += intent.dialect.hand_over(intent.resume)
            elif isinstance(intent, RelayIn):
                passed_on += intent.data
    if passed_on:
        direct, relayed = Session(Role.SERVER), Session(Role.SERVER)
        direct.receive_data(data[1:])
        relayed.receive_data(passed_on)
        assert direct.next_event() == relayed.next_event()
        assert direct.decoder.take_rest() == relayed.decoder.take_rest()


def native_seeds() -> Iterator[bytes]:
    """A conversation of a client."""
    for seed in session_seeds():
        if seed[0] == 0:
            yield seed[1:]


def run_resume_token(data: bytes) -> None:
    """Any text is a token that reads the same again, or none."""
    text = data.decode("utf-8", "replace")
    token = parse_resume_token(text)
    assert token is None or token.text == text


def resume_token_seeds() -> Iterator[bytes]:
    """One, and one with a part too many."""
    text = ResumeToken(3, "3a41f09-1c", bytes(range(16))).text
    yield text.encode()
    yield text.encode() + b".00"


# The arena


def run_arena(data: bytes) -> None:
    """A header that is believed describes rings that lie in the view."""
    source = Script(data)
    size = min(MAX_LAYOUT_BYTES, int.from_bytes(source.chunk()[:4], "little"))
    view = memoryview(bytearray(source.chunk().ljust(size, b"\0")))
    try:
        layout = ArenaLayout.from_header(view)
    except ValueError:
        return
    assert layout.size_bytes <= len(view)
    pcm = source.chunk()
    for slot in (0, layout.num_slots - 1):
        ring = layout.ring(view, slot)
        assert ring.num_samples == layout.ring_samples
        first = int.from_bytes(source.chunk()[:8], "little")
        fitting = pcm[: 2 * (min(len(pcm) // 2, ring.num_samples))]
        ring.write(first, fitting)
        assert ring.read(first, len(fitting) // 2) == fitting


def arena_seeds() -> Iterator[bytes]:
    """An arena of two slots, in a view of its size, and in one that is too small."""
    header = bytearray(64)
    layout = ArenaLayout(2, 1_000)
    layout.write_header(memoryview(header))
    first = (990).to_bytes(8, "little")
    for size in (layout.size_bytes, layout.size_bytes - 1):
        yield script(size.to_bytes(4, "little"), bytes(header), bytes(range(64)), first, first)


TARGETS = (
    Target("framing", run_framing, framing_seeds),
    Target("client_payload", run_client_payload, client_payload_seeds),
    Target("service_payload", run_service_payload, service_payload_seeds),
    Target("supervisor", run_supervisor, supervisor_seeds),
    Target("control", run_control, control_seeds),
    Target("session", run_session, session_seeds, MEDIUM_BYTES),
    Target("native", run_native, native_seeds, SHORT_BYTES),
    Target("relayed", run_relayed, native_seeds, SHORT_BYTES),
    Target("resume_token", run_resume_token, resume_token_seeds),
    Target("arena", run_arena, arena_seeds),
)
