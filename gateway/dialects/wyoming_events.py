"""The Wyoming protocol's frames and events as data, and its bytes as events.

Pure. One event is a line of JSON, then as many bytes of JSON and of payload as the line says:

    {"type": "audio-chunk", "data_length": 58, "payload_length": 640}\\n
    {"rate": 16000, "width": 2, "channels": 1}<640 bytes of PCM>

`data` may also stand in the line; what comes behind it goes over it. EventReader cuts a stream of
bytes into events, whatever the pieces they come in; encode_event is the way back. wyoming.py, the
only caller, knows what the events mean.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.client_messages import DECODE_ERRORS

VERSION = "1.10.2"  # of the protocol, as its Python package counts
MAX_LINE_BYTES = 64 * 1024
MAX_DATA_BYTES = 256 * 1024  # Home Assistant may name everything it knows by name
MAX_PAYLOAD_BYTES = 1024 * 1024  # half a minute at 16 kHz


class Event(msgspec.Struct, frozen=True):
    """One event of a client."""

    type: str
    data: dict[str, Any]
    payload: bytes


class Failure(msgspec.Struct, frozen=True):
    """These bytes are not this protocol; nothing can be read behind them."""

    message: str


class _Line(msgspec.Struct, kw_only=True):
    type: str
    data: dict[str, Any] | None = None
    data_length: int | None = None
    payload_length: int | None = None


class Transcribe(msgspec.Struct, kw_only=True):
    """What the next audio is, and what is likely to be said in it."""

    name: str | None = None  # of a model
    language: str | None = None
    transcript_names: list[str] | None = None
    transcript_terms: list[str] | None = None


class AudioFormat(msgspec.Struct, kw_only=True, frozen=True):
    """Of audio-start and audio-chunk."""

    rate: int  # Hz
    width: int  # bytes
    channels: int


class Attribution(msgspec.Struct, kw_only=True):
    """Who made it; all fields are there for every client."""

    name: str
    url: str = ""


class AsrModel(msgspec.Struct, kw_only=True):
    """A model; Home Assistant offers it for its languages only."""

    name: str
    attribution: Attribution
    languages: tuple[str, ...]
    installed: bool = True
    description: str | None = None
    version: str | None = None


class AsrProgram(msgspec.Struct, kw_only=True):
    """What this server is to a voice assistant."""

    name: str
    attribution: Attribution
    models: tuple[AsrModel, ...]
    installed: bool = True
    description: str | None = None
    version: str | None = None
    supports_transcript_streaming: bool = True
    requires_external_vad: bool = True  # the client says when the command is over


class Info(msgspec.Struct, kw_only=True):
    """The answer to describe."""

    asr: tuple[AsrProgram, ...]


_line_decoder = msgspec.json.Decoder(_Line)
_data_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


class EventReader:
    """The client's bytes as events; bounded by the limits above and one receive."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0  # no newline before it
        self._line: _Line | None = None  # read, while its data and payload are due
        self._failure: Failure | None = None

    def receive_data(self, data: bytes) -> None:
        """The next bytes."""
        if self._failure is None:
            self._bytes += data

    def next_event(self) -> Event | Failure | None:
        """The next event; None when bytes are missing. After a Failure there is nothing more."""
        if self._failure is not None:
            return None
        try:
            return self._next_event()
        except DECODE_ERRORS as error:
            return self._fail(f"not an event of this protocol: {error}")

    def _next_event(self) -> Event | Failure | None:
        if self._line is None:
            text = self._take_line()
            if text is None:
                is_endless = len(self._bytes) > MAX_LINE_BYTES
                return self._fail("an event's first line is too long") if is_endless else None
            self._line = _line_decoder.decode(text)
        data_bytes = self._line.data_length or 0
        payload_bytes = self._line.payload_length or 0
        if not 0 <= data_bytes <= MAX_DATA_BYTES or not 0 <= payload_bytes <= MAX_PAYLOAD_BYTES:
            return self._fail(
                f"an event has at most {MAX_DATA_BYTES} bytes of data and {MAX_PAYLOAD_BYTES} of "
                "payload"
            )
        if len(self._bytes) < data_bytes + payload_bytes:
            return None
        return self._take_event(self._line, data_bytes, data_bytes + payload_bytes)

    def _take_line(self) -> bytes | None:
        end = self._bytes.find(b"\n", self._searched, MAX_LINE_BYTES + 1)
        if end < 0:
            self._searched = min(len(self._bytes), MAX_LINE_BYTES)
            return None
        text = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        self._searched = 0
        return text

    def _take_event(self, line: _Line, data_end: int, payload_end: int) -> Event:
        data = dict(line.data or {})
        if data_end:
            data.update(_data_decoder.decode(bytes(self._bytes[:data_end])))
        payload = bytes(self._bytes[data_end:payload_end])
        del self._bytes[:payload_end]
        self._line = None
        return Event(line.type, data, payload)

    def _fail(self, message: str) -> Failure:
        self._failure = Failure(message)
        self._bytes.clear()
        return self._failure


def encode_event(type_: str, data: Any = None) -> bytes:
    """An event without payload; clients limit the line, so data travels behind it."""
    line: dict[str, Any] = {"type": type_, "version": VERSION}
    body = b"" if data is None else _encoder.encode(data)
    if body:
        line["data_length"] = len(body)
    return _encoder.encode(line) + b"\n" + body
