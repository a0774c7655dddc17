"""The native protocol as a dialect: protocol.Session behind the seam, plus a fast lane for audio.

Pure. One per native connection, over TCP or Unix bytes or over the binary messages of a WebSocket
(subprotocol earwire.v1): the byte stream is the same, cut differently. Pings are answered here.

The fast lane (`receive_audio`) parses Audio frames in place while nothing unusual is about; the
first frame that is anything else, torn or illegal goes to Session, which alone knows the rules.
With and without it the same bytes give the same samples, intents and errors (a test holds that).
"""

from __future__ import annotations

import struct

from protocol.client_messages import (
    MAX_AUDIO_PAYLOAD_BYTES,
    Ack,
    Audio,
    Bye,
    Error,
    Finalize,
    Hello,
    MessageType,
    Partial,
    Ping,
    Pong,
    Resume,
    ServerMessage,
    encode_message,
)
from protocol.errors import RETRYABLE, ErrorCode
from protocol.framing import CLIENT_MAGIC, HEADER_BYTES, SEQUENCE_MASK, VERSION
from protocol.session import TRANSITIONS, Event, Failed, Role, Session, State

from . import (
    AckIn,
    AnsweredIn,
    AudioIn,
    ByeIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    RelayIn,
    ResumeIn,
    WriteAudio,
)

# An Audio frame's header and its client offset in one go. Magic, version and type are compared as
# one number; flags and the reserved field are ignored, as Session does.
_AUDIO_FRAME = struct.Struct("<I4xIIQ")
_AUDIO_HEAD = CLIENT_MAGIC | VERSION << 16 | MessageType.AUDIO << 24
_PREFIX_BYTES = _AUDIO_FRAME.size - HEADER_BYTES
_FRAME_BYTES = _AUDIO_FRAME.size
_unpack_audio = _AUDIO_FRAME.unpack_from
_TEXT_REFUSED = "a text message came; this protocol sends its frames as binary messages"


class NativeDialect:
    """See gateway.dialects.Dialect."""

    name = "native"

    def __init__(self) -> None:
        self._session = Session(Role.SERVER)
        self._decoder = self._session.decoder
        self._partials = True
        self._failure: FailIn | None = None  # text came where only binary is due
        self._relayed: list[bytes] | None = None  # set while another worker has the session
        # True while the session is active and nothing of the client waits in it. Kept where these
        # change, because asking for them costs the fast lane two calls a frame.
        self._is_lane_open = False

    def receive_data(self, data: bytes | str) -> None:
        """Bytes of the stream; text is an error of the client."""
        self._is_lane_open = False
        if not isinstance(data, str):
            if self._relayed is None:
                self._session.receive_data(data)
            elif data:
                self._relayed.append(data)
        elif self._session.state not in (State.FAILED, State.CLOSED):
            error = Error(code=ErrorCode.BAD_MESSAGE, message=_TEXT_REFUSED)
            self._send(error)
            self._failure = FailIn(error)

    def next_event(self) -> Intent | None:
        """The next intent."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        if self._relayed is not None:
            return RelayIn(self._relayed.pop(0)) if self._relayed else None
        event = self._session.next_event()
        if event is not None:
            return self._intent(event)
        self._is_lane_open = (
            self._session.state is State.ACTIVE and not self._decoder.buffered_bytes
        )
        return None

    def _intent(self, event: Event) -> Intent:
        if isinstance(event, Audio):
            return AudioIn(event.pcm)
        if isinstance(event, Ping):
            self._send(Pong(event.nonce))
            return AnsweredIn()
        if isinstance(event, Finalize):
            return FinalizeIn(event.finalize_id)
        if isinstance(event, Bye):
            return ByeIn()
        if isinstance(event, Ack):
            return AckIn(event.events_received)
        return self._beginning(event)

    def _beginning(self, event: Event) -> Intent:
        if isinstance(event, Hello):
            self._partials = event.partials
            return OpenStream(event)
        if isinstance(event, Resume):
            return ResumeIn(event, self)
        if isinstance(event, Failed):
            return FailIn(
                Error(code=event.code, message=event.message, retryable=event.code in RETRYABLE)
            )
        raise AssertionError(f"Session let {type(event).__name__} pass at the server")

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Events travel as they are, where the state still allows them."""
        if isinstance(event, Partial) and not self._partials:
            return
        self._send(event)

    # ResumingDialect

    def adopt(self, hello: Hello) -> None:
        """The session is here, and this is how it began; Resumed follows."""
        self._partials = hello.partials
        self._session.frame_bytes = hello.audio_format().frame_bytes

    def hand_over(self, resume: Resume) -> bytes:
        """The session is elsewhere: the client's bytes so far, to be parsed there."""
        self._relayed = []
        return encode_message(resume, 0) + self._decoder.take_rest()

    def take_back(self) -> None:
        """Nobody was there, and nothing was said: this side answers after all."""
        self._relayed = None

    def data_to_send(self) -> list[bytes | str]:
        """Frames queued since the last call, as one piece."""
        data = self._session.data_to_send()
        return [data] if data else []

    def receive_audio(self, view: memoryview, size: int, write: WriteAudio, now_ns: int) -> int:
        """Pass the samples of whole, expected Audio frames in `view[:size]` to `write`.

        For ring-format streams only. Returns the bytes consumed; what remains goes to
        `receive_data`. Stops where `write` returns False: that frame was not taken.
        """
        if not self._is_lane_open:
            return 0
        session = self._session
        decoder = self._decoder
        sequence = decoder.next_sequence
        offset = session.next_client_sample
        start = 0
        while start + _FRAME_BYTES < size:
            head, length, frame_sequence, frame_offset = _unpack_audio(view, start)
            end = start + HEADER_BYTES + length
            if (
                head != _AUDIO_HEAD
                or frame_sequence != sequence
                or frame_offset != offset
                or end > size
                or length & 1
                or not _PREFIX_BYTES < length <= MAX_AUDIO_PAYLOAD_BYTES
                or not write(view[start + _FRAME_BYTES : end], now_ns)
            ):
                break
            sequence = (sequence + 1) & SEQUENCE_MASK
            offset += (length - _PREFIX_BYTES) >> 1  # RING_SAMPLE_BYTES
            start = end
        if start:
            decoder.next_sequence = sequence
            session.next_client_sample = offset
        return start

    def _send(self, event: ServerMessage) -> None:
        if self._relayed is not None:
            return  # the other side has the word
        if event.TYPE in TRANSITIONS[self._session.state]:
            self._session.send(event)
            self._is_lane_open = self._is_lane_open and self._session.state is State.ACTIVE
