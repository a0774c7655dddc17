"""Forms in every split, under limits, and hostile ones as values."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.multipart import (
    MAX_BOUNDARY_CHARS,
    MAX_FIELD_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARTS,
    BadForm,
    FileBegin,
    FileData,
    FileEnd,
    FormEvent,
    FormField,
    FormReader,
)
from tests.harness import chunkings, cut_at

TYPE = "multipart/form-data; boundary=xyz"
AUDIO = b"RIFF\r\n--xy\r\n\r\n--xyzz\r\n-"  # looks like a boundary, again and again


def field(name: str, value: bytes) -> bytes:
    return (
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
    )


def file(name: str, content: bytes) -> bytes:
    head = (
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    return head.encode() + content + b"\r\n"


END = b"--xyz--\r\n"
FORM = field("model", b"whisper-1") + file("file", AUDIO) + field("t[]", "wörd".encode()) + END


def read(chunks: list[bytes], content_type: str = TYPE) -> list[FormEvent]:
    """Events, with the data of files joined."""
    reader = FormReader(content_type)
    events: list[FormEvent] = []
    for chunk in [*chunks, None]:
        if chunk is None:
            reader.end_of_data()
        else:
            reader.receive_data(chunk)
        while (event := reader.next_event()) is not None:
            if isinstance(event, FileData) and events and isinstance(events[-1], FileData):
                events[-1] = FileData(events[-1].data + event.data)
            else:
                events.append(event)
    return events


def test_a_form_in_every_split() -> None:
    expected = [
        FormField("model", "whisper-1"),
        FileBegin("file", "a.wav"),
        FileData(AUDIO),
        FileEnd(),
        FormField("t[]", "wörd"),
    ]
    for chunks in chunkings(FORM):
        assert read(chunks) == expected


def test_quoted_boundaries_and_what_follows_the_end() -> None:
    events = read([FORM + b"epilogue"], 'Multipart/Form-Data; charset=utf-8; boundary="xyz"')
    assert len(events) == 5
    assert read([END]) == []
    assert read([file("file", b"") + END]) == [FileBegin("file", "a.wav"), FileEnd()]


def test_newlines_may_come_first_and_nothing_else_in_every_split() -> None:
    for chunks in chunkings(b"\r\n\n" + file("file", b"abc") + END):
        assert read(chunks) == [FileBegin("file", "a.wav"), FileData(b"abc"), FileEnd()]
    for chunks in chunkings(b"\r\nnoise" + FORM):
        (bad,) = read(chunks)
        assert isinstance(bad, BadForm)


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("", "Content-Type has to be multipart/form-data"),
        ("application/json", "Content-Type has to be multipart/form-data"),
        ("multipart/form-data", "needs a boundary"),
        ("multipart/form-data; boundary=" + "x" * (MAX_BOUNDARY_CHARS + 1), "needs a boundary"),
        # The parser of mail headers raises for these; python-multipart once used it.
        ("multipart/form-data; boundary*0=a; boundary*=b", "needs a boundary"),
        ("multipart/form-data; boundary*" + "9" * 5_000 + "=xyz", "needs a boundary"),
    ],
)
def test_what_is_no_form(content_type: str, message: str) -> None:
    (bad,) = read([FORM], content_type)
    assert isinstance(bad, BadForm)
    assert message in bad.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "RFC 7578"),
        (b"", "closing boundary"),
        (FORM[:-8], "closing boundary"),
        (b"--xyz\r\n\r\nvalue\r\n" + END, "with a name"),
        (b"--xyz\r\nContent-Disposition: attachment\r\n\r\n\r\n" + END, "with a name"),
        (b"--xyz\r\nA: " + b"a" * (MAX_HEADER_BYTES + 1), "headers of a part"),
        (b"--xyz\r\n" + b"a" * (MAX_HEADER_BYTES + 1), "headers of a part"),
        (field("a", b"") * (MAX_PARTS + 1), f"{MAX_PARTS} parts"),
        (field("a", bytes(MAX_FIELD_BYTES)), "fields of a form"),
        (field("a", bytes(MAX_FIELD_BYTES // 2)) * 2, "fields of a form"),
        (field("a" * 3_000, b"") * 25, "fields of a form"),
    ],
)
def test_broken_and_oversized_forms_end_with_their_reason(body: bytes, message: str) -> None:
    for chunks in ([body], cut_at(body, range(0, len(body), 97))):
        *_, bad = read(chunks)
        assert isinstance(bad, BadForm)
        assert message in bad.message


def test_nothing_is_read_after_the_first_fault() -> None:
    assert len(read([b"{}", FORM])) == 1


def test_the_size_of_files_is_not_limited_here() -> None:
    events = read([file("file", bytes(MAX_FIELD_BYTES * 2)) + END])
    assert not any(isinstance(event, BadForm) for event in events)


def test_hostile_forms_leave_no_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    read([b"--xyz\r\n\x00: a\r\n"])
    assert caplog.records == []


PIECES = [b"--xyz", b"\r\n", b"--", b'name="a"', b":", b"\x00", field("a", b"b"), file("f", b"c")]


@given(st.lists(st.sampled_from(PIECES)))
def test_no_bytes_raise_and_nothing_follows_the_end(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    events = read(cut_at(body, range(0, len(body), 5)))
    assert not any(isinstance(event, BadForm) for event in events[:-1])
