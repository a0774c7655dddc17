"""Together's /v1/realtime as a dialect: JSON events with base64 audio over a WebSocket.

Pure; see the package for who calls it. It counts the client's samples, names segments, and knows
what this API's clients cannot bear: session.created has to be the first frame, `delta` carries the
whole text of its segment, an `error` makes some of them reconnect, and an echo must be answered
within two seconds, which is why it never waits for recognition.

The shell stores the loop's time in `now_ns` before receive_data, so that echo answers carry times
(the seam's receive_data has no time), and closes the WebSocket with `close_code` and
`close_reason` when `close_code` is set and data_to_send was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from protocol.audio import RING_RATE_HZ, AudioFormat
from protocol.client_messages import (
    DECODE_ERRORS,
    MAX_AUDIO_BYTES,
    Closed,
    EndOfTurn,
    Error,
    Final,
    Hello,
    Partial,
    ServerMessage,
    SpeechStarted,
    Started,
)
from protocol.errors import ErrorCode
from protocol.joined_text import joined

from . import (
    MAX_BAD_MESSAGES,
    AudioIn,
    ByeIn,
    ConfigureIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    WriteAudio,
)
from . import together_events as wire
from .hello_fields import MAX_NAME_CHARS, name_of
from .together_clears import Clears
from .together_turns import TurnEvent, Turns

MAX_OPEN_ITEMS = 16  # segments with deltas whose final is still due
MAX_ECHO_BYTES = 4_096  # larger echo payloads are answered with null
_NANOSECONDS = 1_000_000_000
_NULL = msgspec.Raw(b"null")
_APPEND = "input_audio_buffer.append"

_decoder = msgspec.json.Decoder(wire.ClientMessage)
_update_decoder = msgspec.json.Decoder(wire.SessionUpdate)
_encoder = msgspec.json.Encoder()


class TogetherDialect:
    """One connection's view of the API; `query` is that of the request."""

    name = "together"
    empty_message_ends = False

    def __init__(
        self, query: Mapping[str, list[str]], token: str = "", wall_offset_ns: int = 0
    ) -> None:
        """`wall_offset_ns` makes Unix time of the loop's monotonic time."""
        self.now_ns = 0  # the shell's loop time, see the module text
        self.close_code: int | None = None
        self.close_reason = ""
        self._wall_offset_ns = wall_offset_ns
        self._intents: deque[Intent] = deque()
        self._out: list[bytes | str] = []
        self._num_events = 0
        self._num_bad = 0
        self._ended = False  # nothing of the client is read any more
        self._is_created = False  # session.created was sent
        self._session_id = ""
        self._model = wire.query_value(query, "model")
        self._audio_format = wire.query_value(query, "input_audio_format") or ""
        self._detection = wire.turn_detection_from_query(query)
        self._rate_hz = wire.FORMAT_RATES_HZ.get(self._audio_format, RING_RATE_HZ)
        self._odd = b""  # half a sample, until the next append brings the rest
        self._num_samples = 0  # of the client, at its rate
        self._clears = Clears()
        self._items: dict[int, str] = {}  # utterance -> item_id, while its final is due
        self._num_items = 0
        self._last_item: str | None = None  # the one completed last
        self._turns: Turns | None = None
        self._follow_detection()
        self._open(query, token)

    def receive_data(self, data: bytes | str) -> None:
        """One message: JSON as str; b"" when the client left. Binary frames are refused."""
        if self._ended:
            return
        if isinstance(data, str):
            self._receive_json(data)
        elif data:
            self._refuse("audio travels as base64 in input_audio_buffer.append, not in binary")
        else:
            self._ended = True
            self._intents.append(ByeIn())

    def next_event(self) -> Intent | None:
        """The next intent; OpenStream is there from the start."""
        return self._intents.popleft() if self._intents else None

    def receive_audio(self, text: bytes, write: WriteAudio, now_ns: int) -> bool:
        """The fast lane: pass an append's samples to `write`; False changes nothing.

        For ring-format streams only. ASCII because msgspec does not look at the UTF-8 of what it
        skips; anything but a plain append in a plain state is for `receive_data`.
        """
        if self._odd or self._intents or self._ended or not text.isascii():
            return False
        try:
            message = _decoder.decode(text)
        except DECODE_ERRORS:
            return False
        pcm = message.audio
        if message.type != _APPEND or len(pcm) & 1 or not write(pcm, now_ns):
            return False
        self._num_samples += len(pcm) >> 1
        return True

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Render a stream event; what this API has no word for is dropped."""
        self.now_ns = now_ns
        if self.close_code is not None:
            return  # all is said
        if isinstance(event, Partial):
            self._on_partial(event)
        elif isinstance(event, Final):
            self._on_final(event)
        elif isinstance(event, SpeechStarted | EndOfTurn):
            self._on_turn(event)
        elif isinstance(event, Started):
            self._on_started(event)
        elif isinstance(event, Error):
            self._on_error(event)
        elif isinstance(event, Closed):
            self._close(wire.CLOSE_NORMAL, event.reason)

    def data_to_send(self) -> list[bytes | str]:
        """Take the queued events, each one text message."""
        if not self._out:
            return []
        out, self._out = self._out, []
        return out

    def _open(self, query: Mapping[str, list[str]], token: str) -> None:
        if self._audio_format not in wire.FORMAT_RATES_HZ:
            known = ", ".join(wire.FORMAT_RATES_HZ)
            given = self._audio_format[:MAX_NAME_CHARS] or "none"
            message = f"unsupported format {given!r}: input_audio_format must be one of {known}"
            self._fail(ErrorCode.UNSUPPORTED_FORMAT, message)
            return
        language = wire.query_value(query, "language")
        hello = Hello(
            token=token,
            sample_rate_hz=self._rate_hz,
            language=None if language == "auto" else name_of(language),
            model=name_of(self._model),
            vad=wire.vad_options(self._detection),
            client="together",
        )
        self._intents.append(OpenStream(hello, any_model=True))

    def _receive_json(self, text: str) -> None:
        try:
            message = _decoder.decode(text)
        except DECODE_ERRORS as error:
            self._refuse(f"not a message of this API: {error}")
            return
        kind = message.type
        if kind == _APPEND:
            self._on_append(message.audio)
        elif kind == "input_audio_buffer.commit":
            self._intents.append(FinalizeIn(self._clears.commit()))
        elif kind == "input_audio_buffer.clear":
            self._on_clear()
        elif kind == "echo":
            self._on_echo(message)
        elif kind == "transcription_session.updated":
            self._on_update(message.session)
        # any other type is a later version's, and ignored

    def _on_append(self, audio: bytes) -> None:
        pcm = self._odd + audio if self._odd else audio
        num_samples, half = divmod(len(pcm), 2)
        self._odd = pcm[-1:] if half else b""
        self._num_samples += num_samples
        if len(pcm) <= MAX_AUDIO_BYTES and not half:
            if pcm:
                self._intents.append(AudioIn(pcm))
            return
        view = memoryview(pcm)[: 2 * num_samples]
        for start in range(0, len(view), MAX_AUDIO_BYTES):
            self._intents.append(AudioIn(view[start : start + MAX_AUDIO_BYTES]))

    def _on_clear(self) -> None:
        """End the utterance, and show nothing that was said before this and not committed."""
        self._odd = b""
        at = AudioFormat(sample_rate_hz=self._rate_hz).ring_samples(self._num_samples)
        self._intents.append(FinalizeIn(self._clears.clear(at)))
        if self._turns is not None:
            self._turns.forget()

    def _on_echo(self, message: wire.ClientMessage) -> None:
        now = (self.now_ns + self._wall_offset_ns) / _NANOSECONDS
        self._send(
            wire.EchoResponse(
                event_id=self._event_id(),
                echo_id=_bounded(message.echo_id),
                client_sent_at=_bounded(message.client_sent_at),
                server_received_at=now,
                server_sent_at=now,  # the same loop turn
                payload=_bounded(message.payload),
            )
        )

    def _on_update(self, session: msgspec.Raw) -> None:
        try:
            update = _update_decoder.decode(bytes(session) or b"{}")
        except DECODE_ERRORS as error:
            self._refuse(f"transcription_session.updated: {error}")
            return
        detection = update.turn_detection
        if detection is not msgspec.UNSET:
            off: dict[str, object] = {"type": "none"}
            asked = off if detection is None else detection
            self._detection = wire.turn_detection_of(asked, self._detection)
            self._follow_detection()
            self._intents.append(ConfigureIn(wire.vad_options(self._detection)))
        self._send(wire.SessionUpdated(event_id=self._event_id(), session=self._session()))

    def _follow_detection(self) -> None:
        """Watch the turns of clients that want to hear of them; an open turn goes on."""
        if self._detection is None or not wire.wants_turns(self._detection):
            self._turns = None
            return
        eager = wire.wants_eager_turns(self._detection)
        if self._turns is None:
            self._turns = Turns(eager=eager)
        self._turns.wants_eager = eager

    def _on_started(self, event: Started) -> None:
        self._session_id = event.session_id
        self._model = event.model
        self._send_created()

    def _on_partial(self, event: Partial) -> None:
        if self._clears.hides_drafts:
            return
        text = joined((event.stable, event.volatile))
        item_id = self._items.get(event.utterance)
        if item_id is None:
            if not text:
                return
            if len(self._items) >= MAX_OPEN_ITEMS:
                del self._items[next(iter(self._items))]
            item_id = self._items[event.utterance] = self._new_item()
        start, duration = self._times(event)
        self._send(
            wire.Delta(
                event_id=self._event_id(),
                item_id=item_id,
                delta=text,
                transcript=text,
                start=start,
                duration=duration,
            )
        )

    def _on_final(self, event: Final) -> None:
        item_id = self._items.pop(event.utterance, None)
        if self._clears.hides(event):
            return
        if not event.text and item_id is None and event.finalize_id is None:
            return  # speech without words that nobody was told of
        self._last_item = item_id or self._new_item()
        start, duration = self._times(event)
        self._send(
            wire.Completed(
                event_id=self._event_id(),
                item_id=self._last_item,
                transcript=event.text,
                start=start,
                duration=duration,
            )
        )
        if self._turns is not None:
            self._say_turn(self._turns.on_final(event))

    def _on_turn(self, event: SpeechStarted | EndOfTurn) -> None:
        if self._turns is None:
            return
        if isinstance(event, EndOfTurn):
            for turn in self._turns.on_end(event):
                self._say_turn(turn)
        elif event.start_sample >= self._clears.newest_sample:
            self._say_turn(self._turns.on_speech_started(event))

    def _say_turn(self, turn: TurnEvent | None) -> None:
        if turn is not None:
            self._send(
                wire.TurnEvent(
                    type=wire.TRANSCRIPTION + turn.kind,
                    event_id=self._event_id(),
                    item_id=self._last_item,
                    transcript=turn.transcript,
                )
            )

    def _on_error(self, event: Error) -> None:
        self._ended = True
        self._report_failure(event.code, event.message)

    def _fail(self, code: ErrorCode, message: str) -> None:
        self._ended = True
        self._report_failure(code, message)
        self._intents.append(FailIn(Error(code=code, message=message)))

    def _report_failure(self, code: ErrorCode, message: str) -> None:
        wire_code, kind, close_code = wire.error_fields(code)
        if self._is_created or close_code != wire.CLOSE_RETRY_ELSEWHERE:
            # Before session.created the SDK reads any other frame as a broken server and loses
            # the message; the close code alone it understands. So: created first, or no frame.
            if not self._is_created:
                self._send_created()
            info = wire.ErrorInfo(message=message, type=kind, code=wire_code)
            self._send(wire.Failed(event_id=self._event_id(), error=info))
        self._close(close_code, f"{wire_code}: {message}")

    def _refuse(self, message: str) -> None:
        self._num_bad += 1
        if self._num_bad > MAX_BAD_MESSAGES:
            self._fail(ErrorCode.BAD_MESSAGE, f"too many bad messages; the last: {message}")
            return
        info = wire.ErrorInfo(message=message, type="invalid_request_error", code="bad_message")
        self._send(wire.ErrorReply(event_id=self._event_id(), error=info))

    def _close(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason

    def _send_created(self) -> None:
        self._is_created = True
        self._send(wire.SessionCreated(event_id=self._event_id(), session=self._session()))

    def _session(self) -> wire.SessionObject:
        return wire.session_object(
            self._session_id, self._model, self._audio_format, self._detection
        )

    def _times(self, event: Partial | Final) -> tuple[float, float]:
        zero = self._clears.clock_zero
        start = max(event.start_sample, zero)
        end = max(event.end_sample, start)
        return (start - zero) / RING_RATE_HZ, (end - start) / RING_RATE_HZ

    def _new_item(self) -> str:
        self._num_items += 1
        return f"item_{self._num_items}"

    def _event_id(self) -> str:
        self._num_events += 1
        return f"event_{self._num_events}"

    def _send(self, event: msgspec.Struct) -> None:
        self._out.append(_encoder.encode(event).decode())


def _bounded(raw: msgspec.Raw) -> msgspec.Raw:
    return raw if len(bytes(raw)) <= MAX_ECHO_BYTES else _NULL
