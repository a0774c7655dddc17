"""The Wyoming protocol as a dialect: how Home Assistant and voice satellites ask for a transcript.

Pure; see the package for who calls it. A byte-stream dialect: describe is answered with the models
and their languages; transcribe and audio-start open a stream, audio-stop ends it, and the text goes
out as transcript-chunk while it becomes final and as one transcript at the end.

Clients open a connection for every utterance, stop reading at `transcript` and hang up; so one
connection is one stream here. The text of a transcript is the sum of its chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from protocol.audio import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ
from protocol.client_messages import Closed, Error, Final, Hello, ServerMessage
from protocol.errors import MAX_MESSAGE_CHARS, ErrorCode

from . import AnsweredIn, AudioIn, ByeIn, FailIn, Intent, OpenStream, Output
from . import wyoming_events as wire
from .hello_fields import fitting_hotwords, name_of
from .raw_audio import Coding, RawAudio

PROGRAM = "earwire"
SAMPLE_BYTES = 2  # the only width
MAX_DESCRIBES = 16  # of one connection: the answer is much longer than the question
MAX_PING_CHARS = 1_024  # a longer text is not sent back

ENGLISH = ("en",)
# What Parakeet-TDT 0.6B v3 was trained on; it hears which one is spoken and reports none itself.
PARAKEET_V3_LANGUAGES = (
    "bg", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "hu", "it", "lv", "lt",
    "mt", "pl", "pt", "ro", "ru", "sk", "sl", "es", "sv", "uk",
)  # fmt: skip

_Data = TypeVar("_Data", bound=msgspec.Struct)


def no_languages(model: str) -> tuple[str, ...]:
    """Nothing is known about the languages of a model."""
    return ()


class WyomingDialect:
    """One connection's view of the protocol."""

    name = "wyoming"

    def __init__(
        self,
        models: Callable[[], tuple[str, ...]],
        languages: Callable[[str], tuple[str, ...]] = no_languages,
    ) -> None:
        """Asked at each describe: the models served, and the languages known of each."""
        self._models = models
        self._languages = languages
        self._reader = wire.EventReader()
        self._intents: deque[Intent] = deque()
        self._out: list[Output] = []
        self._request = wire.Transcribe()
        self._format: wire.AudioFormat | None = None  # once the stream is asked for
        self._raw = RawAudio(Coding.LINEAR16)
        self._num_describes = 0
        self._ended = False  # no more audio is read
        self._failed = False  # nothing at all is
        self._texts: list[str] = []  # what was sent in chunks

    # The client

    def receive_data(self, data: bytes | str) -> None:
        """Bytes of the stream; b"" when the client sends no more."""
        if isinstance(data, str):
            raise AssertionError("text on a byte stream")
        if data:
            self._reader.receive_data(data)
        else:
            self._end("vanished")

    def next_event(self) -> Intent | None:
        """The next intent; AnsweredIn for an event that asks for none: that counts as work, too."""
        if self._intents:
            return self._intents.popleft()
        event = None if self._failed else self._reader.next_event()
        if event is None:
            return None
        if isinstance(event, wire.Failure):
            self._fail(ErrorCode.BAD_MESSAGE, event.message)
        else:
            self._on_event(event)
        return self._intents.popleft() if self._intents else AnsweredIn()

    def _on_event(self, event: wire.Event) -> None:
        try:
            self._act_on(event)
        except msgspec.ValidationError as error:
            self._fail(ErrorCode.BAD_MESSAGE, f"{event.type[:64]}: {error}")

    def _act_on(self, event: wire.Event) -> None:
        kind = event.type
        if kind == "audio-chunk":
            self._on_chunk(event)
        elif kind == "audio-start":
            self._open(_data(event, wire.AudioFormat))
        elif kind == "audio-stop":
            self._on_stop()
        elif kind == "transcribe":
            self._on_transcribe(_data(event, wire.Transcribe))
        elif kind == "describe":
            self._on_describe()
        elif kind == "ping":
            self._send("pong", {"text": _bounded(event.data.get("text"))})
        # any other event is somebody else's, or a later version's

    def _on_transcribe(self, request: wire.Transcribe) -> None:
        if self._format is None:  # too late for a stream that is open
            self._request = request

    def _on_describe(self) -> None:
        self._num_describes += 1
        if self._num_describes > MAX_DESCRIBES:
            self._fail(ErrorCode.BAD_MESSAGE, f"more than {MAX_DESCRIBES} times described")
        else:
            self._send("info", self._info())

    def _on_chunk(self, event: wire.Event) -> None:
        """Audio; a client that never said audio-start says its format here."""
        if self._ended:
            return
        self._open(_data(event, wire.AudioFormat))
        if not self._failed:
            for pieces in self._raw.pieces(event.payload):
                self._intents += [AudioIn(pcm) for pcm in pieces]

    def _open(self, audio: wire.AudioFormat) -> None:
        if self._ended or audio == self._format:
            return
        if self._format is not None:
            self._fail(ErrorCode.UNSUPPORTED_FORMAT, "the format changed within one stream")
            return
        problem = _problem(audio)
        if problem is not None:
            self._fail(ErrorCode.UNSUPPORTED_FORMAT, problem)
            return
        self._format = audio
        self._raw = RawAudio(Coding.LINEAR16, audio.channels)
        self._intents.append(OpenStream(self._hello(audio), any_model=True))

    def _hello(self, audio: wire.AudioFormat) -> Hello:
        request = self._request
        names = (*(request.transcript_names or ()), *(request.transcript_terms or ()))
        return Hello(
            sample_rate_hz=audio.rate,
            channels=audio.channels,
            language=name_of(request.language),
            model=name_of(request.name),
            hotwords=fitting_hotwords(names),
            partials=False,  # this protocol can not take text back
            client="wyoming",
        )

    def _on_stop(self) -> None:
        if self._format is None:
            self._send("transcript", {"text": ""})  # nothing was said
        else:
            self._end("client")

    def _end(self, reason: str) -> None:
        if not self._ended and self._format is not None:
            self._intents.append(ByeIn(reason))
        self._ended = True

    # The stream

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Render a stream event; this protocol has words for three of them."""
        if self._failed:
            return  # all is said
        if isinstance(event, Final):
            self._on_final(event)
        elif isinstance(event, Closed):
            self._on_closed()
        elif isinstance(event, Error):
            self._report_failure(event.code, event.message)

    def data_to_send(self) -> list[Output]:
        """Take the queued events."""
        if not self._out:
            return []
        out, self._out = self._out, []
        return out

    def _on_final(self, event: Final) -> None:
        if not event.text:
            return
        if not self._texts:
            self._start_transcript(event.language)
        text = f" {event.text}" if self._texts else event.text
        self._texts.append(text)
        self._send("transcript-chunk", {"text": text})

    def _on_closed(self) -> None:
        if not self._texts:
            self._start_transcript(None)
        self._send("transcript", {"text": "".join(self._texts)})
        self._send("transcript-stop")

    def _start_transcript(self, heard_language: str | None) -> None:
        language = self._request.language or heard_language
        self._send("transcript-start", {"language": language} if language else None)

    def _info(self) -> wire.Info:
        models = tuple(
            wire.AsrModel(
                name=name,
                attribution=wire.Attribution(name=name),
                languages=model_languages(name, self._languages(name)),
            )
            for name in self._models()
        )
        program = wire.AsrProgram(
            name=PROGRAM,
            attribution=wire.Attribution(name="Earwire"),
            description="Streaming speech-to-text",
            models=models,
        )
        return wire.Info(asr=(program,))

    # What goes wrong

    def _fail(self, code: ErrorCode, message: str) -> None:
        self._report_failure(code, message)
        self._intents.append(FailIn(Error(code=code, message=message[:MAX_MESSAGE_CHARS])))

    def _report_failure(self, code: ErrorCode, message: str) -> None:
        self._failed = self._ended = True
        self._send("error", {"text": message[:MAX_MESSAGE_CHARS], "code": code.value})

    def _send(self, type_: str, data: Any = None) -> None:
        self._out.append(wire.encode_event(type_, data))


def model_languages(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The languages a model is offered for: what its service says, else what its name says."""
    if name.endswith(".en"):
        return ENGLISH
    if known:
        return known
    return PARAKEET_V3_LANGUAGES if "v3" in name else ENGLISH


def _problem(audio: wire.AudioFormat) -> str | None:
    if audio.width != SAMPLE_BYTES:
        return f"samples of {audio.width} bytes; {SAMPLE_BYTES} are supported"
    if not MIN_RATE_HZ <= audio.rate <= MAX_RATE_HZ:
        return f"a rate of {audio.rate} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} are supported"
    if not 1 <= audio.channels <= MAX_CHANNELS:
        return f"{audio.channels} channels; 1 to {MAX_CHANNELS} are supported"
    return None


def _data(event: wire.Event, type_: type[_Data]) -> _Data:
    """Raises ValidationError when a field has the wrong type."""
    return msgspec.convert(event.data, type_)


def _bounded(text: Any) -> str | None:
    return text if isinstance(text, str) and len(text) <= MAX_PING_CHARS else None
