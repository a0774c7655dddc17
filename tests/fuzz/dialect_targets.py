"""Fuzz targets of the client APIs: one each, with a stream behind it that speaks in between.

What a dialect asks of its stream has to be something that the stream's own reader takes, and what
it sends has to be something that a client can read, whatever the client said before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.dialects import (
    AudioIn,
    ByeIn,
    ConfigureIn,
    Dialect,
    EncodedEnd,
    FinalizeIn,
    HttpChunk,
    HttpReply,
    Intent,
    OpenStream,
    Output,
    ReopenStream,
)
from gateway.dialects.deepgram import DeepgramDialect
from gateway.dialects.deepgram_http import DeepgramFileDialect
from gateway.dialects.openai_http import OpenAiFileDialect
from gateway.dialects.openai_realtime import OpenAiRealtimeDialect
from gateway.dialects.together import TogetherDialect
from gateway.dialects.wyoming import WyomingDialect
from gateway.dialects.wyoming_events import Event as WyomingEvent
from gateway.dialects.wyoming_events import EventReader
from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    Hello,
    MessageType,
    VadOptions,
    decode_payload,
    encode_payload,
)

from .spoken import Spoken
from .target import MEDIUM_BYTES, SHORT_BYTES, Script, Target, script
from .web_targets import FORM_TYPE, multipart_seeds

MAX_STEPS = 64
SPEAK, SAY, BINARY, VANISH, FAIL = 0, 1, 2, 3, 4  # what a byte of the script means, modulo 8
MAX_CHANNELS = 20
Check = Callable[[Output], None]


class Life:
    """One connection: the script says who speaks next, and every word is checked."""

    def __init__(self, dialect: Dialect, source: Script, check: Check) -> None:
        self._dialect = dialect
        self._source = source
        self._check = check
        self._streams: dict[int, Spoken] = {}
        self._hellos: dict[int, Hello] = {}

    def run(self) -> None:
        """Until the script is over; then the streams end, which a client always sees."""
        self.settle()
        for _ in range(MAX_STEPS):
            if self._source.is_over:
                break
            self._step()
            self.settle()
        for stream in self._streams.values():
            stream.end()
        self.settle()

    def _step(self) -> None:
        kind = self._source.byte() % 8
        if kind == SPEAK:
            self._stream(self._source.byte() % MAX_CHANNELS).speak(self._source)
        elif kind == FAIL:
            self._stream(0).fail(self._source)
        elif kind == VANISH:
            self._dialect.receive_data(b"")
        elif kind == BINARY:
            self._dialect.receive_data(self._source.chunk())
        else:
            self._say()

    def _say(self) -> None:
        if isinstance(self._dialect, WyomingDialect | OpenAiFileDialect | DeepgramFileDialect):
            self._dialect.receive_data(self._source.chunk())
        else:
            self._dialect.receive_data(self._source.text())

    def settle(self) -> None:
        """Everything that is asked for now, and everything that is said."""
        for _ in range(1_000):
            intent = self._dialect.next_event()
            if intent is None:
                break
            self._apply(intent)
        else:
            raise AssertionError("intents without end")
        for item in self._dialect.data_to_send():
            self._check(item)

    def _apply(self, intent: Intent) -> None:
        if isinstance(intent, OpenStream | ReopenStream):
            channel = intent.channel if isinstance(intent, OpenStream) else 0
            self._hellos[channel] = check_hello(intent.hello)
            self._stream(channel).open(self._source)
        elif isinstance(intent, AudioIn):
            self._check_audio(intent)
        elif isinstance(intent, FinalizeIn):
            self._stream(intent.channel).finalize(intent.finalize_id)
        elif isinstance(intent, ConfigureIn):
            check_vad(intent.vad)
        elif isinstance(intent, ByeIn | EncodedEnd):
            for stream in self._streams.values():
                stream.end()

    def _check_audio(self, audio: AudioIn) -> None:
        frame_bytes = self._hellos[audio.channel].audio_format().frame_bytes
        assert 0 < len(audio.pcm) <= MAX_AUDIO_BYTES
        assert len(audio.pcm) % frame_bytes == 0

    def _stream(self, channel: int) -> Spoken:
        if channel not in self._streams:
            self._streams[channel] = Spoken(
                lambda event: self._dialect.handle_event(event, 0, channel)
            )
        return self._streams[channel]


def check_hello(hello: Hello) -> Hello:
    """A native client could have sent it."""
    decoded = decode_payload(MessageType.HELLO, encode_payload(hello))
    assert decoded == hello
    hello.audio_format()
    return hello


def check_vad(vad: VadOptions) -> None:
    """The service takes it."""
    assert msgspec.json.decode(msgspec.json.encode(vad), type=VadOptions) == vad


def check_json(item: Output) -> None:
    """A text message with an object in it."""
    assert isinstance(item, str)
    assert isinstance(msgspec.json.decode(item.encode()), dict)


def query_of(source: Script) -> Mapping[str, list[str]]:
    """As parse_qs makes it."""
    query: dict[str, list[str]] = {}
    for _ in range(source.byte() % 8):
        query.setdefault(source.text(), []).append(source.text())
    return query


def query_script(**values: str) -> bytes:
    """What query_of reads as these."""
    return script(len(values), *(part for item in values.items() for part in item))


# OpenAI Realtime


class Transcripts:
    """What an OpenAI client has: the deltas of an item add up to its transcript."""

    def __init__(self) -> None:
        self._deltas: dict[str, str] = {}
        self._complete: set[str] = set()
        self._is_first = True

    def check(self, item: Output) -> None:
        """One event."""
        check_json(item)
        event: dict[str, Any] = msgspec.json.decode(item)  # type: ignore[arg-type]
        kind = str(event["type"])
        name = event.get("item_id")
        if kind.endswith("input_audio_transcription.delta"):
            assert name not in self._complete
            self._deltas[name] = self._deltas.get(name, "") + event["delta"]
        elif kind.endswith("input_audio_transcription.completed"):
            assert name not in self._complete
            self._complete.add(name)
            assert event["transcript"] == self._deltas.get(name, "")


def run_openai(data: bytes) -> None:
    """OpenAI's Realtime API, and vLLM's way of it."""
    source = Script(data)
    dialect = OpenAiRealtimeDialect(query_of(source))
    Life(dialect, source, Transcripts().check).run()


_TALK = (SPEAK, 0, 0, 9, SPEAK, 0, 1, 9, 2, 0, 1, "vol", SPEAK, 0, 1, 9, 1, 3, "", SPEAK, 0, 2, 1)


def openai_seeds() -> Iterator[bytes]:
    """A session with settings, appends, commits, a clear and speech between them."""
    update = '{"type":"session.update","session":{"type":"transcription","audio":{"input":{%s}}}}'
    append = '{"type":"input_audio_buffer.append","audio":"AAAAAAAA"}'
    commit = '{"type":"input_audio_buffer.commit"}'
    formats = '"format":{"type":"audio/pcmu"},"turn_detection":{"type":"semantic_vad"}'
    off = '"turn_detection":null,"transcription":{"model":"m","language":"de","prompt":"p"}'
    yield query_script(model="m") + script(
        0, SAY, update % formats, 0, SAY, append, *_TALK, SAY, commit, SPEAK, 0, 5, 1
    )
    yield query_script() + script(
        0, SAY, update % off, 0, SAY, append, SAY, commit, SPEAK, 0, 5, *_TALK, SAY,
        '{"type":"input_audio_buffer.clear"}', SPEAK, 0, 5, FAIL, 3, "gone",
    )  # fmt: skip
    beta = '{"type":"transcription_session.update","session":{"input_audio_format":"g711_alaw",'
    beta += '"turn_detection":{"type":"server_vad","threshold":0.3,"silence_duration_ms":9}}}'
    vllm = '{"type":"session.update","model":"m"}'
    yield query_script(deltas="final") + script(0, SAY, beta, 0, *_TALK, SAY, append, VANISH)
    final = '{"type":"input_audio_buffer.commit","final":true}'
    huge = '"turn_detection":{"type":"server_vad","threshold":%s}' % ("9" * 400)
    yield query_script() + script(0, SAY, update % huge, 0, SAY, append)
    yield query_script() + script(0, SAY, vllm, 0, SAY, append, *_TALK, SAY, final, SPEAK, 0, 5)


# Together


def run_together(data: bytes) -> None:
    """Together's API."""
    source = Script(data)
    Life(TogetherDialect(query_of(source)), source, check_json).run()


def together_seeds() -> Iterator[bytes]:
    """Appends, commits, a clear, an echo, an update and speech between them."""
    append = '{"type":"input_audio_buffer.append","audio":"AAAAAAA="}'
    commit, clear = '{"type":"input_audio_buffer.commit"}', '{"type":"input_audio_buffer.clear"}'
    echo = '{"type":"echo","echo_id":7,"client_sent_at":1.5,"payload":{"a":[1]}}'
    update = '{"type":"transcription_session.updated","session":{"turn_detection":%s}}'
    turns = '{"type":"server_vad","threshold":0.4,"min_silence_duration_ms":700}'
    query = query_script(model="m", input_audio_format="pcm_s16le_8000", language="auto")
    yield query + script(0, SAY, append, *_TALK, SAY, commit, SPEAK, 0, 5, SAY, echo, VANISH)
    yield query + script(0, SAY, update % "null", SAY, clear, SPEAK, 0, 5, *_TALK, FAIL, 2, "x")
    huge = '{"type":"server_vad","threshold":%s}' % ("9" * 400)
    yield query + script(0, SAY, update % huge, SAY, append)
    yield query + script(0, SAY, update % turns, *_TALK, SPEAK, 0, 3, SAY, commit, BINARY, "b")


# Deepgram


def run_deepgram(data: bytes) -> None:
    """Deepgram's live API."""
    source = Script(data)
    Life(DeepgramDialect(query_of(source), "", "r-1"), source, check_json).run()


def deepgram_seeds() -> Iterator[bytes]:
    """Raw audio of two channels, a container, every message."""
    raw = query_script(
        encoding="mulaw", sample_rate="8000", channels="2", multichannel="true",
        interim_results="true", utterance_end_ms="1000", vad_events="true",
    )  # fmt: skip
    finalize, close = '{"type":"Finalize","channel":[1,2]}', '{"type":"CloseStream"}'
    talk = (*_TALK, SPEAK, 0, 3)
    yield raw + script(0, 0, BINARY, bytes(99), *talk, SAY, finalize, SPEAK, 1, 5, SAY, close)
    yield query_script(smart_format="true", language="multi", keyterm="a") + script(
        0,
        BINARY,
        b"OggS",
        *talk,
        SAY,
        '{"type":"KeepAlive"}',
        SAY,
        '{"type":"Configure"}',
        BINARY,
        "",
    )
    yield query_script(encoding="linear32", sample_rate="16000", endpointing="10") + script(
        0, BINARY, bytes(11), SAY, "{", FAIL, 0, "m"
    )


# Wyoming


def run_wyoming(data: bytes) -> None:
    """Wyoming, whose own reader reads what it sends."""
    source = Script(data)
    dialect = WyomingDialect(lambda: ("tiny.en", "v3"), lambda model: ("de",))
    reader = EventReader()

    def check(item: Output) -> None:
        assert isinstance(item, bytes)
        reader.receive_data(item)
        assert isinstance(reader.next_event(), WyomingEvent)
        assert reader.next_event() is None

    Life(dialect, source, check).run()


def wyoming_seeds() -> Iterator[bytes]:
    """What Home Assistant says."""
    audio = '{"rate":16000,"width":2,"channels":1}'
    ask = '{"type":"describe"}\n{"type":"transcribe","data":{"language":"de","name":"m"}}\n'
    start = f'{{"type":"audio-start","data":{audio}}}\n'
    chunk = f'{{"type":"audio-chunk","data_length":{len(audio)},"payload_length":8}}\n{audio}'
    stop = '{"type":"audio-stop"}\n'
    yield script(SAY, ask + start, 0, SAY, chunk.encode() + bytes(8), *_TALK, SAY, stop)
    yield script(SAY, chunk.encode(), SAY, bytes(8), 0, *_TALK, FAIL, 1, "x")
    yield script(SAY, '{"type":"ping","data":{"text":"t"}}\n', VANISH)


# Files over HTTP


def _check_parts(dialect: OpenAiFileDialect | DeepgramFileDialect, source: Script) -> None:
    """One reply, then its chunks, then nothing."""
    parts: list[HttpReply | HttpChunk] = []

    def check(item: Output) -> None:
        assert isinstance(item, HttpReply | HttpChunk)
        assert isinstance(item, HttpReply) == (not parts)
        assert not (parts and parts[-1].is_last)
        parts.append(item)

    life = Life(dialect, source, check)
    life.run()
    dialect.end_of_body()
    life.settle()
    assert sum(len(part.body) for part in parts) < 1 << 22


def run_openai_http(data: bytes) -> None:
    """OpenAI's upload: a form."""
    source = Script(data)
    headers = {"content-type": source.header() or FORM_TYPE}
    _check_parts(OpenAiFileDialect(headers, ""), source)


def openai_http_seeds() -> Iterator[bytes]:
    """A form in two pieces, with every kind of answer."""
    form = next(multipart_seeds())[3:]
    at = form.index(b"RIFF")
    field = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    for value in (b"json", b"text", b"srt", b"vtt", b"verbose_json"):
        wanted = field % (b"response_format", value)
        if value == b"json":
            wanted += field % (b"stream", b"true")
        yield script("", SAY, wanted + form[:at], 0, SAY, form[at:], *_TALK, *_TALK)


def run_deepgram_http(data: bytes) -> None:
    """Deepgram's upload: the body is the file."""
    source = Script(data)
    headers = {"content-type": source.header()}
    dialect = DeepgramFileDialect(headers, query_of(source), "", "r-1", 1_700_000_000)
    _check_parts(dialect, source)


def deepgram_http_seeds() -> Iterator[bytes]:
    """A file, headerless audio, a URL."""
    query = query_script(utterances="true", detect_language="true", smart_format="true")
    yield script("audio/wav") + query + script(0, SAY, "RIFF", *_TALK, *_TALK)
    raw = query_script(encoding="linear16", sample_rate="8000", channels="2")
    yield script("") + raw + script(0, SAY, bytes(9), *_TALK)
    yield script("application/json") + query_script() + script(SAY, '{"url":"http://a"}')


TARGETS = (
    Target("openai", run_openai, openai_seeds, MEDIUM_BYTES),
    Target("together", run_together, together_seeds, SHORT_BYTES),
    Target("deepgram", run_deepgram, deepgram_seeds, SHORT_BYTES),
    Target("wyoming", run_wyoming, wyoming_seeds, MEDIUM_BYTES),
    Target("openai_http", run_openai_http, openai_http_seeds, MEDIUM_BYTES),
    Target("deepgram_http", run_deepgram_http, deepgram_http_seeds, SHORT_BYTES),
)
