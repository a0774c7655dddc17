"""What can go wrong between two ends, as exceptions and as codes on the wire.

    EarwireError
    |-- LocalProtocolError    this side asked for something the state does not allow (our bug)
    `-- RemoteProtocolError   the peer sent something illegal; carries the ErrorCode to answer with

Codes are strings: they appear in JSON, in logs and as metric labels, and a reader should not need
a table. RETRYABLE says which of them a client may answer by connecting again.
"""

from __future__ import annotations

from enum import Enum


class ErrorCode(str, Enum):
    """Why a session was refused or ended; the value is what travels."""

    BAD_MAGIC = "bad_magic"  # the first bytes are not this protocol
    BAD_VERSION = "bad_version"  # a newer major version
    BAD_FRAME = "bad_frame"  # header fields contradict each other
    FRAME_TOO_LARGE = "frame_too_large"
    BAD_SEQUENCE = "bad_sequence"  # a frame was lost or repeated
    UNKNOWN_TYPE = "unknown_type"
    BAD_MESSAGE = "bad_message"  # the payload does not decode
    UNEXPECTED_MESSAGE = "unexpected_message"  # right message, wrong state
    AUDIO_GAP = "audio_gap"  # the client sample offset jumped forward
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_LANGUAGE = "unknown_language"  # the model does not have it
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"  # this token, or this address, asks for too much
    BAD_AUDIO = "bad_audio"  # no decoder can read it
    TOO_LARGE = "too_large"  # an upload over the limit of bytes or seconds
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    SLOW_READER = "slow_reader"  # the client does not read its events
    AT_CAPACITY = "at_capacity"  # no free slot
    DRAINING = "draining"  # the server is going away
    SERVICE_LOST = "service_lost"  # the recognition process died
    RESUME_FAILED = "resume_failed"  # the session is not here any more
    RESUME_LATER = "resume_later"  # the worker that has it is not there just now
    INTERNAL = "internal"


RETRYABLE = frozenset(
    {
        ErrorCode.HANDSHAKE_TIMEOUT,
        ErrorCode.IDLE_TIMEOUT,
        ErrorCode.SLOW_READER,
        ErrorCode.RATE_LIMITED,
        ErrorCode.AT_CAPACITY,
        ErrorCode.DRAINING,
        ErrorCode.SERVICE_LOST,
        ErrorCode.RESUME_LATER,
        ErrorCode.INTERNAL,
    }
)


MAX_MESSAGE_CHARS = 300  # a refusal may quote the peer, but never echoes all that it sent


class EarwireError(Exception):
    """Everything this package raises."""


class LocalProtocolError(EarwireError):
    """This side tried to send what the session's state does not allow."""


class RemoteProtocolError(EarwireError):
    """The peer broke the protocol; `code` is what to tell it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        self.code = code
        self.message = message[:MAX_MESSAGE_CHARS]
        super().__init__(code, self.message)

    def __str__(self) -> str:
        return f"{self.code.value}: {self.message}"
