"""Lines of the control socket."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control_messages import (
    Answer,
    Done,
    Failed,
    Progress,
    SwapModel,
    decode_answer,
    decode_request,
    encode_line,
)


@pytest.mark.parametrize("answer", [Progress("loading\nit"), Done("done"), Failed("not done")])
def test_answers_come_back_from_their_lines(answer: Answer) -> None:
    line = encode_line(answer)
    assert line.count(b"\n") == 1
    assert decode_answer(line) == answer


@pytest.mark.parametrize("request_", [SwapModel("m"), SwapModel("m", "o\n")])
def test_requests_come_back_from_their_lines(request_: SwapModel) -> None:
    line = encode_line(request_)
    assert line.count(b"\n") == 1
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b'{"type":"swap_model"}', b'{"type":"swap_model","model":""}',
        b'{"type":"swap_model","model":"m","colour":"red"}', b'{"type":"other","model":"m"}',
        b'{"type":"swap_model","model":"\xff"}', b"[" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_answered(line: bytes) -> None:
    assert isinstance(decode_request(line), Failed)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_answer(line: bytes) -> None:
    assert isinstance(decode_request(line), Failed | SwapModel)


def test_what_is_no_answer_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_answer(b'{"type":"surprise"}')
