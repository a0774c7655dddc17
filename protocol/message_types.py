"""What the client protocol's messages are made of: their numbers, their base, limited values. Pure.

Types 0x01-0x3f travel from client to server, 0x40-0x7f from server to client. NUMBERED are the
events that a resumable session counts, at both ends, over all its connections: what a client has
not acknowledged of them it gets again.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, ClassVar, TypeAlias

import msgspec

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=131_072)]
Hotword: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
Secret: TypeAlias = Annotated[str, msgspec.Meta(max_length=4_096)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Ratio: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class LatencyClass(str, Enum):
    """What the server promises a session at its present load."""

    FULL = "full"  # partials every hop
    SLOW = "slow"  # partials less often
    FINALS_ONLY = "finals_only"


class MessageType(int, Enum):
    """The type byte of the frame header."""

    HELLO = 0x01
    AUDIO = 0x02
    FINALIZE = 0x03
    PING = 0x04
    BYE = 0x05
    RESUME = 0x06
    ACK = 0x07
    STARTED = 0x40
    WATERMARK = 0x41
    SPEECH_STARTED = 0x42
    SPEECH_STOPPED = 0x43
    NON_SPEECH = 0x44
    PARTIAL = 0x45
    FINAL = 0x46
    OVERFLOW = 0x47
    CLOSED = 0x48
    ERROR = 0x49
    PONG = 0x4A
    LATENCY = 0x4B
    END_OF_TURN = 0x4C
    RESUMED = 0x4D


FROM_CLIENT = frozenset(t for t in MessageType if t < 0x40)
FROM_SERVER = frozenset(t for t in MessageType if t >= 0x40)
NUMBERED = frozenset(
    {
        MessageType.SPEECH_STARTED,
        MessageType.SPEECH_STOPPED,
        MessageType.NON_SPEECH,
        MessageType.FINAL,
        MessageType.OVERFLOW,
        MessageType.END_OF_TURN,
        MessageType.ERROR,
        MessageType.CLOSED,
    }
)


class JsonMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the JSON messages; unknown keys are ignored, so that minors can add some."""

    TYPE: ClassVar[MessageType]
