"""multipart/form-data as it comes, under limits: python-multipart without its callbacks.

Pure: pieces of a body in, events out. Fields are small and come out whole; the bytes of a file come
out as they are received. A dialect calls it. It never raises for what a client sends: a broken or
oversized form is an event, and the last one.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

FORM_TYPE = "multipart/form-data"
MAX_PARTS = 128  # a form may repeat a field for each of its values
MAX_FIELD_BYTES = 64 * 1024  # of all fields together, names included; files are not counted
MAX_HEADER_BYTES = 4 * 1024  # of one part
MAX_BOUNDARY_CHARS = 70  # RFC 2046, section 5.1.1

# The library logs what a client got wrong; the client is told instead.
_silence = logging.getLogger("earwire.multipart")
_silence.disabled = True


@dataclass(frozen=True, slots=True)
class FormField:
    """A whole field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegin:
    """A file begins: its bytes follow, then FileEnd."""

    name: str  # of the field
    filename: str


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file is complete."""


@dataclass(frozen=True, slots=True)
class BadForm:
    """Not a form, or too large a one; nothing follows."""

    message: str


FormEvent: TypeAlias = FormField | FileBegin | FileData | FileEnd | BadForm


class _FormError(Exception):
    """Internal: leaves the library's callbacks, and becomes a BadForm."""


class FormReader:
    """One form; `content_type` is the request's header."""

    def __init__(self, content_type: str) -> None:
        self._events: deque[FormEvent] = deque()
        self._parser: MultipartParser | None = None  # None: not a form, or broken
        self._has_begun = False  # something but newlines came
        self._is_complete = False
        self._num_parts = 0
        self._field_bytes = 0
        self._header_bytes = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._is_file = False
        self._open(content_type)

    def receive_data(self, data: bytes) -> None:
        """The next bytes of the body, split anywhere."""
        if not self._has_begun:  # the library skips leading newlines as far as one piece has them
            data = data.lstrip(b"\r\n")
            self._has_begun = bool(data)
        if self._parser is None or not data:
            return
        try:
            self._parser.write(data)
        except FormParserError:
            self._fail("the form is not multipart/form-data as RFC 7578 has it")
        except _FormError as error:
            self._fail(str(error))

    def end_of_data(self) -> None:
        """The body is complete; the form should be."""
        if self._parser is not None and not self._is_complete:
            self._fail("the form ends before its closing boundary")

    def next_event(self) -> FormEvent | None:
        """The next event; None when more bytes are needed."""
        return self._events.popleft() if self._events else None

    def _open(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != FORM_TYPE.encode():
            self._fail(f"the request's Content-Type has to be {FORM_TYPE}")
        elif not 0 < len(boundary) <= MAX_BOUNDARY_CHARS:
            self._fail(f"{FORM_TYPE} needs a boundary of at most {MAX_BOUNDARY_CHARS} characters")
        else:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_name,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
            self._parser.logger = _silence

    def _fail(self, message: str) -> None:
        self._parser = None
        self._events.append(BadForm(message))

    # What the parser calls

    def _on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise _FormError(f"a form may have {MAX_PARTS} parts here")
        self._header_bytes = 0
        self._disposition = b""

    def _on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, num_bytes: int) -> None:
        self._header_bytes += num_bytes
        if self._header_bytes > MAX_HEADER_BYTES:
            raise _FormError(f"the headers of a part may have {MAX_HEADER_BYTES} bytes")

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _FormError("every part needs a Content-Disposition: form-data with a name")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if self._is_file:
            self._events.append(FileBegin(self._name, _text(options[b"filename"])))
        else:
            self._value.clear()
            self._count_field(len(self._name))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._events.append(FileData(data[start:end]))
        else:
            self._count_field(end - start)
            self._value += data[start:end]

    def _count_field(self, num_bytes: int) -> None:
        self._field_bytes += num_bytes
        if self._field_bytes > MAX_FIELD_BYTES:
            raise _FormError(f"the fields of a form may have {MAX_FIELD_BYTES} bytes")

    def _on_part_end(self) -> None:
        field = FormField(self._name, _text(self._value))
        self._events.append(FileEnd() if self._is_file else field)

    def _on_end(self) -> None:
        self._is_complete = True


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace")
