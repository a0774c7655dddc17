"""Frames: the 16-byte header that both wire protocols share, and its incremental decoder.

The client protocol (magic "EW") and the gateway-service protocol (magic "ES") differ in their
messages, not in their framing. This file knows no message; it cuts a byte stream, split
anywhere, into (type, flags, payload) and checks what can be checked without looking inside.

    byte   0       1       2       3       4       5       6       7
         +-------+-------+-------+-------+-------+-------+-------+-------+
       0 |     magic     |version| type  |     flags     |   reserved    |
         +-------+-------+-------+-------+-------+-------+-------+-------+
       8 |        payload length         |           sequence            |
         +-------+-------+-------+-------+-------+-------+-------+-------+
      16 |  payload ...

All fields little-endian. version: major in the high nibble, minor in the low one. reserved: sent
as 0, ignored when received. sequence: counts the frames of one direction of one connection from 0
and wraps at 2**32; a jump means that bytes were lost.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .errors import ErrorCode, RemoteProtocolError

MAJOR = 1
MINOR = 0
VERSION = MAJOR << 4 | MINOR

CLIENT_MAGIC = int.from_bytes(b"EW", "little")
SERVICE_MAGIC = int.from_bytes(b"ES", "little")

HEADER = struct.Struct("<HBBHHII")
HEADER_BYTES = HEADER.size
MAX_PAYLOAD_BYTES = 1 << 20
SEQUENCE_MASK = 0xFFFF_FFFF


class Frame(NamedTuple):
    """One frame without its header. `minor` is the sender's minor version."""

    type: int
    flags: int
    payload: bytes
    minor: int = MINOR


def encode_frame(magic: int, type_: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    """Header and payload as one bytes object.

    Raises ValueError when the payload is over MAX_PAYLOAD_BYTES: the caller owns smaller limits.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
    return (
        HEADER.pack(magic, VERSION, type_, flags, 0, len(payload), sequence & SEQUENCE_MASK)
        + payload
    )


class FrameDecoder:
    """Bytes in, frames out; remembers at most one unfinished frame.

    `max_payload_bytes` is checked against the header, before any payload is kept, so a peer
    cannot make this side hold more than one header plus that many bytes.
    """

    def __init__(self, magic: int, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._magic = magic
        self._max_payload_bytes = max_payload_bytes
        self._buffer = bytearray()
        self.next_sequence = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the unfinished frame at hand."""
        return len(self._buffer)

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Store bytes; `next_frame` parses them."""
        self._buffer += data

    def take_rest(self) -> bytes:
        """The bytes that are not parsed yet, for somebody else to parse."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed.

        Raises RemoteProtocolError; after that the decoder must not be used again.
        """
        if len(self._buffer) < HEADER_BYTES:
            self._check_magic_early()
            return None
        magic, version, type_, flags, _, length, sequence = HEADER.unpack_from(self._buffer)
        self._check(magic, version, length, sequence)
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[HEADER_BYTES:end])
        del self._buffer[:end]
        self.next_sequence = (sequence + 1) & SEQUENCE_MASK
        return Frame(type_, flags, payload, version & 0x0F)

    def _check_magic_early(self) -> None:
        # A client of another protocol may never send 16 bytes; tell it at its second byte.
        if len(self._buffer) >= 2 and int.from_bytes(self._buffer[:2], "little") != self._magic:
            raise RemoteProtocolError(ErrorCode.BAD_MAGIC, self._magic_text())

    def _check(self, magic: int, version: int, length: int, sequence: int) -> None:
        if magic != self._magic:
            raise RemoteProtocolError(ErrorCode.BAD_MAGIC, self._magic_text())
        if version >> 4 != MAJOR:
            raise RemoteProtocolError(
                ErrorCode.BAD_VERSION,
                f"protocol version {version >> 4}.{version & 15} is not supported; "
                f"this side speaks {MAJOR}.{MINOR}",
            )
        if length > self._max_payload_bytes:
            raise RemoteProtocolError(
                ErrorCode.FRAME_TOO_LARGE,
                f"payload of {length} bytes is over the limit of {self._max_payload_bytes}",
            )
        if sequence != self.next_sequence:
            raise RemoteProtocolError(
                ErrorCode.BAD_SEQUENCE, f"frame {sequence} came, {self.next_sequence} was due"
            )

    def _magic_text(self) -> str:
        name = self._magic.to_bytes(2, "little").decode("ascii")
        return f"frames begin with the bytes {name!r}; this is another protocol"
