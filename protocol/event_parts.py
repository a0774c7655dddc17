"""What events are made of: times, words, tokens, as arrays in both wire protocols. Pure."""

from __future__ import annotations

import msgspec


class Stages(msgspec.Struct, frozen=True, array_like=True):
    """Monotonic nanoseconds of one result's way through the server, on one host's clock."""

    receive_ns: int = 0  # the last audio it needed left the socket
    enqueue_ns: int = 0  # ... was announced to the service
    batch_start_ns: int = 0  # the step that made it began
    device_done_ns: int = 0  # the engine answered
    send_ns: int = 0  # the gateway queued it for the client


class Word(msgspec.Struct, frozen=True, array_like=True):
    """One recognised word: text, [start, end) in ring samples, confidence in [0, 1]."""

    text: str
    start_sample: int
    end_sample: int
    confidence: float


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One token of a transducer: its id, and the encoder frames (80 ms) from the final's start."""

    id: int
    frame: int  # where it was emitted
    duration: int  # frames that it covers
