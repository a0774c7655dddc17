"""One native connection as a state machine: bytes in, messages out, no socket and no clock.

Both ends use this class, each with its own role. Legality is the TRANSITIONS table and nothing
else: a message whose type is not in the row of the present state is a protocol error, sent or
received. docs/PROTOCOL.md shows the diagram drawn from it.

The parser never raises into the loop. When the peer breaks the protocol, `next_event` returns a
Failed event once, the state is FAILED, and at the server an Error message for the client is
already queued. An illegal *send* is this side's bug and raises LocalProtocolError.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from .client_messages import (
    AUDIO_PREFIX,
    FROM_CLIENT,
    FROM_SERVER,
    MAX_AUDIO_PAYLOAD_BYTES,
    MAX_EVENT_BYTES,
    Audio,
    Error,
    Hello,
    Message,
    MessageType,
    Resume,
    Resumed,
    decode_payload,
    encode_payload,
)
from .errors import RETRYABLE, ErrorCode, LocalProtocolError, RemoteProtocolError
from .framing import CLIENT_MAGIC, MINOR, SEQUENCE_MASK, Frame, FrameDecoder, encode_frame


class Role(Enum):
    """Which end of the connection this is."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """Where the connection stands; the same at both ends, give or take the flight time."""

    AWAIT_HELLO = "await hello"
    AWAIT_STARTED = "await started"
    AWAIT_RESUMED = "await resumed"
    ACTIVE = "active"
    ENDING = "ending"  # bye was said: no more audio, results still come
    CLOSED = "closed"
    FAILED = "failed"


_M = MessageType
_RESULTS = (
    _M.WATERMARK, _M.SPEECH_STARTED, _M.SPEECH_STOPPED, _M.NON_SPEECH, _M.PARTIAL, _M.FINAL,
    _M.OVERFLOW, _M.PONG, _M.LATENCY, _M.END_OF_TURN,
)  # fmt: skip

TRANSITIONS: dict[State, dict[MessageType, State]] = {
    State.AWAIT_HELLO: {
        _M.HELLO: State.AWAIT_STARTED,
        _M.RESUME: State.AWAIT_RESUMED,
        _M.ERROR: State.FAILED,
    },
    State.AWAIT_STARTED: {
        _M.STARTED: State.ACTIVE,
        _M.ERROR: State.FAILED,
        # A client need not wait for Started before it speaks: that would cost a round trip.
        _M.AUDIO: State.AWAIT_STARTED,
        _M.FINALIZE: State.AWAIT_STARTED,
        _M.PING: State.AWAIT_STARTED,
        _M.PONG: State.AWAIT_STARTED,
    },
    State.AWAIT_RESUMED: {
        _M.RESUMED: State.ACTIVE,  # ENDING, if it says that bye was received
        _M.ERROR: State.FAILED,
        _M.PING: State.AWAIT_RESUMED,
        _M.PONG: State.AWAIT_RESUMED,
    },
    State.ACTIVE: {
        _M.AUDIO: State.ACTIVE,
        _M.FINALIZE: State.ACTIVE,
        _M.PING: State.ACTIVE,
        _M.ACK: State.ACTIVE,
        _M.BYE: State.ENDING,
        **dict.fromkeys(_RESULTS, State.ACTIVE),
        _M.CLOSED: State.CLOSED,
        _M.ERROR: State.FAILED,
    },
    State.ENDING: {
        _M.PING: State.ENDING,
        _M.ACK: State.ENDING,
        **dict.fromkeys(_RESULTS, State.ENDING),
        _M.CLOSED: State.CLOSED,
        _M.ERROR: State.FAILED,
    },
    # A client acknowledges the last events, too.
    State.CLOSED: {_M.ACK: State.CLOSED},
    # The close record still follows an Error.
    State.FAILED: {_M.CLOSED: State.CLOSED, _M.ACK: State.FAILED},
}


@dataclass(frozen=True, slots=True)
class Failed:
    """The peer broke the protocol, or the connection ended in the middle of a frame."""

    code: ErrorCode
    message: str


Event: TypeAlias = Message | Failed


class Session:
    """receive_data / next_event on one side, send / data_to_send on the other.

    At the server `next_client_sample` is the client offset the next Audio must begin at; audio
    below it is dropped (it was taken before), audio above it is an AUDIO_GAP error. Resumed sets
    it at both ends; `frame_bytes` of a resumed session is set by whoever knows its format.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.AWAIT_HELLO
        self.next_client_sample = 0
        self.frame_bytes = 2  # bytes of one client sample over all channels; Hello sets it
        longest = MAX_AUDIO_PAYLOAD_BYTES if role is Role.SERVER else MAX_EVENT_BYTES
        self._decoder = FrameDecoder(CLIENT_MAGIC, longest)
        self._receivable = FROM_CLIENT if role is Role.SERVER else FROM_SERVER
        self._out: list[bytes] = []
        self._next_sequence = 0
        self._eof = False
        self._broken = False  # the peer's bytes make no sense any more
        self._is_resumable = False  # acknowledgements may follow the last message

    # Receiving

    @property
    def decoder(self) -> FrameDecoder:
        """The frame decoder: a shell with a fast lane for audio keeps its sequence in step."""
        return self._decoder

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store bytes from the peer; b"" says that it will send no more."""
        if not data:
            self._eof = True
        elif not self._is_deaf:
            self._decoder.receive_data(data)

    def next_event(self) -> Event | None:
        """The next message or Failed; None when more bytes are needed. Never raises for input."""
        if self._is_deaf:
            return None
        try:
            return self._next_message()
        except RemoteProtocolError as error:
            return self._fail(error.code, error.message)

    @property
    def _is_deaf(self) -> bool:
        """Nothing the peer sends matters any more, so none of it is kept."""
        is_over = self.state is State.CLOSED or self._ignores_all_but_acks
        return self._broken or (is_over and not self._awaits_acks)

    @property
    def _ignores_all_but_acks(self) -> bool:
        """What a client sent before it could read the server's last words is no mistake of it."""
        return self.role is Role.SERVER and self.state in (State.FAILED, State.CLOSED)

    @property
    def _awaits_acks(self) -> bool:
        return self.role is Role.SERVER and self._is_resumable

    def _next_message(self) -> Message | None:
        while (frame := self._decoder.next_frame()) is not None:
            message = self._accept(frame)
            if message is not None:
                return message
        if self._eof and self._decoder.buffered_bytes:
            raise RemoteProtocolError(
                ErrorCode.BAD_FRAME, "the connection ended in the middle of a frame"
            )
        return None

    def _accept(self, frame: Frame) -> Message | None:
        if frame.type not in self._receivable:
            if frame.minor > MINOR:
                return None  # something a newer minor version added: not for us
            raise RemoteProtocolError(
                ErrorCode.UNKNOWN_TYPE, f"message type 0x{frame.type:02x} means nothing here"
            )
        type_ = MessageType(frame.type)
        if self._ignores_all_but_acks and type_ is not MessageType.ACK:
            return None
        new_state = TRANSITIONS[self.state].get(type_)
        if new_state is None:
            raise RemoteProtocolError(
                ErrorCode.UNEXPECTED_MESSAGE,
                f"{type_.name.lower()} is not allowed in state {self.state.value!r}",
            )
        message = decode_payload(type_, frame.payload)
        assert message is not None  # every MessageType has a decoder
        if isinstance(message, Hello):
            self.frame_bytes = message.audio_format().frame_bytes
        elif isinstance(message, Audio):
            message = self.check_audio(message)
        self.state = self._settled(message, new_state)
        return message

    def _settled(self, message: Message | None, new_state: State) -> State:
        """What a resumable session remembers of a message; the state behind it."""
        if isinstance(message, Resume) or (isinstance(message, Hello) and message.resumable):
            self._is_resumable = True
        elif isinstance(message, Resumed):
            self.next_client_sample = message.client_samples
            return State.ENDING if message.bye_received else new_state
        return new_state

    def check_audio(self, audio: Audio) -> Audio | None:
        """Hold an Audio message to the offset contract; None when all of it is a repetition.

        Raises RemoteProtocolError for torn samples or a gap.
        """
        num_samples, torn = divmod(len(audio.pcm), self.frame_bytes)
        if torn:
            raise RemoteProtocolError(
                ErrorCode.BAD_MESSAGE,
                f"{len(audio.pcm)} audio bytes are not whole samples of {self.frame_bytes}",
            )
        ahead = audio.client_offset - self.next_client_sample
        if ahead > 0:
            raise RemoteProtocolError(
                ErrorCode.AUDIO_GAP,
                f"audio at client sample {audio.client_offset}, "
                f"{self.next_client_sample} was due: {ahead} samples are missing",
            )
        if -ahead >= num_samples:
            return None
        self.next_client_sample = audio.client_offset + num_samples
        if ahead == 0:
            return audio
        return Audio(audio.client_offset - ahead, audio.pcm[-ahead * self.frame_bytes :])

    def _fail(self, code: ErrorCode, message: str) -> Failed | None:
        self._broken = True
        if self._ignores_all_but_acks:
            return None
        if self.role is Role.SERVER:
            self.send(Error(code=code, message=message, retryable=code in RETRYABLE))
        self.state = State.FAILED
        return Failed(code, message)

    # Sending

    def send(self, message: Message) -> None:
        """Queue a message; raises LocalProtocolError when the state does not allow it."""
        if message.TYPE in self._receivable:
            raise LocalProtocolError(f"{message.TYPE.name} is the other side's to send")
        new_state = TRANSITIONS[self.state].get(message.TYPE)
        if new_state is None:
            raise LocalProtocolError(f"{message.TYPE.name} in state {self.state.value!r}")
        if isinstance(message, Hello):
            self.frame_bytes = self._declared_frame_bytes(message)
        self._queue(message.TYPE, encode_payload(message))
        self.state = self._settled(message, new_state)

    @staticmethod
    def _declared_frame_bytes(hello: Hello) -> int:
        try:
            return hello.audio_format().frame_bytes
        except RemoteProtocolError as error:
            raise LocalProtocolError(error.message) from None

    def send_audio(self, pcm: bytes) -> None:
        """Queue whole client samples at the running offset (client role)."""
        if len(pcm) % self.frame_bytes:
            raise LocalProtocolError(f"{len(pcm)} bytes are not whole samples")
        limit = (MAX_AUDIO_PAYLOAD_BYTES - AUDIO_PREFIX.size) // self.frame_bytes * self.frame_bytes
        for start in range(0, len(pcm), limit):
            piece = pcm[start : start + limit]
            self.send(Audio(self.next_client_sample, piece))
            self.next_client_sample += len(piece) // self.frame_bytes

    def _queue(self, type_: int, payload: bytes) -> None:
        self._out.append(encode_frame(CLIENT_MAGIC, type_, self._next_sequence, payload))
        self._next_sequence = (self._next_sequence + 1) & SEQUENCE_MASK

    def data_to_send(self) -> bytes:
        """Take everything queued so far."""
        out, self._out = self._out, []
        return b"".join(out)
