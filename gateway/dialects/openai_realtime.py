"""OpenAI's /v1/realtime in transcription mode as a dialect: JSON events, base64 audio, a WebSocket.

Pure; see the package for who calls it. It reads a client's messages, keeps the session's settings
(openai_session.py) and items (openai_items.py), and says what happens in OpenAI's words or vLLM's
(openai_events.py, openai_vllm.py). What its clients cannot bear shapes it: session.created comes
first and unasked, a delta is never taken back, the deltas of an item add up to its transcript, and
an `error` event makes most of them give up, so harmless things are not answered by one.

With turn detection every utterance is an item; without it the client's commits make the items. Text
is sent while it is spoken, before its item is committed.

The shell stores the loop's time in `now_ns`, and closes the WebSocket with `close_code` and
`close_reason` when `close_code` is set and data_to_send was sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from protocol.audio import AudioFormat, ms_to_samples
from protocol.client_messages import (
    DECODE_ERRORS,
    Closed,
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

from . import (
    MAX_BAD_MESSAGES,
    AudioIn,
    ByeIn,
    ConfigureIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    Output,
    ReopenStream,
)
from . import openai_events as wire
from . import openai_vllm as vllm
from .hello_fields import name_of
from .openai_items import Item, Items
from .openai_session import PCM, SessionUpdate, Settings, UnsupportedFormat
from .raw_audio import RawAudio

MAX_ITEM_CHARS = 64 * 1024  # a longer item is completed without its commit
MIN_COMMIT_MS = 100  # less is an empty commit to OpenAI
_NANOSECONDS = 1_000_000_000
_NULL = msgspec.Raw(b"null")  # as some clients write a field that they do not set

_update_decoder = msgspec.json.Decoder(SessionUpdate)
_encoder = msgspec.json.Encoder()


class OpenAiRealtimeDialect:
    """One connection's view of the API; `query` is that of the request."""

    name = "openai"
    empty_message_ends = False

    def __init__(
        self, query: Mapping[str, list[str]], token: str = "", wall_offset_ns: int = 0
    ) -> None:
        """`wall_offset_ns` makes Unix time of the loop's monotonic time."""
        self.now_ns = 0  # the shell's loop time, see the module text
        self.close_code: int | None = None
        self.close_reason = ""
        self._token = token
        self._wall_offset_ns = wall_offset_ns
        self._intents: deque[Intent] = deque()
        self._out: list[Output] = []
        self._num_bad = 0
        self._ended = False  # nothing of the client is read any more
        self._wording = wire.Wording()
        self._session_id = ""
        self._model: str | None = None  # the one that serves
        self._starts_due = 1  # OpenStream and ReopenStreams not answered yet
        self._updates_due = 0  # updates to confirm when they are
        self._settings = Settings.of_query(query)
        self._audio = RawAudio(PCM.coding)
        self._num_samples = 0  # of the client, at its rate
        self._committed_sample = 0  # ring sample up to which audio is some item's, or forgotten
        self._detection_sample = 0  # turns that begin before this ring sample are not turns
        self._items = Items(self._new_item_id)
        self._num_items = 0
        self._previous_item_id: str | None = None
        self._intents.append(OpenStream(self._hello(), any_model=True))

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

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Render a stream event; what this API has no word for is dropped."""
        self.now_ns = now_ns
        if self.close_code is None:  # else all is said
            self._render(event)

    def _render(self, event: ServerMessage) -> None:
        if isinstance(event, Partial):
            self._on_partial(event)
        elif isinstance(event, Final):
            self._on_final(event)
        elif isinstance(event, SpeechStarted):
            self._on_speech_started(event)
        elif isinstance(event, SpeechStopped):
            self._on_speech_stopped(event)
        elif isinstance(event, Started):
            self._on_started(event)
        elif isinstance(event, Error):
            self._on_error(event)
        elif isinstance(event, Closed):
            self._on_closed(event)

    def data_to_send(self) -> list[Output]:
        """Take the queued events, each one text message."""
        out, self._out = self._out, []
        return out

    # From the client

    def _receive_json(self, text: str) -> None:
        message = wire.decode_message(text)
        if isinstance(message, str):
            self._refuse(message)
            return
        kind = message.type
        if kind == "input_audio_buffer.append":
            self._on_append(message.audio)
        elif kind == "input_audio_buffer.commit":
            self._on_commit(message)
        elif kind == "input_audio_buffer.clear":
            self._on_clear()
        elif kind == "session.update":
            self._on_update(message, is_beta=False)
        elif kind == "transcription_session.update":
            self._on_update(message, is_beta=True)
        # any other type is of a conversation or of a later version, and ignored

    def _on_append(self, audio: bytes) -> None:
        for (pcm,) in self._audio.pieces(audio):
            self._num_samples += len(pcm) >> 1
            self._intents.append(AudioIn(pcm))

    def _on_commit(self, message: wire.ClientMessage) -> None:
        if self._is_vllm and not message.final:
            return  # "begin": it has begun
        fresh = self._ring_sample - self._committed_sample
        if self._settings.refuses_empty_commits and fresh < ms_to_samples(MIN_COMMIT_MS):
            self._send(
                self._wording.refused(
                    "input_audio_buffer_commit_empty",
                    f"the buffer holds less than {MIN_COMMIT_MS} ms of audio",
                    message.event_id,
                )
            )
            return
        self._commit()

    def _commit(self) -> None:
        """Every commit makes an item, also of silence: the client may wait for its transcript."""
        asked = self._items.commit(by_client=self._commits_itself)
        self._committed_sample = self._ring_sample
        self._intents.append(FinalizeIn(asked.finalize_id))
        if asked.item is not None:
            self._announce(asked.item)

    def _on_clear(self) -> None:
        """Forget what is not committed. Recognition ends its utterance there, unseen."""
        self._audio = RawAudio(self._settings.format.coding)
        self._committed_sample = self._ring_sample
        self._intents.append(FinalizeIn(self._items.clear().finalize_id))
        self._send(self._wording.cleared())

    # Settings

    def _on_update(self, message: wire.ClientMessage, *, is_beta: bool) -> None:
        raw = b"" if message.session == _NULL else bytes(message.session)
        if self._is_vllm or (message.model and not raw):
            self._become_vllm(message.model)
            return
        try:
            settings = self._settings.updated(_update_decoder.decode(raw or b"{}"))
        except UnsupportedFormat as error:
            self._refuse(str(error), message.event_id)
        except DECODE_ERRORS as error:
            self._refuse(f"{message.type}: {error}", message.event_id)
        else:
            before, self._wording.is_beta = self._wording.is_beta, is_beta
            if not self._change_settings(settings, message.event_id):
                self._wording.is_beta = before

    def _become_vllm(self, model: str | None) -> None:
        before, self._wording = self._wording, vllm.VllmWording()
        audio_format = replace(PCM, rate_hz=vllm.SAMPLE_RATE_HZ)
        model = name_of(model) or self._settings.model
        wished = replace(self._settings, format=audio_format, model=model, detection=None)
        if not self._change_settings(wished, None):
            self._wording = before

    def _change_settings(self, wished: Settings, event_id: str | None) -> bool:
        """Take what can still be taken: after the first audio that is turn detection alone. False
        when the update was refused.
        """
        if self._num_samples:
            if wished.format != self._settings.format:
                self._refuse("the audio format cannot change once audio was sent", event_id)
                return False
            wished = replace(self._settings, detection=wished.detection)
        if replace(wished, detection=self._settings.detection) != self._settings:
            self._settings = wished
            self._audio = RawAudio(wished.format.coding)
            self._starts_due += 1
            self._intents.append(ReopenStream(self._hello(), any_model=True))
        elif wished != self._settings:
            self._change_detection(wished)
        self._updates_due += 1
        self._confirm_updates()
        return True

    def _change_detection(self, wished: Settings) -> None:
        if self._commits_itself and self._ring_sample > self._committed_sample:
            self._commit()  # from here on the client need not
        self._settings = wished
        self._detection_sample = self._ring_sample
        self._intents.append(ConfigureIn(wished.vad))

    def _hello(self) -> Hello:
        hello = self._settings.hello(self._token)
        return msgspec.structs.replace(hello, vad=vllm.VAD) if self._is_vllm else hello

    # From the stream

    def _on_started(self, event: Started) -> None:
        is_first = not self._session_id
        self._session_id, self._model = event.session_id, event.model
        self._starts_due -= 1
        if is_first:
            created_s = (self.now_ns + self._wall_offset_ns) // _NANOSECONDS
            session = self._settings.session_object(self._session_id, self._model)
            self._send(self._wording.created(self._session_id, created_s, session))
        self._confirm_updates()

    def _confirm_updates(self) -> None:
        if self._starts_due:
            return
        render = self._settings.session_object
        if self._wording.is_beta:
            render = self._settings.beta_session_object
        for _ in range(self._updates_due):
            self._send(self._wording.updated(render(self._session_id, self._model)))
        self._updates_due = 0

    def _on_speech_started(self, event: SpeechStarted) -> None:
        if self._commits_itself or event.start_sample < self._detection_sample:
            return
        item = self._items.begin_turn(event.utterance)
        self._send(self._wording.speech_started(item.item_id, event.start_sample))

    def _on_speech_stopped(self, event: SpeechStopped) -> None:
        item = self._items.turn(event.utterance)
        if item is None:
            return
        self._send(self._wording.speech_stopped(item.item_id, event.end_sample))
        if not self._items.is_clearing:  # else its final says whether this was the clear
            self._committed_sample = max(self._committed_sample, event.end_sample)
            self._announce(item)

    def _on_partial(self, event: Partial) -> None:
        item = self._items.turn(event.utterance)
        if item is not None:
            item = None if self._items.is_clearing else item
        elif self._commits_itself:
            item = self._items.collected()
        if item is not None:
            self._send_delta(item, item.text.on_partial(event.stable))

    def _on_final(self, event: Final) -> None:
        turn = None if event.is_empty_answer else self._items.end_turn(event.utterance)
        if event.finalize_id is not None:
            asked = self._items.answered(event.finalize_id)
            if asked is not None and not asked.is_clear:
                self._complete(asked.item or turn or self._items.new_item(), event)
        elif turn is not None:
            self._complete(turn, event)
        else:
            self._on_part(event)

    def _on_part(self, event: Final) -> None:
        """The final of an utterance that is not an item, but a part of one."""
        item = self._items.collected()
        if item is None:
            return
        self._add_text(item, event)
        max_chars = MAX_ITEM_CHARS if self._commits_itself else 0
        if not item.is_committed and len(item.text.text) > max_chars:
            self._say_complete(self._items.part())

    def _on_error(self, event: Error) -> None:
        self._ended = True
        for item in self._items.take_all():
            self._send(self._wording.failed(item.item_id, event))
        self._send(self._wording.ended(event))
        self._close(wire.error_fields(event)[2], f"{event.code.value}: {event.message}")

    def _on_closed(self, event: Closed) -> None:
        for item in self._items.take_all():
            if item.text.text:
                self._say_complete(item)  # the server goes away before the client's commit
        is_draining = event.reason == ErrorCode.DRAINING.value
        self._close(wire.CLOSE_GOING_AWAY if is_draining else wire.CLOSE_NORMAL, event.reason)

    # Items

    def _complete(self, item: Item, event: Final) -> None:
        self._announce(item)
        self._add_text(item, event)
        self._say_complete(item)

    def _add_text(self, item: Item, event: Final) -> None:
        item.num_samples += event.end_sample - event.start_sample
        self._send_delta(item, item.text.on_final(event.text))

    def _send_delta(self, item: Item, delta: str) -> None:
        if delta:
            self._send(self._wording.delta(item.item_id, delta))

    def _say_complete(self, item: Item) -> None:
        self._announce(item)
        self._send(self._wording.completed(item.item_id, item.text.text, item.num_samples))

    def _announce(self, item: Item) -> None:
        """Say once that the item's audio is complete."""
        if not item.is_committed:
            item.is_committed = True
            self._send(self._wording.committed(item.item_id, self._previous_item_id))
            self._previous_item_id = item.item_id

    def _new_item_id(self) -> str:
        self._num_items += 1
        return f"item_{self._session_id}_{self._num_items}"

    @property
    def _is_vllm(self) -> bool:
        return isinstance(self._wording, vllm.VllmWording)

    @property
    def _commits_itself(self) -> bool:
        """Items are the client's to end: no voice activity that it is told of."""
        return self._settings.detection is None

    @property
    def _ring_sample(self) -> int:
        """Where in the stream the next sample will lie."""
        audio = AudioFormat(sample_rate_hz=self._settings.format.rate_hz)
        return audio.ring_samples(self._num_samples)

    # The end

    def _refuse(self, message: str, event_id: str | None = None) -> None:
        self._num_bad += 1
        if self._num_bad <= MAX_BAD_MESSAGES:
            self._send(self._wording.refused("invalid_value", message, event_id))
            return
        text = f"too many bad messages; the last: {message}"
        error = Error(code=ErrorCode.BAD_MESSAGE, message=text)
        self._on_error(error)
        self._intents.append(FailIn(error))

    def _close(self, code: int, reason: str) -> None:
        self.close_code, self.close_reason = code, reason

    def _send(self, events: Iterable[msgspec.Struct]) -> None:
        self._out.extend(_encoder.encode(event).decode() for event in events)
