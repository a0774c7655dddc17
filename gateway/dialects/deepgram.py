"""Deepgram's live /v1/listen as a dialect: audio in binary messages, JSON results, one WebSocket.

Pure; see the package for who calls it. It takes channels apart (multichannel: a stream for each),
numbers finalizes, remembers where the last word of a channel ended, and adds up what the closing
Metadata says. The shell stores the loop's time in `now_ns` before receive_data and closes the
WebSocket with `close_code` and `close_reason` once that is set.

What this API's clients lean on: `is_final`, `speech_final` and `metadata.request_id` are in every
result; a Finalize is answered by `from_finalize`, with an empty transcript if nothing was said;
Metadata is the last message; times are seconds of the stream and never begin again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from protocol.audio import ms_to_samples
from protocol.client_messages import (
    DECODE_ERRORS,
    Closed,
    EndOfTurn,
    Error,
    Final,
    Hello,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    Started,
)
from protocol.errors import ErrorCode
from protocol.joined_text import joined

from . import (
    MAX_BAD_MESSAGES,
    AudioIn,
    ByeIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    Output,
    WriteAudio,
)
from . import deepgram_events as wire
from .deepgram_query import AudioOptions, ListenOptions, Refusal, listen_options
from .raw_audio import RawAudio

MAX_QUOTED_CHARS = 200  # of a message that could not be read

_NEVER = (-1, -1)
_CUT_PART = 0.45  # a cut comes in the second half of the longest utterance, give or take a frame

_decoder = msgspec.json.Decoder(wire.ClientMessage)
_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class _Channel:
    """What is known of one channel's speech."""

    start_sample: int = 0  # of the last utterance that began
    stopped: tuple[int, int] = _NEVER  # the last one that ended, and where
    cuts: set[int] = field(default_factory=set)  # ended while the speaker went on; finals are due
    last_word_end_sample: int | None = None  # since the last UtteranceEnd


class DeepgramDialect:
    """One connection's view of the API; `query` is that of the request."""

    name = "deepgram"
    empty_message_ends = True

    def __init__(
        self,
        query: Mapping[str, list[str]],
        token: str = "",
        request_id: str = "",
        wall_offset_ns: int = 0,
    ) -> None:
        """`wall_offset_ns` makes Unix time of the loop's monotonic time."""
        self.now_ns = 0  # the shell's loop time, see the module text
        self.close_code: int | None = None
        self.close_reason = ""
        self._request_id = request_id
        self._wall_offset_ns = wall_offset_ns
        self._intents: deque[Intent] = deque()
        self._out: list[Output] = []
        self._num_bad = 0
        self._num_finalizes = 0
        self._ended = False  # nothing of the client is read any more
        self._created_ns: int | None = None  # when the first channel was admitted
        self._min_cut_samples = 0  # a shorter utterance was ended by a pause
        self._digest = hashlib.sha256()
        self._raw: RawAudio | None = None  # None: a container
        self._takes_lane = False  # what comes is what goes to the ring
        self._channels: list[_Channel] = []
        self._num_closed = 0
        self._num_samples = 0  # ring samples of the longest channel, once closed
        self._metadata = self._result_metadata("")
        options = listen_options(query)
        if isinstance(options, Refusal):
            self._fail(ErrorCode.UNSUPPORTED_FORMAT, options.message)
        else:
            self._open(options, token)

    # The client

    def receive_data(self, data: bytes | str) -> None:
        """One message: JSON as str, audio as bytes; b"" is an old form of CloseStream."""
        if self._ended:
            return
        if isinstance(data, str):
            self._receive_json(data)
        elif data:
            self._digest.update(data)
            self._on_audio(data)
        else:
            self._end()

    def receive_audio(self, data: bytes | memoryview, write: WriteAudio, now_ns: int) -> bool:
        """The fast lane: pass a binary message's samples to `write`; False changes nothing."""
        if not self._takes_lane or self._intents or self._ended:
            return False
        if self._raw is None or not self._raw.is_between_samples or not data or len(data) & 1:
            return False
        if not write(data, now_ns):
            return False
        self._digest.update(data)
        return True

    def next_event(self) -> Intent | None:
        """The next intent; an OpenStream for each channel is there from the start."""
        return self._intents.popleft() if self._intents else None

    def _open(self, options: ListenOptions, token: str) -> None:
        self._options = options
        audio = options.audio
        hello = Hello(
            token=token,
            language=options.language,
            model=options.model,
            hotwords=options.hotwords,
            partials=options.interim_results,
            vad=options.vad(),
            client="deepgram",
        )
        container = None
        if audio.coding is None:
            container = Container.LIVE
        else:
            hello = self._prepare_raw(audio, hello)
        num_streams = self._raw.num_streams if self._raw is not None else 1
        for channel in range(num_streams):
            self._channels.append(_Channel())
            self._intents.append(
                OpenStream(hello, any_model=True, channel=channel, container=container)
            )

    def _prepare_raw(self, audio: AudioOptions, hello: Hello) -> Hello:
        assert audio.coding is not None
        self._raw = raw = RawAudio(audio.coding, audio.channels, is_split=audio.is_split)
        hello = msgspec.structs.replace(
            hello,
            encoding=raw.encoding,
            sample_rate_hz=audio.sample_rate_hz,
            channels=1 if audio.is_split else audio.channels,
        )
        self._takes_lane = raw.is_plain and hello.audio_format().is_ring_format
        return hello

    def _on_audio(self, data: bytes) -> None:
        if self._raw is None:
            self._intents.append(EncodedIn(data))
            return
        for pieces in self._raw.pieces(data):
            self._intents += [AudioIn(pcm, channel) for channel, pcm in enumerate(pieces)]

    def _receive_json(self, text: str) -> None:
        try:
            message = _decoder.decode(text)
        except DECODE_ERRORS as error:
            self._refuse(f"not a message of this API: {error}", text)
            return
        if message.type == "Finalize":
            self._finalize(message, text)
        elif message.type == "CloseStream":
            self._end()
        elif message.type == "Configure":
            self._refuse_configure()
        # KeepAlive has done its work by coming; any other type is a later version's

    def _finalize(self, message: wire.ClientMessage, text: str) -> None:
        channels = self._named_channels(message.channel)
        if channels is None:
            self._refuse("Finalize: there is no such channel", text)
            return
        for channel in channels:
            self._num_finalizes += 1
            self._intents.append(FinalizeIn(self._num_finalizes, channel))

    def _named_channels(self, named: int | list[int] | None) -> list[int] | None:
        """The streams that a Finalize means: a number, or [number, of how many], or all."""
        if named is None or named == []:
            return list(range(len(self._channels)))
        channel = named if isinstance(named, int) else named[0]
        return [channel] if 0 <= channel < len(self._channels) else None

    def _refuse_configure(self) -> None:
        self._send(
            wire.ConfigureFailure(
                request_id=self._request_id,
                code="CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                description="what a stream was opened with can not be changed: connect again",
            )
        )

    def _end(self) -> None:
        self._ended = True
        self._intents.append(EncodedEnd() if self._raw is None else ByeIn())

    # The streams

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Render a stream event; what this API has no word for is dropped."""
        self.now_ns = now_ns
        if self.close_code is not None:
            return  # all is said
        if isinstance(event, Partial):
            self._on_partial(event, channel)
        elif isinstance(event, Final):
            self._on_final(event, channel)
        elif isinstance(event, SpeechStarted | SpeechStopped | EndOfTurn):
            self._on_speech(event, channel)
        elif isinstance(event, Started):
            self._on_started(event)
        elif isinstance(event, Error):
            self._on_error(event)
        elif isinstance(event, Closed):
            self._on_closed(event)

    def data_to_send(self) -> list[Output]:
        """Take the queued events, each one text message."""
        if not self._out:
            return []
        out, self._out = self._out, []
        return out

    def _on_started(self, event: Started) -> None:
        if self._created_ns is None:
            self._created_ns = self.now_ns
        self._min_cut_samples = ms_to_samples(event.limits.max_utterance_ms * _CUT_PART)
        self._metadata = self._result_metadata(event.model)

    def _on_partial(self, event: Partial, channel: int) -> None:
        text = joined((event.stable, event.volatile))
        if not text or not self._options.interim_results:
            return
        said = wire.alternative(text, is_formatted=self._options.is_formatted)
        self._send(self._results(event, channel, said))

    def _on_final(self, event: Final, channel: int) -> None:
        known = self._channels[channel]
        if event.words:
            known.last_word_end_sample = event.words[-1].end_sample
        is_answer = event.finalize_id is not None
        has_paused = event.utterance not in known.cuts and not is_answer
        if not event.is_empty_answer:
            known.cuts.discard(event.utterance)
        language = event.language if self._options.is_multilingual else None
        said = wire.alternative(
            event.text,
            event.words,
            is_formatted=self._options.is_formatted,
            languages=(language,) if language else (),
        )
        results = self._results(event, channel, said)
        results.is_final = True
        results.speech_final = has_paused and self._options.endpointing.is_reported
        results.from_finalize = is_answer
        self._send(results)
        if has_paused and event.utterance == known.stopped[0]:
            known.stopped = _NEVER  # what is said next is new speech, however soon

    def _on_speech(self, event: SpeechStarted | SpeechStopped | EndOfTurn, channel: int) -> None:
        if isinstance(event, SpeechStopped):
            self._channels[channel].stopped = (event.utterance, event.end_sample)
        elif isinstance(event, SpeechStarted):
            self._on_speech_started(event, channel)
        else:
            self._on_end_of_turn(channel)

    def _on_speech_started(self, event: SpeechStarted, channel: int) -> None:
        """Speech that goes on where an utterance was cut for its length is no new speech."""
        known = self._channels[channel]
        utterance, stop_sample = known.stopped
        was_long = stop_sample - known.start_sample >= self._min_cut_samples
        known.start_sample = event.start_sample
        if event.start_sample == stop_sample and was_long:
            known.cuts.add(utterance)
        elif self._options.vad_events:
            timestamp = wire.seconds(event.start_sample)
            self._send(wire.SpeechStarted(channel=self._index(channel), timestamp=timestamp))

    def _on_end_of_turn(self, channel: int) -> None:
        known = self._channels[channel]
        end_sample, known.last_word_end_sample = known.last_word_end_sample, None
        if end_sample is not None:
            last_word_end = wire.seconds(end_sample)
            self._send(wire.UtteranceEnd(channel=self._index(channel), last_word_end=last_word_end))

    def _on_closed(self, event: Closed) -> None:
        self._num_closed += 1
        self._num_samples = max(self._num_samples, event.ring_samples)
        if self._num_closed < len(self._channels):
            return
        self._ended = True
        model_id, model = self._metadata.model_uuid, self._metadata.model_info
        self._send(
            wire.Metadata(
                request_id=self._request_id,
                sha256=self._digest.hexdigest(),
                created=wire.created((self._created_ns or 0) + self._wall_offset_ns),
                duration=wire.seconds(self._num_samples),
                channels=len(self._channels),
                models=(model_id,),
                model_info={model_id: model},
            )
        )
        self._close(wire.CLOSE_NORMAL, event.reason)

    # What goes wrong

    def _on_error(self, event: Error) -> None:
        self._ended = True
        self._report_failure(event.code, event.message)

    def _fail(self, code: ErrorCode, message: str) -> None:
        self._ended = True
        self._report_failure(code, message)
        self._intents.append(FailIn(Error(code=code, message=message)))

    def _report_failure(self, code: ErrorCode, message: str) -> None:
        if code is not ErrorCode.IDLE_TIMEOUT:  # there the close code says it, to a sleeping client
            self._send(wire.ErrorMessage(variant=code.value, description=message))
        self._close(*wire.close_of(code, message))

    def _refuse(self, message: str, text: str) -> None:
        self._num_bad += 1
        if self._num_bad > MAX_BAD_MESSAGES:
            self._fail(ErrorCode.BAD_MESSAGE, f"too many bad messages; the last: {message}")
            return
        quoted = text[:MAX_QUOTED_CHARS]
        self._send(wire.ErrorMessage(variant="SchemaError", description=message, message=quoted))

    def _close(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason

    # How it is written

    def _results(
        self, event: Partial | Final, channel: int, said: wire.Alternative
    ) -> wire.Results:
        """A draft; _on_final makes it final."""
        return wire.Results(
            channel_index=self._index(channel),
            start=wire.seconds(event.start_sample),
            duration=wire.seconds(event.end_sample - event.start_sample),
            is_final=False,
            speech_final=False,
            from_finalize=False,
            channel=wire.Channel(alternatives=(said,)),
            metadata=self._metadata,
        )

    def _result_metadata(self, model: str) -> wire.ResultMetadata:
        return wire.ResultMetadata(
            request_id=self._request_id,
            model_info=wire.model_info(model),
            model_uuid=wire.model_uuid(model),
        )

    def _index(self, channel: int) -> tuple[int, int]:
        return channel, len(self._channels)

    def _send(self, message: msgspec.Struct) -> None:
        self._out.append(_encoder.encode(message).decode())
