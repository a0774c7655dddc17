"""OpenAI's POST /v1/audio/transcriptions as a dialect: a form with a file in, one answer out.

And /v1/audio/translations, which differs in its task alone.

Pure; see the package for who calls it. The fields of a form may stand before the file or behind
it: the stream is asked for when the file begins, so that a client who may not come in hears of it
before the upload, and asked for once more when later fields change what is wanted. With
stream=true the text of each final is sent as it comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from protocol.client_messages import Closed, Error, Final, Hello, ServerMessage
from protocol.errors import ErrorCode

from ..errors import refusal
from ..http import JSON_TYPE
from . import (
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    HttpChunk,
    HttpReply,
    Intent,
    OpenStream,
    Output,
    ReopenStream,
)
from . import openai_http_events as wire
from .http_errors import headers_of, status_of
from .multipart import FileBegin, FileData, FileEnd, FormEvent, FormField, FormReader
from .openai_http_events import ErrorKind, FormRefused, TranscriptionOptions
from .openai_http_events import error_reply as error_reply
from .transcript_formats import EVENTS_TYPE, FileTranscript, stream_event

_FILE = "file"
_NO_CACHE = (("Cache-Control", "no-cache"),)


class OpenAiFileDialect:
    """One request's view of the API; `headers` are the request's, names in lower case."""

    name = "openai_http"

    def __init__(self, headers: Mapping[str, str], token: str, *, translates: bool = False) -> None:
        """`translates`: it is of /v1/audio/translations."""
        self._token = token
        self._translates = translates
        self._form = FormReader(headers.get("content-type", ""))
        self._intents: deque[Intent] = deque()
        self._out: list[Output] = []
        self._fields: dict[str, list[str]] = {}
        self._options: TranscriptionOptions | None = None
        self._hello: Hello | None = None  # what the stream was asked for with
        self._is_in_file = False  # the form is at the file's bytes
        self._transcript = FileTranscript()
        self._has_begun = False  # the head of the answer is out
        self._has_answered = False

    def receive_data(self, data: bytes | str) -> None:
        """The next bytes of the body; b"" when the client vanished, which ends nothing here."""
        if isinstance(data, str):
            raise AssertionError("text in the body of a request")
        if not self._has_answered:
            self._form.receive_data(data)
            self._read_form()

    def end_of_body(self) -> None:
        """The form is complete: decode the file, with what the form says by now."""
        self._form.end_of_data()
        self._read_form()
        if self._has_answered:
            return
        if self._hello is None:
            self._refuse("the form has no file", _FILE)
            return
        self._settle()
        if not self._has_answered:
            self._intents.append(EncodedEnd())

    def next_event(self) -> Intent | None:
        """The next intent."""
        return self._intents.popleft() if self._intents else None

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Collect finals; the close record brings the answer."""
        if self._has_answered:
            return
        if isinstance(event, Final):
            self._on_final(event)
        elif isinstance(event, Closed):
            self._on_closed(event)
        elif isinstance(event, Error):
            self._on_error(event)

    def data_to_send(self) -> list[Output]:
        """Take the parts of the answer that are queued."""
        out, self._out = self._out, []
        return out

    # The form

    def _read_form(self) -> None:
        while not self._has_answered:
            event = self._form.next_event()
            if event is None:
                return
            self._take(event)

    def _take(self, event: FormEvent) -> None:
        if isinstance(event, FileData):
            if self._is_in_file:
                self._intents.append(EncodedIn(event.data))
        elif isinstance(event, FormField):
            self._fields.setdefault(event.name, []).append(event.value)
        elif isinstance(event, FileBegin):
            self._on_file(event)
        elif isinstance(event, FileEnd):
            self._is_in_file = False
        else:
            self._refuse(event.message, None)

    def _on_file(self, event: FileBegin) -> None:
        if event.name != _FILE:
            return  # its data is skipped
        if self._hello is not None:
            self._refuse("a form has one file", _FILE)
            return
        self._is_in_file = True
        self._settle()

    def _settle(self) -> None:
        """Ask for a stream with what the form has said so far."""
        options = wire.options_of(self._fields, translates=self._translates)
        if isinstance(options, FormRefused):
            self._refuse(options.message, options.param)
            return
        hello, before = options.hello(self._token), self._hello
        self._options, self._hello = options, hello
        if before is None:
            self._intents.append(OpenStream(hello, any_model=True, container=Container.FILE))
        elif hello != before:
            self._intents.append(ReopenStream(hello, any_model=True))

    # The answer

    def _on_final(self, event: Final) -> None:
        delta = self._transcript.add(event)
        if delta and self._options is not None and self._options.is_streamed:
            self._send_events(stream_event(wire.TextDelta(delta=delta)))

    def _on_closed(self, event: Closed) -> None:
        if self._options is None:
            raise AssertionError("a stream ended that was not asked for")
        self._has_answered = True
        if self._options.is_streamed:
            self._send_events(self._transcript.done_event(event.ring_samples), is_last=True)
        else:
            content_type, body = self._transcript.render(self._options, event.ring_samples)
            self._out.append(HttpReply(200, content_type, body))

    def _send_events(self, data: bytes, is_last: bool = False) -> None:
        if self._has_begun:
            self._out.append(HttpChunk(data, is_last))
        else:
            self._has_begun = True
            self._out.append(HttpReply(200, EVENTS_TYPE, data, _NO_CACHE, is_last))

    def _on_error(self, event: Error) -> None:
        self._has_answered = True
        body = wire.session_error(event)
        if self._has_begun:
            self._send_events(stream_event(body), is_last=True)
        else:
            reply = HttpReply(status_of(event.code), JSON_TYPE, body, headers_of(event))
            self._out.append(reply)

    def _refuse(self, message: str, param: str | None) -> None:
        """The form is wrong: the answer, and the reason for the shell."""
        self._has_answered = True
        body = wire.error_reply(400, message, ErrorKind(wire.INVALID, None, param))
        self._out.append(HttpReply(400, JSON_TYPE, body))
        self._intents.append(FailIn(refusal(ErrorCode.BAD_MESSAGE, message)))
