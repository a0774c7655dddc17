"""Deepgram's pre-recorded POST /v1/listen as a dialect: the body is the file, the query says the
rest, one JSON document is the answer.

Pure; see the package for who calls it. Headerless audio gets the head of a WAV file, so that every
upload goes the same way through a decoder. What the query means is in deepgram_query.py, how words
are written in deepgram_events.py.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Mapping

import msgspec

from protocol.client_messages import Closed, Error, Final, Hello, ServerMessage, Started
from protocol.errors import ErrorCode
from protocol.joined_text import joined

from ..errors import refusal
from ..http import JSON_TYPE
from . import Container, EncodedEnd, EncodedIn, FailIn, HttpReply, Intent, OpenStream, Output
from . import deepgram_events as wire
from .deepgram_query import ListenOptions, Refusal, detects, flag, listen_options, value
from .http_errors import headers_of, status_of
from .wav_header import wav_header

_NANOSECONDS = 1_000_000_000
_ERROR_NAMES = {
    401: "INVALID_AUTH",
    408: "SLOW_UPLOAD",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_SERVER_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


class _Error(msgspec.Struct, kw_only=True, omit_defaults=True):
    err_code: str
    err_msg: str
    request_id: str = ""


class _Metadata(msgspec.Struct, kw_only=True):
    transaction_key: str = "deprecated"
    request_id: str
    sha256: str  # of the body
    created: str
    duration: float
    channels: int = 1
    models: tuple[str, ...]
    model_info: dict[str, wire.ModelInfo]


class _Channel(msgspec.Struct, kw_only=True):
    alternatives: tuple[wire.Alternative, ...]
    detected_language: str | msgspec.UnsetType = msgspec.UNSET


class _Utterance(msgspec.Struct, kw_only=True):
    start: float
    end: float
    confidence: float
    channel: int = 0
    transcript: str
    words: tuple[wire.WordItem, ...]
    id: str


class _Results(msgspec.Struct, kw_only=True):
    channels: tuple[_Channel, ...]
    utterances: tuple[_Utterance, ...] | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct, kw_only=True):
    metadata: _Metadata
    results: _Results


_encode = msgspec.json.Encoder().encode


def error_reply(status: int, message: str, request_id: str = "") -> bytes:
    """http.ErrorBody of this API."""
    name = _ERROR_NAMES.get(status, "Bad Request")
    return _encode(_Error(err_code=name, err_msg=message, request_id=request_id))


class DeepgramFileDialect:
    """One request's view of the API; `headers` are the request's, names in lower case."""

    name = "deepgram_http"

    def __init__(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, list[str]],
        token: str,
        request_id: str,
        wall_s: int,
    ) -> None:
        """`wall_s` is Unix time."""
        self._request_id = request_id
        self._wall_s = wall_s
        self._intents: deque[Intent] = deque()
        self._out: list[Output] = []
        self._wants_utterances = flag(query, "utterances")
        self._detects_language = detects(query)
        self._sha256 = hashlib.sha256()
        self._head = b""  # of a WAV file, until the first bytes of the body
        self._is_formatted = False
        self._model = ""
        self._finals: list[Final] = []
        self._has_answered = False
        self._open(headers, query, token)

    def receive_data(self, data: bytes | str) -> None:
        """The next bytes of the body; b"" when the client vanished, which ends nothing here."""
        if isinstance(data, str):
            raise AssertionError("text in the body of a request")
        if self._has_answered or not data:
            return
        self._sha256.update(data)
        self._intents.append(EncodedIn(self._head + data))
        self._head = b""

    def end_of_body(self) -> None:
        """The file is complete: decode it."""
        if not self._has_answered:
            self._intents.append(EncodedEnd())

    def next_event(self) -> Intent | None:
        """The next intent; OpenStream is there from the start."""
        return self._intents.popleft() if self._intents else None

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Collect finals; the close record brings the answer."""
        if self._has_answered:
            return
        if isinstance(event, Final):
            if event.text:
                self._finals.append(event)
        elif isinstance(event, Started):
            self._model = event.model
        elif isinstance(event, Closed):
            self._answer(200, _encode(self._response(event)))
        elif isinstance(event, Error):
            status = status_of(event.code)
            body = error_reply(status, event.message, self._request_id)
            self._answer(status, body, headers_of(event))

    def data_to_send(self) -> list[Output]:
        """Take the answer, when it is there."""
        out, self._out = self._out, []
        return out

    def _open(self, headers: Mapping[str, str], query: Mapping[str, list[str]], token: str) -> None:
        refused = _refusal(headers, query)
        if refused is not None:
            self._refuse(refused)
            return
        options = listen_options(query)
        if isinstance(options, Refusal):
            self._refuse(options.message)
            return
        self._is_formatted = options.is_formatted
        audio = options.audio
        if audio.coding is not None:
            self._head = wav_header(audio.coding, audio.sample_rate_hz, audio.channels)
        hello = _hello(options, token)
        self._intents.append(OpenStream(hello, any_model=True, container=Container.FILE))

    def _refuse(self, message: str) -> None:
        self._answer(400, error_reply(400, message, self._request_id))
        self._intents.append(FailIn(refusal(ErrorCode.BAD_MESSAGE, message)))

    def _answer(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._has_answered = True
        self._out.append(HttpReply(status, JSON_TYPE, body, headers))

    def _response(self, closed: Closed) -> _Response:
        model_id = wire.model_uuid(self._model)
        metadata = _Metadata(
            request_id=self._request_id,
            sha256=self._sha256.hexdigest(),
            created=wire.created(self._wall_s * _NANOSECONDS),
            duration=wire.seconds(closed.ring_samples),
            models=(model_id,),
            model_info={model_id: wire.model_info(self._model)},
        )
        return _Response(metadata=metadata, results=self._results())

    def _results(self) -> _Results:
        words = tuple(word for final in self._finals for word in final.words)
        text = joined(final.text.strip() for final in self._finals)
        whole = wire.alternative(text, words, is_formatted=self._is_formatted)
        channel = _Channel(alternatives=(whole,))
        language = self._finals[0].language if self._finals else None
        if self._detects_language and language is not None:
            channel.detected_language = language
        results = _Results(channels=(channel,))
        if self._wants_utterances:
            results.utterances = tuple(self._utterance(final) for final in self._finals)
        return results

    def _utterance(self, final: Final) -> _Utterance:
        said = wire.alternative(final.text, final.words, is_formatted=self._is_formatted)
        return _Utterance(
            start=wire.seconds(final.start_sample),
            end=wire.seconds(final.end_sample),
            confidence=said.confidence,
            transcript=said.transcript,
            words=said.words,
            id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._request_id}/{final.utterance}")),
        )


def _refusal(headers: Mapping[str, str], query: Mapping[str, list[str]]) -> str | None:
    """What this server does not do, and must not seem to."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() == JSON_TYPE:
        return "send the audio itself: this server fetches nothing from a URL"
    if value(query, "callback") is not None:
        return "callback: this server answers the request itself"
    if flag(query, "multichannel"):
        return "multichannel: the channels of a file are mixed here"
    return None


def _hello(options: ListenOptions, token: str) -> Hello:
    return Hello(
        token=token,
        model=options.model,
        language=options.language,
        hotwords=options.hotwords,
        partials=False,
        client="deepgram_http",
    )
