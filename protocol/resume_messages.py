"""Messages of a session that outlives its connection. Pure.

Part of the client protocol (client_messages.py, which knows how each is encoded). A client that
lost its connection says Resume in place of Hello on the next one; with Ack it says how many
numbered events it has, so that the server need not keep them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec

from .message_types import Count, JsonMessage, LatencyClass, MessageType, Secret

ACK_EVERY_EVENTS = 16  # numbered events after which a client says Ack at the latest
ACK_WITHIN_MS = 1_000  # and so long after one
MAX_RESUME_TOKEN_CHARS = 256


class Resume(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """First message of a client on a new connection: go on with the session of this token."""

    TYPE: ClassVar[MessageType] = MessageType.RESUME
    token: Secret = ""  # who the client is, as in its hello
    resume_token: Annotated[str, msgspec.Meta(max_length=MAX_RESUME_TOKEN_CHARS)]
    events_received: Count  # numbered events of the session, over all its connections


class Resumed(JsonMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The session goes on here; behind it come the events the client does not have."""

    TYPE: ClassVar[MessageType] = MessageType.RESUMED
    session_id: str
    client_samples: Count  # audio before this is in the server; the next Audio begins here
    finalizes_received: Count  # Finalize messages taken in this session
    bye_received: bool = False  # no more audio: the state is ENDING
    latency_class: LatencyClass = LatencyClass.FULL
    hop_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The client has so many numbered events of the session."""

    TYPE: ClassVar[MessageType] = MessageType.ACK
    events_received: int
