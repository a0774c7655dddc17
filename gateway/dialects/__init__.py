"""Client APIs as pure cores: one file each, all driven by the same connection shell.

A dialect turns what its transport received into intents (what the client wants of its stream) and
renders stream events, which are the native protocol's server messages, as its own API's events.
It knows no socket, no clock and no other dialect; time is an argument.

    shell: transport bytes -> receive_data -> next_event -> Intent -> the stream
           stream event -> handle_event -> data_to_send -> transport

A stream transport (native TCP) passes bytes in and takes bytes out; a WebSocket passes each
message in (str for text, bytes for binary) and sends each item of data_to_send as one message. An
HTTP dialect takes the pieces of a request's body and answers with HttpReply and HttpChunk.

Most clients have one stream. One that sends channels has a stream for each: `channel` counts them
from 0 in intents and in handle_event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

from protocol.client_messages import Error, Hello, Resume, ServerMessage, VadOptions

# Of one client in a dialect of messages; then the session ends: it is not talking to that API.
MAX_BAD_MESSAGES = 16


class Container(Enum):
    """Audio that a decoder process has to open before it is PCM, and when that can be."""

    LIVE = "live"  # as it comes: Ogg-Opus, WebM and the like from a microphone
    FILE = "file"  # once it is complete: any file, whose index may stand at its end


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Admit this client; answered by handle_event(Started) or handle_event(Error).

    `any_model`: a model that is not served is replaced by the server's own, because clients of a
    vendor's API name that vendor's models; Started says which it is.

    With a `container` the audio comes as EncodedIn, and its rate is the container's: the hello is
    checked at once (Error), Started follows when the decoder has said what is in it.
    """

    hello: Hello
    any_model: bool = False
    channel: int = 0
    container: Container | None = None


@dataclass(frozen=True, slots=True)
class ReopenStream:
    """Give a stream that had no audio yet another hello; answered as OpenStream is.

    For APIs whose clients name their format after the connection stands. Ignored after audio.
    """

    hello: Hello
    any_model: bool = False


@dataclass(frozen=True, slots=True)
class AudioIn:
    """Whole client samples in the declared format, continuing where the last ended."""

    pcm: bytes | memoryview
    channel: int = 0


@dataclass(frozen=True, slots=True)
class EncodedIn:
    """The next bytes of the container."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EncodedEnd:
    """The container is complete: decode it to its end, send what is left, then Closed."""


@dataclass(frozen=True, slots=True)
class FinalizeIn:
    """End the utterance here; answered by a Final with this finalize_id."""

    finalize_id: int
    channel: int = 0


@dataclass(frozen=True, slots=True)
class ConfigureIn:
    """From here on the stream's voice activity detection works like this."""

    vad: VadOptions
    channel: int = 0


@dataclass(frozen=True, slots=True)
class ByeIn:
    """No more audio on any channel; send what is left, then Closed."""

    reason: str = "client"


@dataclass(frozen=True, slots=True)
class AnsweredIn:
    """A message that the dialect has answered itself, such as a ping: nothing to do, but work."""


@dataclass(frozen=True, slots=True)
class FailIn:
    """The client broke its API; what it should read about it is in data_to_send already."""

    error: Error


class ResumingDialect(Protocol):
    """What is asked of a dialect whose client wants to go on with its session."""

    def adopt(self, hello: Hello) -> None:
        """The session is here, and this is how it began; Resumed follows."""

    def hand_over(self, resume: Resume) -> bytes:
        """The session is elsewhere: the client's bytes so far. What comes after them is not
        looked at: it becomes RelayIn, and the shell passes the other side's bytes on itself.
        """

    def take_back(self) -> None:
        """Nobody was there, and nothing was said: handle_event answers after all."""


@dataclass(frozen=True, slots=True)
class ResumeIn:
    """Go on with a session that another connection began; answered by handle_event(Resumed) and
    the events that its client does not have, or by handle_event(Error).
    """

    resume: Resume
    dialect: ResumingDialect


@dataclass(frozen=True, slots=True)
class AckIn:
    """The client has so many numbered events of its session."""

    events_received: int


@dataclass(frozen=True, slots=True)
class RelayIn:
    """Bytes for the worker that has the session."""

    data: bytes


# Samples in ring format and the time, to the ring; False when they were not taken (Stream.write).
WriteAudio: TypeAlias = Callable[["bytes | memoryview", int], bool]

Intent: TypeAlias = (
    OpenStream
    | ReopenStream
    | AudioIn
    | EncodedIn
    | EncodedEnd
    | FinalizeIn
    | ConfigureIn
    | ByeIn
    | AnsweredIn
    | FailIn
    | ResumeIn
    | AckIn
    | RelayIn
)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """The head of an HTTP dialect's answer, and its body, which HttpChunks go on with."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = field(default=())
    is_last: bool = True  # the body is whole: its length is sent ahead


@dataclass(frozen=True, slots=True)
class HttpChunk:
    """More of a body that was begun without its length."""

    body: bytes
    is_last: bool = False


Output: TypeAlias = bytes | str | HttpReply | HttpChunk


class Dialect(Protocol):
    """What the shell needs of a client API."""

    name: str  # metric label: "native", "together", "openai", "deepgram", "wyoming", "http"

    def receive_data(self, data: bytes | str) -> None:
        """Take transport data (see the module text); b"" says that the client sends no more."""

    def next_event(self) -> Intent | None:
        """The next intent; None when more data is needed. Never raises for client input."""

    def handle_event(self, event: ServerMessage, now_ns: int, channel: int = 0) -> None:
        """Render one stream event. Unknown and unneeded ones are ignored."""

    def data_to_send(self) -> Sequence[Output]:
        """Take what is queued for the client."""


class WebDialect(Dialect, Protocol):
    """A dialect over WebSocket whose close code and handshake are its API's own.

    The transport stores the loop's time in `now_ns` before receive_data, and closes with
    `close_code` once it is set and data_to_send was sent. An empty binary message is passed on only
    where `empty_message_ends`: to receive_data it is the end of input.
    """

    empty_message_ends: bool
    now_ns: int
    close_code: int | None
    close_reason: str


class FileDialect(Dialect, Protocol):
    """A dialect over HTTP: receive_data takes the pieces of one request's body, and the answer is
    one HttpReply with the HttpChunks that it says will follow.
    """

    def end_of_body(self) -> None:
        """The body is complete."""
