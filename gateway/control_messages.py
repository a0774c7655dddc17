"""What a person's command and a running server say to each other: JSON, a message a line. Pure.

The server answers a request with any number of Progress lines and ends with Done or Failed. Lines
come over the control socket (control_socket.py), which only the server's own user can open.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

MAX_LINE_BYTES = 16 * 1024
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class SwapModel(msgspec.Struct, frozen=True, tag="swap_model", forbid_unknown_fields=True):
    """Replace a model by `model`; `old` names which one, where the server has several."""

    model: Name
    old: Name | None = None


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """What is being done, for people."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done; nothing follows."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It could not be done, and all is as it was; nothing follows."""

    text: str


Answer: TypeAlias = Progress | Done | Failed

_encoder = msgspec.json.Encoder()
_request_decoder = msgspec.json.Decoder(SwapModel)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode_line(message: SwapModel | Answer) -> bytes:
    """One line, its end included."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> SwapModel | Failed:
    """The request of a line; what makes no sense is answered with what comes back."""
    try:
        return _request_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failed(f"no request: {error}")


def decode_answer(line: bytes) -> Answer:
    """The answer of a line; raises msgspec.DecodeError."""
    return _answer_decoder.decode(line)
