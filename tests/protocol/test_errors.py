"""errors.py: codes are stable strings, and a refusal never echoes more than its bound."""

from __future__ import annotations

from protocol.errors import (
    MAX_MESSAGE_CHARS,
    RETRYABLE,
    EarwireError,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
)


def test_both_sides_mistakes_are_one_family_but_two_classes() -> None:
    assert issubclass(LocalProtocolError, EarwireError)
    assert issubclass(RemoteProtocolError, EarwireError)
    assert not issubclass(LocalProtocolError, RemoteProtocolError)


def test_a_remote_error_reads_as_code_and_reason() -> None:
    error = RemoteProtocolError(ErrorCode.AUDIO_GAP, "5 samples are missing")
    assert str(error) == "audio_gap: 5 samples are missing"
    assert (error.code, error.message) == (ErrorCode.AUDIO_GAP, "5 samples are missing")


def test_a_remote_error_quotes_a_bounded_part_of_the_peer() -> None:
    error = RemoteProtocolError(ErrorCode.BAD_MESSAGE, "x" * 60_000)
    assert len(error.message) == MAX_MESSAGE_CHARS


def test_codes_travel_as_their_lower_case_names() -> None:
    assert all(code.value == code.name.lower() for code in ErrorCode)


def test_a_mistake_of_the_client_is_never_retryable() -> None:
    mistakes = {code for code in ErrorCode if code.value.startswith(("bad_", "un", "audio_"))}
    assert ErrorCode.UNAUTHORIZED in mistakes
    assert not mistakes & RETRYABLE
