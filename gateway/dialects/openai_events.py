"""OpenAI Realtime transcription as data: messages of clients, events of the server, errors.

Pure tables, and Wording, which writes what happened in the API's words. openai_vllm.py is another
wording of the same; openai_realtime.py holds the state machine and calls whichever is in use.
"""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import DECODE_ERRORS, Error
from protocol.errors import ErrorCode

# Close codes. OpenAI's clients read 1000 and 1001 as a plain end, and connect again after others.
CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_POLICY = 1008
CLOSE_INTERNAL = 1011
CLOSE_TRY_AGAIN = 1013

MAX_EVENT_ID_CHARS = 512  # of a client's event_id, where an answer repeats it

INVALID_REQUEST = "invalid_request_error"
_TRANSCRIPTION = "conversation.item.input_audio_transcription."


class ClientMessage(msgspec.Struct, gc=False):
    """Any message of a client: one decode, base64 included; fields that are not its own default."""

    type: str
    event_id: str | None = None
    audio: bytes = b""  # input_audio_buffer.append
    session: msgspec.Raw = msgspec.Raw()  # session.update, transcription_session.update
    model: str | None = None  # session.update as vLLM's clients send it
    final: bool = False  # input_audio_buffer.commit as vLLM's clients send it


_message_decoder = msgspec.json.Decoder(ClientMessage)


def decode_message(text: str) -> ClientMessage | str:
    """The message, or why it is none."""
    try:
        return _message_decoder.decode(text)
    except DECODE_ERRORS as error:
        return f"not a message of this API: {error}"


class Event(msgspec.Struct, tag_field="type", kw_only=True):
    """Of the server."""

    event_id: str


class SessionCreated(Event, tag="session.created", kw_only=True):
    """The first event, always. `id` and `created` (Unix seconds) are where vLLM's clients look."""

    id: str
    created: int
    session: dict[str, Any]


class SessionUpdated(Event, tag="session.updated", kw_only=True):
    """The answer to session.update: what holds now."""

    session: dict[str, Any]


class BetaSessionUpdated(Event, tag="transcription_session.updated", kw_only=True):
    """The answer to transcription_session.update."""

    session: dict[str, Any]


class SpeechStarted(Event, tag="input_audio_buffer.speech_started", kw_only=True):
    """In milliseconds of all audio of the session, padding included."""

    audio_start_ms: int
    item_id: str


class SpeechStopped(Event, tag="input_audio_buffer.speech_stopped", kw_only=True):
    """The same for the end."""

    audio_end_ms: int
    item_id: str


class Committed(Event, tag="input_audio_buffer.committed", kw_only=True):
    """The audio of this item is complete."""

    item_id: str
    previous_item_id: str | None


class Cleared(Event, tag="input_audio_buffer.cleared", kw_only=True):
    """What was appended and not committed is forgotten."""


class _InputAudio(msgspec.Struct, tag_field="type", tag="input_audio", kw_only=True):
    transcript: str | None = None  # it comes in events of its own


class ItemObject(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """A committed piece of audio as a message of the user."""

    id: str
    object: str = "realtime.item"
    status: str = "completed"
    role: str = "user"
    content: tuple[_InputAudio, ...] = (_InputAudio(),)


class ItemAdded(Event, tag="conversation.item.added", kw_only=True):
    """GA's announcement of an item, in two events."""

    previous_item_id: str | None
    item: ItemObject


class ItemDone(Event, tag="conversation.item.done", kw_only=True):
    """The second."""

    previous_item_id: str | None
    item: ItemObject


class ItemCreated(Event, tag="conversation.item.created", kw_only=True):
    """The beta's only one."""

    previous_item_id: str | None
    item: ItemObject


class Delta(Event, tag=_TRANSCRIPTION + "delta", kw_only=True):
    """Text to append to what the item has."""

    item_id: str
    content_index: int = 0
    delta: str


class Usage(msgspec.Struct, tag_field="type", tag="duration", kw_only=True):
    """What the item has cost: seconds of audio transcribed."""

    seconds: float


class Completed(Event, tag=_TRANSCRIPTION + "completed", kw_only=True):
    """The text of an item for good."""

    item_id: str
    content_index: int = 0
    transcript: str
    usage: Usage


class ErrorInfo(msgspec.Struct, kw_only=True):
    """Of both error events."""

    type: str
    code: str
    message: str
    param: str | None = None


class ErrorReplyInfo(ErrorInfo, kw_only=True):
    """`event_id` is that of the client's message."""

    event_id: str | None = None


class Failed(Event, tag=_TRANSCRIPTION + "failed", kw_only=True):
    """There will be no text of this item."""

    item_id: str
    content_index: int = 0
    error: ErrorInfo


class ErrorReply(Event, tag="error", kw_only=True):
    """A message was not taken, or the session ends for a reason that trying again does not help."""

    error: ErrorReplyInfo


_SERVER_ERROR = "server_error"
_CODES = {
    ErrorCode.UNAUTHORIZED: ("invalid_api_key", INVALID_REQUEST, CLOSE_POLICY),
    ErrorCode.UNKNOWN_MODEL: ("model_not_found", INVALID_REQUEST, CLOSE_POLICY),
    ErrorCode.RATE_LIMITED: ("rate_limit_exceeded", "rate_limit_error", CLOSE_TRY_AGAIN),
    ErrorCode.INTERNAL: ("internal_error", _SERVER_ERROR, CLOSE_INTERNAL),
}


def error_fields(error: Error) -> tuple[str, str, int]:
    """OpenAI's code, its error type and the close code for one of ours."""
    if error.retryable:
        known = (error.code.value, _SERVER_ERROR, CLOSE_TRY_AGAIN)
    else:
        known = (error.code.value, INVALID_REQUEST, CLOSE_POLICY)
    return _CODES.get(error.code, known)


class Wording:
    """What happened, as OpenAI's events. It numbers them."""

    def __init__(self) -> None:
        self.is_beta = False  # the client's last update was of the old shape
        self._num_events = 0

    def created(
        self, session_id: str, created_s: int, session: dict[str, Any]
    ) -> list[msgspec.Struct]:
        """The session stands."""
        return [
            SessionCreated(event_id=self._id(), id=session_id, created=created_s, session=session)
        ]

    def updated(self, session: dict[str, Any]) -> list[msgspec.Struct]:
        """An update holds."""
        update = BetaSessionUpdated if self.is_beta else SessionUpdated
        return [update(event_id=self._id(), session=session)]

    def speech_started(self, item_id: str, start_sample: int) -> list[msgspec.Struct]:
        """A turn begins."""
        start_ms = start_sample * 1000 // RING_RATE_HZ
        return [SpeechStarted(event_id=self._id(), audio_start_ms=start_ms, item_id=item_id)]

    def speech_stopped(self, item_id: str, end_sample: int) -> list[msgspec.Struct]:
        """A turn ends."""
        end_ms = end_sample * 1000 // RING_RATE_HZ
        return [SpeechStopped(event_id=self._id(), audio_end_ms=end_ms, item_id=item_id)]

    def cleared(self) -> list[msgspec.Struct]:
        """The buffer is empty."""
        return [Cleared(event_id=self._id())]

    def committed(self, item_id: str, previous: str | None) -> list[msgspec.Struct]:
        """An item's audio is complete."""
        item = ItemObject(id=item_id)
        first = Committed(event_id=self._id(), item_id=item_id, previous_item_id=previous)
        kinds = (ItemCreated,) if self.is_beta else (ItemAdded, ItemDone)
        return [
            first,
            *(k(event_id=self._id(), previous_item_id=previous, item=item) for k in kinds),
        ]

    def delta(self, item_id: str, text: str) -> list[msgspec.Struct]:
        """An item's text grows."""
        return [Delta(event_id=self._id(), item_id=item_id, delta=text)]

    def completed(self, item_id: str, text: str, num_samples: int) -> list[msgspec.Struct]:
        """An item's text is complete; it has cost this much audio."""
        usage = Usage(seconds=num_samples / RING_RATE_HZ)
        return [Completed(event_id=self._id(), item_id=item_id, transcript=text, usage=usage)]

    def failed(self, item_id: str, error: Error) -> list[msgspec.Struct]:
        """An item will have no text."""
        code, kind, _ = error_fields(error)
        info = ErrorInfo(type=kind, code=code, message=error.message)
        return [Failed(event_id=self._id(), item_id=item_id, error=info)]

    def ended(self, error: Error) -> list[msgspec.Struct]:
        """The session ends. What a client may try again is said by the close code alone: clients
        that read an `error` give up.
        """
        if error.retryable:
            return []
        code, kind, _ = error_fields(error)
        info = ErrorReplyInfo(type=kind, code=code, message=error.message)
        return [ErrorReply(event_id=self._id(), error=info)]

    def refused(self, code: str, message: str, event_id: str | None) -> list[msgspec.Struct]:
        """One message of the client, with that event_id, was not taken."""
        if event_id is not None:
            event_id = event_id[:MAX_EVENT_ID_CHARS]
        info = ErrorReplyInfo(type=INVALID_REQUEST, code=code, message=message, event_id=event_id)
        return [ErrorReply(event_id=self._id(), error=info)]

    def _id(self) -> str:
        self._num_events += 1
        return f"event_{self._num_events}"
