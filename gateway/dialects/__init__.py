"""Client APIs as pure cores: one file each, all driven by the same connection shell.

A dialect turns what its transport received into intents (what the client wants of its stream) and
renders stream events, which are the native protocol's server messages, as its own API's events.
It knows no socket, no clock and no other dialect; time is an argument.

    shell: transport bytes -> receive_data -> next_event -> Intent -> the stream
           stream event -> handle_event -> data_to_send -> transport

A stream transport (native TCP) passes bytes in and takes bytes out; a WebSocket passes each
message in (str for text, bytes for binary) and sends each item of data_to_send as one message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from protocol.client_messages import Error, Hello, ServerMessage, VadOptions


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Admit this client; answered by handle_event(Started) or handle_event(Error).

    `any_model`: a model that is not served is replaced by the server's own, because clients of a
    vendor's API name that vendor's models; Started says which it is.
    """

    hello: Hello
    any_model: bool = False


@dataclass(frozen=True, slots=True)
class AudioIn:
    """Whole client samples in the declared format, continuing where the last ended."""

    pcm: bytes | memoryview


@dataclass(frozen=True, slots=True)
class FinalizeIn:
    """End the utterance here; answered by a Final with this finalize_id."""

    finalize_id: int


@dataclass(frozen=True, slots=True)
class ConfigureIn:
    """From here on the stream's voice activity detection works like this."""

    vad: VadOptions


@dataclass(frozen=True, slots=True)
class ByeIn:
    """No more audio; send what is left, then Closed."""

    reason: str = "client"


@dataclass(frozen=True, slots=True)
class FailIn:
    """The client broke its API; what it should read about it is in data_to_send already."""

    error: Error


# Samples in ring format and the time, to the ring; False when they were not taken (Stream.write).
WriteAudio: TypeAlias = Callable[["bytes | memoryview", int], bool]

Intent: TypeAlias = OpenStream | AudioIn | FinalizeIn | ConfigureIn | ByeIn | FailIn


class Dialect(Protocol):
    """What the shell needs of a client API."""

    name: str  # metric label: "native", "together"

    def receive_data(self, data: bytes | str) -> None:
        """Take transport data (see the module text); b"" says that the client sends no more."""

    def next_event(self) -> Intent | None:
        """The next intent; None when more data is needed. Never raises for client input."""

    def handle_event(self, event: ServerMessage, now_ns: int) -> None:
        """Render one stream event. Unknown and unneeded ones are ignored."""

    def data_to_send(self) -> list[bytes | str]:
        """Take what is queued for the client."""
